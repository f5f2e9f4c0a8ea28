"""The key service `aws-kms://`. `service` is where to begin."""
