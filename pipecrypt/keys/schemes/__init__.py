"""The key services of pipecrypt, one file a scheme, over one `caller`; each holds its `SERVICE`."""
