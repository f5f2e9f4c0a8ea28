"""What a caller asks for, checked once, and carried through a run as it is."""
