"""Records to records: splits, parts, joins and augmented copies."""
