"""Cryptography, bytes to bytes. What is bound and which key is used is left to the rooms above."""
