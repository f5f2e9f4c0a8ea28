"""Where this user's state is kept: what was accepted before, so that older things show. Its files are left to others.

A sink or a keystore's file is where an attacker may write, and this directory is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["STATE_VARIABLE", "state_directory"]

STATE_VARIABLE: Final = "PIPECRYPT_STATE_DIR"


def state_directory(environ: Mapping[str, str]) -> str | None:
    """Return this user's directory: PIPECRYPT_STATE_DIR, else below XDG_STATE_HOME, else below ~/.local/state.

    None where PIPECRYPT_STATE_DIR is set and empty, or no home directory is known.
    """
    named = environ.get(STATE_VARIABLE)
    if named is not None:
        return named or None
    state, home = environ.get("XDG_STATE_HOME"), environ.get("HOME")
    if state:
        return os.path.join(state, "pipecrypt")
    return os.path.join(home, ".local", "state", "pipecrypt") if home else None
