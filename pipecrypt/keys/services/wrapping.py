"""What services share that make KEKs in this process: a fresh one, and what binds it. Wrapping is left to each.

What is bound to a KEK begins with a label of the service, so that no two services make the same text::

    part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x
"""

from __future__ import annotations

from collections.abc import Callable

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["bind_to_master_key", "generate_and_wrap", "join_parts"]


def generate_and_wrap(wrap_key: Callable[[DataKey, Context], bytes], context: Context) -> tuple[DataKey, bytes]:
    """Return a fresh 256-bit key, which the caller wipes, and its wrapped form.

    Raises:
        Exception: what `wrap_key` raised; the key is wiped then.
    """
    key = DataKey(random_bytes(DATA_KEY_BYTES))
    try:
        return key, wrap_key(key, context)
    except BaseException:
        key.wipe()
        raise


def bind_to_master_key(label: bytes, master_key_id: str, context: Context) -> bytes:
    """Return what is bound to a KEK: AAD, or the info of a seal."""
    return join_parts(label, master_key_id.encode()) + context.key_binding()


def join_parts(*parts: bytes) -> bytes:
    """Return an injective encoding of byte strings: each is preceded by its length."""
    return b"".join(b"%08x" % len(part) + part for part in parts)
