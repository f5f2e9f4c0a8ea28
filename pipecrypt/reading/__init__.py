"""Read encrypted files back, through pyarrow. Encrypting is left to pipeline."""
