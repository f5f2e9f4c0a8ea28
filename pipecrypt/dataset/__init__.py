"""A signed dataset on its storage: `signing` writes a statement, `opening` reads one, `verifying` checks everything.

`sharing` decides who may unwrap its KEKs.
"""
