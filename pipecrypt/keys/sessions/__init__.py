"""Data keys made and opened with master keys, and the KEKs between them. Asking key services is left to services."""
