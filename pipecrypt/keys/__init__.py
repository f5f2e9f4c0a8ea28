"""Keys: references, key services, sessions, key material, grants, signers and trust."""
