"""A signed dataset on its storage: find its statement, check it, look at its files, write a new one."""
