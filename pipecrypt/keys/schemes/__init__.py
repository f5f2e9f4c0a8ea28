"""The key services of pipecrypt, one file with its `SERVICE` a scheme, over one `caller`; keystores take three files."""
