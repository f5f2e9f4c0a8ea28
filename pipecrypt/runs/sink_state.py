"""What a run into a directory finds once it holds the lock, and what it decides from that."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pipecrypt.dataset.listing import name_some, sizes_below
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.version import VerifiedVersion, read_version_to_follow
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.journal.block import RunHeader
from pipecrypt.runs.journal.journal import Journal
from pipecrypt.runs.journal.past_runs import FinishedFile, RunHistory, put_in_place
from pipecrypt.runs.journal.seal import Seal, plain_seal, signed_seal
from pipecrypt.runs.plan.decision import Decision, decide, find_conflicts
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.plan.rotated import FindIDs, find_rotated
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.clock import utc_now

__all__ = ["SinkState", "decide_run", "look_at_sink", "make_header"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkState:
    """What the sink holds as the run begins.

    Args:
        sink: the directory.
        seal: how blocks of journals are stored.
        signers: open, where the run signs.
        earlier: the signed version that is there.
        past: what journals say; None where the run keeps none.
        there: sizes in bytes of the outputs that are there.
    """

    sink: Location
    seal: Seal
    signers: OpenSigners | None
    earlier: VerifiedVersion | None
    past: RunHistory | None
    there: Mapping[str, int | None]

    @property
    def is_staged(self) -> bool:
        """Whether files wait elsewhere until their version is signed: there is a version already."""
        return self.earlier is not None


def look_at_sink(spec: EncryptSpec, sink: Location, signers: OpenSigners | None) -> SinkState:
    """Return what a sink holds, once what was left half done there is put in place; the caller holds the lock.

    Raises:
        NotTrustedError: other keys signed what it holds.
        IntegrityError: what earlier runs left is not as they wrote it.
        StorageError: the storage refused or failed.
    """
    seal: Seal = plain_seal() if signers is None else signed_seal(signers)
    earlier = None if signers is None else read_version_to_follow(sink, signers.memory, signers.requirements)
    put_in_place(sink, earlier, seal)
    past = None
    if spec.run.keeps_journal:
        past = RunHistory.look(sink, lambda _: seal, earlier, is_signed=signers is not None)
        if past.over is not None:
            Journal(sink, past.over.header, seal).finish(utc_now())
    return SinkState(sink=sink, seal=seal, signers=signers, earlier=earlier, past=past, there=sizes_below(sink))


def decide_run(spec: EncryptSpec, plan: Plan, state: SinkState, credentials: Credentials) -> Decision:
    """Return what a run does.

    Args:
        spec: what is asked for.
        plan: all of its tasks.
        state: what the sink holds.
        credentials: what opens the keys, where files may be under a successor of an earlier key.

    Raises:
        AccessError: then, that a key is missing, or the credentials do not open it.
        ConflictError: what is there stands in the way; see `find_conflicts`.
    """
    there = state.there if state.signers is None else None
    promise = None if state.earlier is None else state.earlier.manifest.policy

    def find(done: Mapping[str, FinishedFile]) -> Mapping[str, str]:
        opens = partial(_open_ids, plan.key_references, credentials)
        return find_rotated(spec, plan, done, promise, opens, credentials=credentials)

    decision = decide(spec, plan, state.past, there, find)
    for check in find_conflicts(spec, state.past, decision, there):
        check()
    if decision.changes.lost:
        _log.warning("%s: written before and gone, so made again", name_some(state.sink, decision.changes.lost))
    if decision.changes.orphaned:
        names = name_some(state.sink, decision.changes.orphaned)
        _log.warning("%s: the sources are gone, and these stay; run.on_source_change: replace removes them", names)
    return decision


def _open_ids(references: Sequence[str], credentials: Credentials) -> FindIDs:
    """Open keys, and return what tells the ids of their versions."""
    found = {}
    for reference in references:
        with KeySession((reference,), credentials=credentials) as session:
            found[reference] = frozenset(session.master_key_ids())
    return found.get


def make_header(spec: EncryptSpec, plan: Plan, state: SinkState, decision: Decision, run_id: str) -> RunHeader:
    """Return what a run is: that of the run that it continues, or a new one of the dataset that is there."""
    if decision.continued is not None:
        return decision.continued.header
    dataset_id = plan.dataset_id
    if state.earlier is not None:
        dataset_id = state.earlier.manifest.dataset_id
    elif state.past is not None and state.past.dataset_id is not None and not spec.overwrite:
        dataset_id = state.past.dataset_id  # so that keys of the whole directory are shared and rotated as those of one
    if dataset_id is None:
        raise AssertionError("what is encrypted has a dataset")
    return RunHeader(run_id=run_id, dataset_id=dataset_id, token=plan.tasks[0].target.token, is_staged=state.is_staged)
