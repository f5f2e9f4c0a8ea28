"""Tell what a run would do about what its sink holds, without keys: the same decision, from what nobody has verified.

Nothing may be written on the strength of it. Sources are looked at by plan_report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipecrypt.dataset.governing import check_none_removed
from pipecrypt.dataset.listing import check_nothing_nested, check_nothing_unsigned, check_signed_is_there, sizes_below
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.staged import listed_staged_files
from pipecrypt.dataset.statement.envelope import ACCEPT_FUTURE_HINT, check_created
from pipecrypt.dataset.version import ClaimedVersion, check_follows, read_version
from pipecrypt.errors import ConflictError, SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.service import find_key_ids
from pipecrypt.runs.journal.past_runs import PastRuns
from pipecrypt.runs.journal.seal import UncheckedSeal
from pipecrypt.runs.journal.sink_locking import check_unlocked
from pipecrypt.runs.plan.decision import Decision, decide, find_conflicts, what_goes
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.plan.rotated import find_rotated
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.sink import is_directory
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.clock import utc_now

__all__ = ["SinkPreview", "preview_sink"]


@dataclass(frozen=True, slots=True)
class SinkPreview:
    """What a run would do about what its sink holds.

    Args:
        decision: what it would do.
        conflicts: what would make it fail.
        is_work: whether anything would be written, removed or signed.
        past: what journals say; None where no run keeps one.
        version: the signed version that is there.
    """

    decision: Decision
    conflicts: tuple[str, ...] = ()
    is_work: bool = True
    past: PastRuns | None = None
    version: ClaimedVersion | None = None


def preview_sink(request: EncryptSpec, plan: Plan, credentials: Credentials) -> SinkPreview:
    """Look at the sink as a run would, without its lock and without keys.

    Args:
        request: what is asked for.
        plan: all of its tasks.
        credentials: what authenticates keystores, where it holds their secret; nobody is asked.

    Raises:
        FutureStatementError: the clock of whoever signed was ahead, which the run would refuse.
        NotTrustedError: a signed version was accepted there before, and its statement is gone.
        RolledBackError: a later version was accepted there before.
        IntegrityError: statement, journal or a record of accepted versions is malformed.
        StorageError: the storage refused or failed.
    """
    if plan.is_single_file or request.sink.is_standard_stream:
        return SinkPreview(decide(request, plan, None, None))
    is_signed = request.policy.signing is not None
    version = read_version(*locate(request.sink), None) if is_directory(request.sink) else None
    if is_signed:
        _check_versions(request, version)
    past = PastRuns.look(request.sink, lambda run: UncheckedSeal.of(run.blocks), version, is_signed=is_signed)
    found = sizes_below(request.sink)
    there = None if is_signed else found
    promise = version.policy if is_signed and version is not None else None

    def find_ids(reference: str) -> frozenset[str] | None:
        return find_key_ids(reference, credentials)

    decision = decide(
        request,
        plan,
        past,
        there,
        lambda done: find_rotated(request, plan, done, promise, lambda: find_ids, credentials=credentials),
    )
    # While another run is at work, what it has not come to yet is no conflict of its own.
    conflicts = _problems([lambda: check_unlocked(request.sink)])
    if not conflicts:
        conflicts += _problems(find_conflicts(request, past, decision, there))
        if is_signed:
            conflicts += _problems([lambda: check_nothing_nested(request.sink, found)])
        if is_signed and version is not None:
            conflicts += _problems(_checks_of_signed(request, version, decision, _without(found, past.going)))
    is_expired = version is not None and version.expires is not None and utc_now() >= version.expires
    return SinkPreview(decision, tuple(conflicts), decision.is_work or is_expired, past, version)


def _check_versions(request: EncryptSpec, version: ClaimedVersion | None) -> None:
    """Pass if a run would follow the version that is there, or begin a dataset, as far as this user's memory tells."""
    memory, accepts_future = VersionMemory.of_user(os.environ), request.run.accepts_future_statement
    if version is None:
        check_none_removed(request.sink, memory)
        return
    check_follows(request.sink, version, memory and replace(memory, accepts_future=accepts_future))
    if not accepts_future:
        check_created(version.manifest.created, utc_now(), hint=ACCEPT_FUTURE_HINT)


def _problems(checks: Iterable[Callable[[], None]]) -> list[str]:
    found = []
    for check in checks:
        try:
            check()
        except (ConflictError, SinkNotEmptyError) as error:
            found.append(error.message)
    return found


def _without(found: Mapping[str, int | None], paths: Collection[str]) -> dict[str, int | None]:
    return {path: size for path, size in found.items() if path not in paths}


def _checks_of_signed(
    request: EncryptSpec, version: ClaimedVersion, decision: Decision, found: Mapping[str, int | None]
) -> Iterator[Callable[[], None]]:
    """Yield what a run looks at before it follows a signed version: that its files are there, and no others."""
    sink, entries = request.sink, version.entries
    goes = what_goes(decision, frozenset(entries), is_staged=True, overwrites=request.overwrite)
    stays = [entry for entry in entries.values() if not goes(entry.path)]
    in_place = {path for path, entry in entries.items() if found.get(path) == entry.size_bytes}
    right = listed_staged_files(sink, version.run, entries, in_place=in_place)
    staged = {path: file.size_bytes for path, file in right.items()}
    yield lambda: check_nothing_unsigned(sink, stays, [path for path in found if not goes(path)])
    yield lambda: check_signed_is_there(sink, stays, found, staged)
