"""Open what was signed: whom a reader trusts, what was signed, and whether a file is that before a byte is used."""
