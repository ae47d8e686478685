"""Looking at data without changing it: checks, overlaps, statistics, pictures of pictures."""
