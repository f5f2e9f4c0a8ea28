"""Sign the blocks of a journal, in runs that sign, and open them again. What they say is left to block.

The journal lies in the sink. A resumed run signs what the journal says was written, so it must have said so itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, parse_envelope
from pipecrypt.runs.journal.block import MAX_BLOCK_BYTES

__all__ = ["JOURNAL_TYPE", "PlainSeal", "Seal", "SignedSeal", "UncheckedSeal"]

JOURNAL_TYPE: Final = "application/vnd.pipecrypt.journal+jsonl"


class Seal(Protocol):
    """How blocks are stored.

    Attributes:
        suffix: of their names.
        max_bytes: the most that one takes.
        is_trusted: whether it opens those only that keys of the caller's, or keys that it trusts, have signed.
    """

    suffix: str
    max_bytes: int
    is_trusted: bool

    def seal(self, block: bytes) -> bytes:
        """Return what is stored."""

    def open(self, stored: bytes) -> bytes:
        """Return the block.

        Raises:
            IntegrityError: nobody who may say so wrote it.
        """


class PlainSeal:
    """Blocks as they are, in runs that sign nothing."""

    suffix = ".jsonl"
    max_bytes = MAX_BLOCK_BYTES
    is_trusted = False

    def seal(self, block: bytes) -> bytes:
        """Return the block."""
        return block

    def open(self, stored: bytes) -> bytes:
        """Return the block."""
        return stored


class SignedSeal:
    """Blocks in DSSE envelopes, signed with the keys of the run; a call of each key's service for each block.

    Args:
        signers: opened before, and wiped by their owner.
    """

    suffix = ".json"
    max_bytes = MAX_ENVELOPE_BYTES
    is_trusted = True

    def __init__(self, signers: OpenSigners) -> None:
        """Keep the signers."""
        self._signers = signers

    def seal(self, block: bytes) -> bytes:
        """Return the envelope."""
        return self._signers.seal_payload(block, JOURNAL_TYPE)

    def open(self, stored: bytes) -> bytes:
        """Return the block, if one of the keys signed it."""
        return self._signers.open_payload(stored, JOURNAL_TYPE)


class UncheckedSeal:
    """Opens blocks without asking who signed them, for whoever has no key and trusts nothing that they say.

    Args:
        suffix: of the blocks.
    """

    is_trusted = False

    def __init__(self, suffix: str) -> None:
        """Keep the suffix."""
        self.suffix = suffix
        self.max_bytes = MAX_ENVELOPE_BYTES

    @classmethod
    def of(cls, names: Sequence[str]) -> UncheckedSeal:
        """Return the seal for blocks of these names."""
        return cls(PlainSeal.suffix if any(name.endswith(PlainSeal.suffix) for name in names) else SignedSeal.suffix)

    def seal(self, block: bytes) -> bytes:
        """Refuse."""
        raise AssertionError("nothing is written without a seal")

    def open(self, stored: bytes) -> bytes:
        """Return the block."""
        if self.suffix == PlainSeal.suffix:
            return stored
        return parse_envelope(stored, payload_type=JOURNAL_TYPE).payload
