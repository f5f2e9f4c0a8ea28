"""What every room may say: contexts, secrets, documents, clocks, and how a call is tried again."""
