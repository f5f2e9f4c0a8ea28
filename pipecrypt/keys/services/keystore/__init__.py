"""The key service `keystore://` and its keys. `service` is where to begin."""
