"""Name a task by what it does, so that runs can tell whether it was done before. Doing it is left to task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Final

from pipecrypt.crypto.digest import digest
from pipecrypt.pipeline.task.operation import Operation
from pipecrypt.storage.listing import SourceFile

__all__ = ["task_id"]

_VERSION: Final = 1
# Which dataset the output belongs to says nothing about what is done: a resumed run continues the dataset it finds. Nor
# does what is refused.
_LATER: Final = {"clear_notes": "strip"}  # what came after ids were given is no part of one where it is the default
_LEFT_OUT: Final = frozenset({"dataset_id", "refuses_unlisted"})


def task_id(source: SourceFile, path: str, operation: Operation) -> str:
    """Return the id of a task: 64 hex digits, the same for the same source, unchanged, the same output and policy.

    Args:
        source: the input, pinned.
        path: of the output below the sink.
        operation: what is done.
    """
    pinned = [_VERSION, source.relative_path, source.size_bytes, source.fingerprint, path, _plain(operation)]
    return digest(json.dumps(pinned, sort_keys=True, separators=(",", ":")).encode())


def _plain(value: object) -> object:
    """Return what JSON can write, with the names of classes: two operations of equal members are not the same."""
    if value is None or isinstance(value, str | int | float):
        return value  # an enum of texts too
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop]
    if isinstance(value, Mapping):
        return {str(name): _plain(value[name]) for name in value}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if is_dataclass(value) and not isinstance(value, type):
        members = {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.name not in _LEFT_OUT}
        for name, default in _LATER.items():
            if members.get(name) == default:
                del members[name]
        return {type(value).__name__: members}
    raise AssertionError(f"{type(value).__name__} has no plain form")
