"""Blobs, files of any bytes: encrypted as a table of their blocks, decrypted, shown by range."""
