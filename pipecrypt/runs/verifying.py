"""The call `pipecrypt.verify`: what a script gives becomes requirements, keys and events.

It lives in this room because it tells events and can be interrupted, as runs do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from pipecrypt.dataset.governing import forget_removed
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.requirements import requirements_of
from pipecrypt.dataset.trust import Trust, VerifyMode, given_trust
from pipecrypt.dataset.verify.inspection import Unlocking
from pipecrypt.dataset.verify.report import VerifyReport
from pipecrypt.dataset.verify.verification import verify as verify_files
from pipecrypt.errors import InterruptedRunError, NotTrustedError, UsageError
from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.runs.files import listed_keys
from pipecrypt.runs.journal.journal import trusted_run_files
from pipecrypt.runs.report.events import BytesDone, Event, FileChecked, FileStarted, RunStarted, ignore
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.store.location import Location, Place
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.in_flight import AT_ONCE

__all__ = ["verify"]

_MAX_WORKERS: Final = 256
_REMOTE_WORKERS: Final = 4  # for each processor


def verify(
    url: Place,
    trust: Trust | Sequence[str] | None = None,
    *,
    threshold: int | None = None,
    min_version: int | None = None,
    dataset_id: str | None = None,
    files: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    remember: bool = True,
    forget: bool = False,
    workers: int | None = None,
    storage_options: Mapping[str, object] | None = None,
    credentials: Credentials | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> VerifyReport:
    """Check that a dataset is what was signed, and return the report. Whatever is not as it was signed raises.

    Takes no key: who wrote it, that nothing is missing, added, changed, exchanged or old, and that what was promised
    to be encrypted is. With keys, every encrypted page is opened too.

    Args:
        url: a dataset, a directory or a file in one, or a file with its statement beside it; a path or any fsspec URL.
        trust: whose signatures count and what must hold, as a `Trust`; or a list of public keys: paths of PEM files,
            PEM texts or key references. Default: those in the environment variable PIPECRYPT_TRUST, separated by white
            space. Everything is compared, so its `verify` may not be "off".
        threshold: deprecated, as the next two are: give a `Trust`.
        min_version: likewise.
        dataset_id: likewise.
        files: globs relative to `url`, to check some files of a dataset only.
        keys: key references to open files with; None to check without keys.
        remember: refuse a version older than one that was accepted here before, and remember this one.
        forget: accept whatever version is there now, and remember that one. Where nothing is signed any more, what was
            accepted before is forgotten, so that a signed run may begin anew; no key needs to be trusted for that.
        workers: files read at once, each by a thread; default: one for each processor, and more where they are not
            local: four for each, and at least 16.
        storage_options: for fsspec.
        credentials: what opens the keys, and the keystores in `trust` to prove what they say; default: the environment
            of this process.
        on_event: told about progress, in this thread. If it raises, the verification stops.

    Raises:
        VerificationError: something is not as it was signed; `report` holds all findings.
        NotTrustedError: nothing is signed there, or not by enough trusted keys.
        RolledBackError: the version is older than one that was accepted before, or than the lowest accepted.
        ExpiredError: the statement's time is over.
        IntegrityError: the statement or its list of files is malformed, or about another dataset.
        UsageError: no key is trusted, or what was named cannot be verified.
        NotInPlaceError: a run is at work, and its files are not in their places yet; verify again when it is done.
            `report` holds all findings.
        InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP.
        PipecryptError: a file could not be read or opened to the end, and nothing else was found.
    """
    place = Location.of(url, storage_options)
    asked = given_trust(trust, threshold=threshold, min_version=min_version, dataset_id=dataset_id)
    if asked.mode is VerifyMode.OFF:
        raise UsageError('a verification cannot be verify="off"', hint="leave verify out of the Trust")
    given = given_credentials(credentials)
    if forget:
        _forget_removed(place)
    requirements = requirements_of(asked.completed(os.environ), _memory(remember=remember, forget=forget), given)
    with Interruption() as interruption, _unlocking(keys, given) as unlocking:
        try:
            watcher, count = _Telling(on_event, interruption), _worker_count(workers, place)
            return verify_files(
                place,
                requirements,
                globs=_globs(files),
                unlocking=unlocking,
                workers=count,
                watcher=watcher,
                run_files=partial(trusted_run_files, requirements.trust),
            )
        except KeyboardInterrupt:
            raise _stopped(interruption) from None


def _stopped(interruption: Interruption) -> InterruptedRunError:
    hint = "it says nothing yet; run it again"
    return InterruptedRunError(f"the verification was stopped by {interruption.reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class _Telling:
    """Tells events, and notices an interruption that was swallowed on its way."""

    on_event: Callable[[Event], None]
    interruption: Interruption

    def started(self, files: int, total_bytes: int) -> None:
        self._tell(RunStarted(files, total_bytes))

    def file_started(self, path: str) -> None:
        self._tell(FileStarted(path))

    def bytes_done(self, count: int) -> None:
        self._tell(BytesDone(count))

    def file_checked(self, path: str, findings: int) -> None:
        self._tell(FileChecked(path, findings))

    def _tell(self, event: Event) -> None:
        self.interruption.check()
        self.on_event(event)


@contextmanager
def _unlocking(keys: Sequence[str] | None, credentials: Credentials) -> Iterator[Unlocking | None]:
    if keys is None:
        yield None
        return
    references = listed_keys(keys)
    if not references:
        raise UsageError("no key is given to decrypt with", hint="name the key references, or check without keys")
    with KeySession(references, credentials=credentials) as session:
        yield Unlocking(lambda location: keys_of_file(location, session), ZstdCodec())


def _forget_removed(place: Location) -> None:
    """Forget what was accepted at a place that has no statement any more; nothing is verified then."""
    memory = VersionMemory.of_user(os.environ)
    if memory is None or place.is_standard_stream:
        return
    files, path = locate(place)
    if forget_removed(files, path, memory):
        raise NotTrustedError(
            f"{place.display} is not signed, and what was accepted there before is forgotten",
            hint="a signed run may begin a new dataset there; there is nothing to verify until then",
        )


def _memory(*, remember: bool, forget: bool) -> VersionMemory | None:
    if not remember and not forget:
        return None
    if not remember:
        raise UsageError("a version cannot be forgotten and not be remembered at once", hint="give one of the two")
    memory = VersionMemory.of_user(os.environ)
    return replace(memory, starts_anew=True) if memory is not None and forget else memory


def _globs(files: Sequence[str] | None) -> tuple[str, ...]:
    if files is None:
        return ()
    if isinstance(files, str) or not isinstance(files, Iterable) or not all(isinstance(glob, str) for glob in files):
        raise UsageError(f"files is {type(files).__name__}, not a list of texts", hint="write files=[...]")
    return tuple(files)


def _worker_count(workers: int | None, location: Location) -> int:
    if workers is None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # What is far away is waited for.
        remote = max(AT_ONCE, _REMOTE_WORKERS * processors)
        return min(remote if open_store(location).is_remote else processors, _MAX_WORKERS)
    if type(workers) is not int or not 1 <= workers <= _MAX_WORKERS:
        raise UsageError(f"{workers!r} workers", hint=f"give a number from 1 to {_MAX_WORKERS}")
    return workers
