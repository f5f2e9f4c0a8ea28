"""Tools for those who work on pipecrypt itself. None of them is part of the package."""
