"""Verify what was signed, whole: every file of a dataset, with a report of all that is not as it was signed."""
