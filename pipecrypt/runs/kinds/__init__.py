"""What is done with one source file: each kind of task in a file of its own."""
