"""What signing adds to a run: before the first file, that it can be signed; after the last, the signature.

Statements and what stands in their way are left to dataset, files to task.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.sign.next_version import FileSigning
from pipecrypt.dataset.sign.promises import check_columns, check_frame
from pipecrypt.dataset.sign.records import SignedStatement
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.output_checks import statement_places
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.plan.unlisted import PlannedColumns
from pipecrypt.runs.report.events import FileDone
from pipecrypt.runs.spec.spec import Spec
from pipecrypt.runs.task import Task

__all__ = ["SignedRun", "open_signed_run"]


class SignedRun:
    """A run and how its files are signed; for a run that signs nothing, just the run.

    Attributes:
        plan: what the run does, bound to the dataset that it continues.

    Args:
        plan: what the run does.
        signing: how its files are signed; None where they are not.
    """

    def __init__(self, plan: Plan, signing: FileSigning | None) -> None:
        """Bind the plan."""
        self._signing = signing
        dataset_id = None if signing is None else signing.dataset_id
        self.plan = plan if dataset_id is None else plan.in_dataset(dataset_id)

    def add(self, done: FileDone) -> None:
        """Note files that were published."""
        if self._signing is not None:
            self._signing.add(done.signable)

    def begin(self) -> None:
        """Do nothing: there is no journal."""

    def check_quickly(self) -> None:
        """Pass: there is no lock."""

    def flush(self) -> None:
        """Do nothing: there is no journal."""

    def publish(self) -> tuple[SignedStatement, ...]:
        """Sign all files, once every one of them is published, and publish the statements."""
        if self._signing is None or self.plan.dataset_id is None:
            return ()
        return self._signing.publish(self.plan.dataset_id)


@contextmanager
def open_signed_run(request: Spec, plan: Plan, credentials: Credentials) -> Iterator[SignedRun]:
    """Open the signing keys, and look at what the sink holds; the keys are wiped when the block ends.

    Raises:
        AccessError: a signing key is missing, or the credentials do not open it.
        NotTrustedError: other keys signed what the sink holds.
        ConflictError: signing would leave out, or promise too much of, what the sink holds.
        PipecryptError: see `pipecrypt.errors`; nothing was written.
    """
    options = None if request.policy is None else request.policy.signing
    if options is None:
        yield SignedRun(plan, None)
        return
    options = replace(options, accepts_future=request.run.accepts_future_statement)
    with OpenSigners(options, credentials, VersionMemory.of_user(os.environ)) as signers:
        if plan.is_single_file:
            files = statement_places(plan.sink, plan.tasks)
            yield SignedRun(plan, FileSigning(files, signers, overwrite=request.overwrite))
            return
        raise AssertionError("a directory is written by a run of its own kind")


def check_promise(
    tasks: Sequence[Task],
    promise: PromisedPolicy,
    columns: PlannedColumns,
    lacks_earlier: Callable[[tuple[str, ...]], bool],
) -> None:
    """Refuse now, not after the last file, what cannot be promised of new files and of those that stay.

    Args:
        tasks: what is to be done.
        promise: of the files that stay.
        columns: of all their sources.
        lacks_earlier: says of a leaf column whether no file that stays has it in plaintext.

    Raises:
        ConflictError: there is such a file or column.
        PipecryptError: a source cannot be read.
    """
    for task in tasks:
        if task.kind.policy is not None:
            check_frame(promise, task.kind.policy)
    if promise.other_key_ids is None:
        if columns.seen.problem is not None:
            raise columns.seen.problem
        for schema in columns.seen.schemas:
            check_columns(promise, schema, lacks_earlier=lacks_earlier)
