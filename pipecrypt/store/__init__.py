"""Files on any storage: listed, read by range, published whole or not at all."""
