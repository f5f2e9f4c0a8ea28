"""How blocks of a journal are stored and opened again: signed, in runs that sign, or as they are.

The journal lies in the sink. A resumed run signs what the journal says was written, so it must have said so itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, message_to_sign, parse_envelope
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.runs.journal.block import MAX_BLOCK_BYTES

__all__ = ["JOURNAL_TYPE", "Seal", "open_unchecked", "plain_seal", "signed_seal", "trusted_seal", "unchecked_seal"]

JOURNAL_TYPE: Final = "application/vnd.pipecrypt.journal+jsonl"
_PLAIN_SUFFIX: Final = ".jsonl"
_SIGNED_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Seal:
    """How blocks are stored.

    Args:
        suffix: of their names.
        max_bytes: the most that one takes.
        is_trusted: whether it opens those only that keys of the caller's, or keys that it trusts, have signed.
        open: returns the block that was stored; raises IntegrityError where nobody wrote it who may say so.
        seal: returns what is stored for a block.
    """

    suffix: str
    max_bytes: int
    is_trusted: bool
    open: Callable[[bytes], bytes]
    seal: Callable[[bytes], bytes]


def plain_seal() -> Seal:
    """Return the seal of runs that sign nothing: blocks as they are."""
    return Seal(_PLAIN_SUFFIX, MAX_BLOCK_BYTES, is_trusted=False, open=bytes, seal=bytes)


def signed_seal(signers: OpenSigners) -> Seal:
    """Return the seal of runs that sign: DSSE envelopes, with a call of each key's service for each block.

    Args:
        signers: opened before, and wiped by their owner.
    """
    return Seal(
        _SIGNED_SUFFIX,
        MAX_ENVELOPE_BYTES,
        is_trusted=True,
        open=lambda stored: signers.open_payload(stored, JOURNAL_TYPE),
        seal=lambda block: signers.seal_payload(block, JOURNAL_TYPE),
    )


def trusted_seal(trust: TrustedKeys) -> Seal:
    """Return what opens blocks that trusted keys signed, for whoever verifies."""

    def open_trusted(stored: bytes) -> bytes:
        untrusted = parse_envelope(stored, payload_type=JOURNAL_TYPE)
        trust.verify(message_to_sign(untrusted.payload, payload_type=JOURNAL_TYPE), untrusted.signatures)
        return untrusted.payload

    return Seal(_SIGNED_SUFFIX, MAX_ENVELOPE_BYTES, is_trusted=True, open=open_trusted, seal=_seal_nothing)


def unchecked_seal(names: Sequence[str]) -> Seal:
    """Return what opens blocks without asking who signed them, for whoever has no key and trusts nothing they say.

    Args:
        names: of the blocks.
    """
    if any(name.endswith(_PLAIN_SUFFIX) for name in names):
        return Seal(_PLAIN_SUFFIX, MAX_ENVELOPE_BYTES, is_trusted=False, open=bytes, seal=_seal_nothing)
    return Seal(_SIGNED_SUFFIX, MAX_ENVELOPE_BYTES, is_trusted=False, open=open_unchecked, seal=_seal_nothing)


def open_unchecked(stored: bytes) -> bytes:
    """Return the block in an envelope, whoever signed it."""
    return parse_envelope(stored, payload_type=JOURNAL_TYPE).payload


def _seal_nothing(block: bytes) -> bytes:
    raise AssertionError("who only reads writes no block")
