"""The key services of pipecrypt: a file with a `SERVICE` for each scheme, over one `caller`; keystores take three."""
