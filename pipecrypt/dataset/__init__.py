"""A signed dataset on its storage: its versions as they are read, checked, signed and shared.

`version` is the one reader of a manifest; `statement` is what a manifest says. `sign` writes the next version, `verify`
checks all of one, and `share` decides who may unwrap its keys.
"""
