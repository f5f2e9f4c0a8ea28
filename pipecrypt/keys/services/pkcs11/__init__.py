"""The key service `pkcs11:`. `service` is where to begin."""
