"""From a user's own picture files to records: listing, decoding, balancing, reporting."""
