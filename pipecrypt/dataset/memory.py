"""Remember the last statement that was accepted at each place, so that an older one shows.

One small JSON file for each place, in a directory of this user, `accepted/`. Its name is a digest of the place, and it
holds what `Remembered` holds, and the place in clear::

    {"place": "s3://bucket/orders", "dataset": <32 hex>, "version": 7, "statement_sha256": <64 hex>,
     "accepted": when it was last found there, "2026-01-31T12:00:00Z"; absent in older records}

Several readers change a record one after the other, and never to an older version; see vocabulary/state.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from pipecrypt.crypto.digest import digest
from pipecrypt.dataset.statement.envelope import MAX_CLOCK_SKEW, RememberedVersion
from pipecrypt.errors import ConflictError, IntegrityError, RolledBackError
from pipecrypt.vocabulary.clock import utc_now, utc_text
from pipecrypt.vocabulary.documents import Document, DocumentError
from pipecrypt.vocabulary.state import STATE_VARIABLE, StateRecords, state_directory

__all__ = ["STATE_VARIABLE", "VersionMemory"]


_KIND: Final = "accepted"
_NAME_DIGITS: Final = 40
_FRESH: Final = timedelta(minutes=1)
_MALFORMED_HINT: Final = (
    "look who can write there, and whether this clock was ahead; pipecrypt verify --forget puts a new record in its "
    "place, for what is there now; where that was signed with the same clock, a writer passes --accept-future-statement"
)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionMemory:
    """The statements accepted so far; can be sent to worker processes.

    Args:
        directory: where they are kept; made with the first one.
        starts_anew: nothing is recalled, and what is accepted now replaces what was kept.
        accept_future_statement: a record that this clock made while it was ahead holds, as if it were made now.
    """

    directory: str
    starts_anew: bool = False
    accept_future_statement: bool = False

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Self | None:
        """Return this user's memory: in PIPECRYPT_STATE_DIR, else XDG_STATE_HOME, else ~/.local/state.

        None where PIPECRYPT_STATE_DIR is set and empty, or no home directory is known.
        """
        directory = state_directory(environ)
        return None if directory is None else cls(directory)

    def recall(self, place: str) -> RememberedVersion | None:
        """Return what was last accepted at a place, or None.

        Raises:
            IntegrityError: the record is malformed: taking it for none would let an old version pass.
        """
        return None if self.starts_anew else self._records.read(_name(place), self._parse)

    def remember(self, place: str, remembered: RememberedVersion) -> None:
        """Keep what was accepted at a place; a newer version stays that another reader accepted meanwhile.

        Where that fails, a warning says so: reading goes on.

        Raises:
            RolledBackError: another reader accepted another statement of this version meanwhile.
            IntegrityError: it accepted another dataset; or its record is malformed.
        """
        try:
            with self._records.changing(_name(place)) as record:
                known = None if self.starts_anew else record.read(self._parse)
                fresh = timedelta(0) if self.accept_future_statement else _FRESH
                if known is None or _is_newer(remembered, known, place) or _is_stale(known, remembered, fresh):
                    record.put(_members(place, remembered))
        except (OSError, ConflictError) as error:
            _logger.warning(
                "cannot remember the accepted version of %s in %s: %s; an older one will not be noticed",
                place,
                self.directory,
                error.strerror if isinstance(error, OSError) else error.message,
            )

    def forget(self, place: str) -> bool:
        """Drop what was accepted at a place, for whoever starts anew; returns whether there was something.

        Raises:
            IntegrityError: the record cannot be removed.
            ConflictError: another process changes records for long.
        """
        path = Path(self.directory, _KIND)
        try:
            if path.is_dir():
                with self._records.changing(_name(place)) as record:
                    return record.drop()
        except OSError as error:
            raise self._records.unreadable(path, error) from error
        return False

    def _parse(self, document: Document) -> RememberedVersion:
        return RememberedVersion(
            dataset_id=document.text("dataset", max_characters=32),
            version=document.integer("version"),
            statement_sha256=document.text("statement_sha256", max_characters=64),
            accepted=_read_time(document, accept_future_statement=self.accept_future_statement)
            if "accepted" in document
            else None,
        )

    @property
    def _records(self) -> StateRecords:
        return StateRecords(self.directory, _KIND, "record of accepted versions", IntegrityError, _MALFORMED_HINT)


def _name(place: str) -> str:
    return digest(place.encode(errors="surrogateescape"))[:_NAME_DIGITS]


def _is_newer(remembered: RememberedVersion, known: RememberedVersion, place: str) -> bool:
    if known.dataset_id != remembered.dataset_id:
        raise IntegrityError(
            f"{place} held dataset {known.dataset_id} for another reader a moment ago, not {remembered.dataset_id}",
            hint="look which one belongs there; verify --forget accepts what is there",
        )
    if known.version == remembered.version and known != remembered:
        raise RolledBackError(f"there are two statements of version {known.version} of {place}")
    return remembered.version > known.version


def _is_stale(known: RememberedVersion, remembered: RememberedVersion, fresh: timedelta) -> bool:
    """Return whether it is time to note that the same version is still what is accepted."""
    is_same = known.version == remembered.version
    return is_same and (known.accepted is None or utc_now() - known.accepted >= fresh)


def _members(place: str, remembered: RememberedVersion) -> Mapping[str, object]:
    return {
        "place": place,
        "dataset": remembered.dataset_id,
        "version": remembered.version,
        "statement_sha256": remembered.statement_sha256,
        "accepted": utc_text(utc_now()),
    }


def _read_time(document: Document, *, accept_future_statement: bool) -> datetime:
    """Return when a statement was last found; not later than now, or what a retired key signed before would be lost."""
    accepted = document.time("accepted")
    now = utc_now()
    if accepted > now + MAX_CLOCK_SKEW and not accept_future_statement:
        raise DocumentError(f"'accepted' is {utc_text(accepted)}, in the future by the clock of this machine")
    return min(accepted, now)
