"""Turn any tabular input into plaintext Parquet row groups in memory. Storage and encryption are left to others."""
