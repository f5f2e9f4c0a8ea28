"""Share a dataset with more keys, and rotate: find its KEKs and grants, add and remove grants, rekey files."""
