"""Bytes in and out: read ahead, and written behind."""
