"""Write DER as PEM (RFC 7468). Reading PEM is left to the modules of each kind of key."""

from __future__ import annotations

import base64
from typing import Final

__all__ = ["pem_text"]

_COLUMNS: Final = 64  # RFC 7468 2


def pem_text(label: str, der: bytes) -> str:
    """Return DER as one PEM block.

    Args:
        label: what it is, such as "PUBLIC KEY".
        der: the structure.
    """
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + _COLUMNS] for start in range(0, len(text), _COLUMNS)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
