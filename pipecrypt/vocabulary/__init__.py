"""What every room above needs and that belongs to none: contexts, data keys, documents, local state, time, retries."""
