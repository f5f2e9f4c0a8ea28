"""The key service `gcp-kms://`. `service` is where to begin."""
