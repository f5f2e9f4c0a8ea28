"""Describe an opened dataset for people: as text and as HTML. Opening and reading it are left to dataset."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipecrypt.dataset.signed_file import Origin
from pipecrypt.keys.material import KeyMaterial, parse_key_metadata
from pipecrypt.parquet.view import PlaintextView
from pipecrypt.reading.view_file import FileView

__all__ = ["Description", "describe"]

_KEY_ID_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    protection: str


@dataclass(frozen=True, slots=True)
class Description:
    """What people want to know of a dataset.

    Args:
        title: its name.
        facts: files, rows, authenticity.
        columns: name, type and protection of each.
    """

    title: str
    facts: tuple[str, ...]
    columns: tuple[_Column, ...]

    def as_text(self) -> str:
        """Return lines of text."""
        widths = [max((len(getattr(column, part)) for column in self.columns), default=0) for part in ("name", "type")]
        lines = [f"pipecrypt dataset {self.title}", *(f"  {fact}" for fact in self.facts)]
        for column in self.columns:
            lines.append(f"    {column.name:<{widths[0]}}  {column.type:<{widths[1]}}  {column.protection}")
        return "\n".join(lines)

    def as_html(self) -> str:
        """Return an HTML table; everything that comes from a file is escaped."""
        cells = (
            f"<tr><td>{html.escape(column.name)}</td><td>{html.escape(column.type)}</td>"
            f"<td>{html.escape(column.protection)}</td></tr>"
            for column in self.columns
        )
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.facts)
        return (
            f"<div><b>pipecrypt dataset</b> <code>{html.escape(self.title)}</code><ul>{facts}</ul>"
            f"<table><thead><tr><th>column</th><th>type</th><th>protection</th></tr></thead>"
            f"<tbody>{''.join(cells)}</tbody></table></div>"
        )


def describe(
    title: str, schema: pa.Schema, view: FileView | None, *, files: int, rows: int | None, origin: Origin | None = None
) -> Description:
    """Return the description.

    Args:
        title: the dataset's name.
        schema: of all files.
        view: of the first file; None where that is not encrypted.
        files: how many there are.
        rows: how many there are; None where that is not known yet.
        origin: what was verified; None where nothing was.
    """
    facts = [f"{files:,} file{'' if files == 1 else 's'}", "rows not counted" if rows is None else f"{rows:,} rows"]
    if origin is not None:
        signers = _joined(tuple(f"{key_id[:_KEY_ID_DIGITS]}..." for key_id in origin.key_ids))
        facts.append(f"verified: version {origin.version} of dataset {origin.dataset_id}, signed by {signers}")
        facts.append("each file is compared with what was signed when it is opened")
    else:
        facts.append(_authenticity(view, files))
    columns = tuple(_Column(field.name, str(field.type), _protection(field.name, view)) for field in schema)
    return Description(title, tuple(facts), columns)


def _authenticity(view: FileView | None, files: int) -> str:
    which = "the file" if files == 1 else "the first file"
    if view is None:
        return f"{which} is not encrypted: nothing shows whether it was changed"
    if not isinstance(view, PlaintextView):
        return f"{which} is encrypted in chunks, which are checked as they are read"
    if not view.is_authenticated:
        return f"the footer of {which} was not checked, for want of its key"
    return f"the footer of {which} was checked with its key; encrypted columns are checked as they are read"


def _protection(root: str, view: FileView | None) -> str:
    if view is None:
        return "plaintext"
    if not isinstance(view, PlaintextView):
        return "encrypted in chunks"
    under, keys = [index for index, leaf in enumerate(view.leaves) if leaf.path[0] == root], view.column_keys
    sealed = [index for index in under if index in keys]
    if not sealed:
        return "plaintext"
    owners = dict.fromkeys(_owner(keys[index]) for index in sealed)
    parts = "partly encrypted" if len(sealed) < len(under) else "encrypted"
    missing = ", key missing" if view.locked_columns & set(sealed) else ""
    return f"{parts} under {_joined(tuple(owners))}{missing}"


def _owner(key_metadata: bytes) -> str:
    material = parse_key_metadata(key_metadata)
    return ascii(material.master_key_id)[1:-1] if isinstance(material, KeyMaterial) else "a key of another program"


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names)
