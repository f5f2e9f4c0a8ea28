"""What a file's footer says: read, opened with its keys, walked over, inspected."""
