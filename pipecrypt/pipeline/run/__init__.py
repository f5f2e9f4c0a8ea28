"""A run from its request to its report, and the protocol of a run that writes a directory. Start with run."""
