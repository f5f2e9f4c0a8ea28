"""Name a task by what it does, so that runs can tell whether it was done before. Doing it is left to task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Final

from pipecrypt.crypto.digest import digest
from pipecrypt.runs.task import Kind
from pipecrypt.store.protocol import SourceFile

__all__ = ["task_id"]

_VERSION: Final = 1
# Which dataset the output belongs to says nothing about what is done: a resumed run continues the dataset it finds. Nor
# does what is refused.
_LEFT_OUT: Final = frozenset({"dataset_id", "refuses_unlisted", "is_optional"})
_LATER: Final = {"clear_notes": "strip"}  # options that are newer than the ids: left out of them at their defaults
_AS_THEY_ARE: Final[Mapping[str, str]] = {}


def task_id(source: SourceFile, path: str, operation: Kind, spellings: Mapping[str, str] = _AS_THEY_ARE) -> str:
    """Return the id of a task: 64 hex digits, the same for the same source, unchanged, the same output and policy.

    Args:
        source: the input, pinned.
        path: of the output below the sink.
        operation: what is done.
        spellings: how key references, and what stands before their `#`, were written, by what they became.
    """
    pinned = [_VERSION, source.relative_path, source.size_bytes, source.fingerprint, path, _plain(operation, spellings)]
    return digest(json.dumps(pinned, sort_keys=True, separators=(",", ":")).encode())


def _spelled(text: str, spellings: Mapping[str, str]) -> str:
    if text in spellings:
        return spellings[text]
    place, mark, name = text.partition("#")  # another key of the same keystore
    return spellings[place] + mark + name if place in spellings else text


def _plain(value: object, spellings: Mapping[str, str]) -> object:
    """Return what JSON can write, with the names of classes: two operations of equal members are not the same."""
    if value is None or isinstance(value, str | int | float):
        return _spelled(value, spellings) if isinstance(value, str) else value  # an enum of texts too
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop]
    if isinstance(value, Mapping):
        return {str(name): _plain(value[name], spellings) for name in value}
    if isinstance(value, list | tuple):
        return [_plain(member, spellings) for member in value]
    if is_dataclass(value) and not isinstance(value, type):
        kept = (each.name for each in fields(value) if each.name not in _LEFT_OUT)
        members = {name: _plain(getattr(value, name), spellings) for name in kept}
        for name, default in _LATER.items():
            if members.get(name) == default:
                del members[name]
        return {type(value).__name__: members}
    raise AssertionError(f"{type(value).__name__} has no plain form")
