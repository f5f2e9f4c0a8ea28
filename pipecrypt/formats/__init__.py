"""Other formats to plaintext row groups; other rooms use its options, compression, batches and row_groups."""
