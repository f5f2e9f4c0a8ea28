"""What a run will do, decided and shown before anything is made."""
