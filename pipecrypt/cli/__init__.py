"""The command line: parse, one library call, render. Each file is a group of commands."""
