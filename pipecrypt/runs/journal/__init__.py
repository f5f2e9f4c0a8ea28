"""What runs leave in a sink, so that later ones know what was done: journal, lock, leftovers."""
