"""The key service `azure-kv://`. `service` is where to begin."""
