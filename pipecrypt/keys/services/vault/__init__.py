"""The key service `vault://`. `service` is where to begin."""
