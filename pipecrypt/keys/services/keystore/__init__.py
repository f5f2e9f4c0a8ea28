"""The key service `keystore://` and the making of its keys. `making` is where to begin."""
