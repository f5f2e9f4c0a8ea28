"""Tables: encrypted, decrypted, shown and cut, without decoding a page."""
