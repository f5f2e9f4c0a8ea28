"""Pages and what names their places: found, sealed, opened, moved, digested."""
