"""Read what a run that did not finish noted about its files, as far as trusted keys signed it. Who asks: verifying."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, message_to_sign, parse_envelope
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.errors import IntegrityError
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.runs.journal.history import find_runs, read_run
from pipecrypt.runs.journal.seal import JOURNAL_TYPE, SignedSeal
from pipecrypt.store.location import Location

__all__ = ["TrustedJournals"]


class TrustedJournals:
    """The journals in a dataset.

    Args:
        directory: of the dataset.
        trust: whose signatures count.
    """

    def __init__(self, directory: Location, trust: TrustedKeys) -> None:
        """Read nothing yet."""
        self._directory = directory
        self._seal = _TrustedSeal(trust)

    def noted(self, run_id: str, dataset_id: str) -> Mapping[str, FileEntry]:
        """Return the files that a run staged for its version, by path; nothing where its journal does not hold.

        Raises:
            StorageError: the storage refused or failed.
        """
        try:
            run = next((each for each in find_runs(self._directory) if each.run_id == run_id), None)
            past = None if run is None else read_run(self._directory, run, self._seal)
        except IntegrityError:  # a link among them, too
            return {}
        if past is None or past.header.dataset_id != dataset_id or not past.header.is_staged:
            return {}
        return {file.entry.path: file.entry for record in past.records.values() for file in record.signable}


class _TrustedSeal:
    """Opens blocks that trusted keys signed."""

    suffix = SignedSeal.suffix
    max_bytes = MAX_ENVELOPE_BYTES
    is_trusted = True

    def __init__(self, trust: TrustedKeys) -> None:
        self._trust = trust

    def seal(self, block: bytes) -> NoReturn:
        raise AssertionError("whoever verifies writes nothing")

    def open(self, stored: bytes) -> bytes:
        untrusted = parse_envelope(stored, payload_type=JOURNAL_TYPE)
        self._trust.verify(message_to_sign(untrusted.payload, payload_type=JOURNAL_TYPE), untrusted.signatures)
        return untrusted.payload
