"""Cryptography, bytes to bytes: primitives by their names."""
