"""The command line: parse, one library call, render. All work is left to the rooms below."""
