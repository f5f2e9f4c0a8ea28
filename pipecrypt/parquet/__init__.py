"""The engine: plaintext Parquet bytes to encrypted Parquet bytes and back. Keys and storage are left to others."""
