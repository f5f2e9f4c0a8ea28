"""What was written and by whom: the signed statement and its file list."""
