"""Key references, key services, sessions and key material. Cryptography is left to crypto/, data files to storage/."""
