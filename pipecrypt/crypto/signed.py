"""One signature and the id of its key, as rooms hand it on. Making and checking one is left to signature and keys/."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Signature"]


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it stands in an envelope.

    Args:
        key_id: a hint which key made it, empty where the envelope names none; nobody vouches for it.
        value: the bytes of the signature.
    """

    key_id: str
    value: bytes
