"""A plan as a file, and back: which tasks, by id, a run shall do and no others.

    {"version": 1, "sink": "<as errors show it>",
     "tasks": [{"id": "<64 hex>", "source": "<path>", "path": "<path>", "source_bytes": n}, ...]}

The id of a task is a digest of source, size, version, output and policy, so a source or a policy that changed since
makes another task. Storage options, which may hold secrets, are not in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Final

from pipecrypt.dataset.statement.file_list import check_digest
from pipecrypt.errors import ConflictError, FormatError, SourceNotFoundError
from pipecrypt.runs.plan.preview import PlanReport
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.documents import DocumentError, parse_document

__all__ = ["MAX_PLAN_BYTES", "SavedPlan", "read_saved_plan", "save_plan"]

_VERSION: Final = 1
MAX_PLAN_BYTES: Final = 64 << 20  # some 150,000 files
_MAX_TASKS: Final = 1_000_000
_MAX_ID: Final = 64
_MAX_TEXT: Final = 4096


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What a run of a saved plan does.

    Args:
        name: of its file.
        sink: where it was to write, as errors show it.
        task_ids: ids of its tasks.
    """

    name: str
    sink: str
    task_ids: frozenset[str]

    def check_sink(self, sink: Location) -> None:
        """Pass if a run writes where it was planned to write.

        Raises:
            ConflictError: it does not.
        """
        if sink.display != self.sink:
            raise ConflictError(
                f"{self.name} was planned for the sink {self.sink}, not {sink.display}", hint="plan anew for this sink"
            )


def save_plan(report: PlanReport, place: str | os.PathLike[str]) -> None:
    """Write a plan to a file, which is replaced.

    Args:
        report: of the plan.
        place: the file.

    Raises:
        StorageError: the storage refused or failed.
    """
    document = {"version": _VERSION, "sink": report.sink, "tasks": [asdict(task) for task in report.tasks]}
    with open_store(Location.of(place)).write(overwrite=True) as sink:
        sink.write(json.dumps(document, indent=1).encode() + b"\n")
        sink.publish()


def read_saved_plan(place: str | os.PathLike[str]) -> SavedPlan:
    """Return what a file says that `save_plan` wrote.

    Raises:
        SourceNotFoundError: there is no such file.
        FormatError: it is not a plan.
    """
    location = Location.of(place)
    data = open_store(location).read_small(max_bytes=MAX_PLAN_BYTES)
    if data is None:
        raise SourceNotFoundError(
            f"{location.display} does not exist", hint="pipecrypt plan CONFIG --out FILE makes it"
        )
    try:
        document = parse_document(data, max_bytes=MAX_PLAN_BYTES)
        document.only("version", "sink", "tasks")
        if document.integer("version") != _VERSION:
            raise DocumentError("its version is unknown to this version of pipecrypt")
        ids = [task.text("id", max_characters=_MAX_ID) for task in document.documents("tasks", max_count=_MAX_TASKS)]
        if not ids:
            raise DocumentError("it has no tasks")
        sink = document.text("sink", max_characters=_MAX_TEXT)
        for each in ids:
            check_digest("id", each)
    except DocumentError as error:
        raise FormatError(f"{location.display} is not a saved plan: {error}", hint="make it anew") from error
    return SavedPlan(location.display, sink, frozenset(ids))
