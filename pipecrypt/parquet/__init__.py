"""The engine: plaintext Parquet bytes to encrypted Parquet bytes and back. `files` is its door."""
