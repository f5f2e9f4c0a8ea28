"""Results as lines of text: summaries of runs, files, keys, plans. Their JSON twins are the objects themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipecrypt.cli.render import aligned
from pipecrypt.sources.options import FOUND_DELIMITERS

if TYPE_CHECKING:
    from pipecrypt.config.plan import ConfigPlan
    from pipecrypt.dataset.sign.records import SignedStatement
    from pipecrypt.keys.services.keystore.making import KeystoreEntry
    from pipecrypt.parquet.inspect import ColumnSummary, FileSummary, KeySummary
    from pipecrypt.pipeline.progress.summary import Summary

__all__ = ["count", "delimiter_word", "entry_lines", "entry_text", "file_lines", "plan_lines", "run_lines"]

_DONE = {"encrypt": "encrypted", "decrypt": "decrypted"}
_UNKNOWN = "unknown"
_MAX_SOURCES = 20
_HOUR_SECONDS = 3600
_DAY_HOURS = 24


def run_lines(summary: Summary) -> Iterator[str]:
    """Yield what a run did."""
    if summary.skipped and not (summary.files or summary.signed or summary.removed):
        are, them = ("is", "it") if summary.skipped == 1 else ("are", "them")
        yield f"nothing to do: {count(summary.skipped, 'file')} {are} as an earlier run left {them}"
        return
    done = _DONE.get(summary.operation, summary.operation)
    yield (
        f"{done} {count(summary.files, 'file')} in {summary.seconds:.2f} s, "
        f"{summary.megabytes_per_second:,.1f} MB/s of input"
    )
    counts = {
        "source bytes": summary.source_bytes,
        "sink bytes": summary.sink_bytes,
        "rows": summary.rows,
        **_left_alone(summary),
        **({"bad rows left out": summary.bad_rows} if summary.bad_rows else {}),
        "batches": summary.batches,
        "data keys": summary.data_keys,
        "key service calls": summary.service_calls,
    }
    yield from aligned([(name, f"{value:,}") for name, value in counts.items()], right=(1,), indent="  ")
    yield from _signed_lines(summary.signed)


def _left_alone(summary: Summary) -> dict[str, int]:
    found = {
        "done by an earlier run": summary.skipped,
        "replaced": len(summary.replaced),
        "removed": len(summary.removed),
    }
    return {name: number for name, number in found.items() if number}


def _signed_lines(signed: Sequence[SignedStatement]) -> Iterator[str]:
    for statement in signed[:_MAX_SOURCES]:
        until = "" if statement.expires is None else f", until {statement.expires.isoformat()}"
        yield f"signed {statement.path}, version {statement.version}{until}"
    if len(signed) > _MAX_SOURCES:
        yield f"and {len(signed) - _MAX_SOURCES:,} more"
    for key_id in signed[0].key_ids if signed else ():
        yield f"  by key {key_id}"


def file_lines(summary: FileSummary) -> Iterator[str]:
    """Yield what a file shows without any key."""
    yield summary.name
    facts = _file_facts(summary)
    yield from aligned([(name, value) for name, value in facts.items() if value is not None], indent="  ")
    if summary.columns:
        yield ""
        head = ("column", "type", "bytes", "encrypted under")
        rows = [(each.path, each.type, f"{each.stored_bytes:,}", _column_keys(each)) for each in summary.columns]
        yield from aligned([head, *rows], right=(2,), indent="  ")
    yield ""
    readers = [(each.reader, each.verdict, each.reason) for each in summary.readers]
    yield from aligned([("reader", "opens", "why"), *readers], indent="  ")


def _file_facts(summary: FileSummary) -> dict[str, str | None]:
    return {
        "size": f"{summary.size_bytes:,} bytes",
        "encryption": summary.algorithm or "none",
        "footer": summary.footer_mode,
        "footer key": _key(summary.footer_key) if summary.footer_key else None,
        "rows": _number(summary.rows),
        "batches": _number(summary.batches),
        "data keys": f"one per column and {summary.data_keys}" if summary.data_keys else None,
        "overhead": _overhead(summary),
        "dataset id": summary.dataset_id,
        "bound path": summary.path,
        "AAD prefix": summary.aad_prefix if summary.dataset_id is None else None,
        "written by": summary.created_by,
    }


def _overhead(summary: FileSummary) -> str | None:
    if summary.overhead_bytes is None:
        return None
    plaintext_bytes = summary.size_bytes - summary.overhead_bytes
    share = f" ({100 * summary.overhead_bytes / plaintext_bytes:.2f} %)" if plaintext_bytes > 0 else ""
    return f"{summary.overhead_bytes:,} bytes{share}"


def _column_keys(column: ColumnSummary) -> str:
    if not column.encrypted:
        return "-"
    named = [_key(each) for each in column.keys] + (["the footer key"] if column.with_footer_key else [])
    return ", ".join(named)


def _key(key: KeySummary) -> str:
    if key.master_key_id is not None:
        return key.master_key_id
    return f"key metadata {key.key_metadata}" if key.key_metadata else "a key without key metadata"


def entry_lines(entries: Sequence[KeystoreEntry]) -> Iterator[str]:
    """Yield the keys of a keystore."""
    head = ("name", "type", "version", "created", "id")
    rows = [(each.name, each.type, str(each.version), each.created, _entry_id(each) + _end(each)) for each in entries]
    yield from aligned([head, *rows], right=(2,))


def entry_text(entry: KeystoreEntry) -> str:
    """Return one key in one line."""
    return f"{entry.type} key {entry.name}, version {entry.version}: {_entry_id(entry)}"


def _end(entry: KeystoreEntry) -> str:
    return "" if entry.retired is None else f"  retired {entry.retired}"


def _entry_id(entry: KeystoreEntry) -> str:
    # What a person meets elsewhere: data files store the one of a master key, statements that of a signing key.
    return entry.key_id or entry.master_key_id


def plan_lines(plan: ConfigPlan) -> Iterator[str]:
    """Yield what a configuration would do."""
    yield f"{plan.config} is valid"
    facts = {
        "source": plan.source,
        "sink": plan.sink,
        "mode": plan.mode,
        "footer": f"{plan.footer}, under {plan.footer_key_reference}",
        "data keys": "one for all columns" if plan.uniform else f"one per column and {plan.data_keys}",
        "workers": str(plan.workers),
        **({"signed by": ", ".join(plan.sign), "signed as": _signed_as(plan)} if plan.sign else {}),
    }
    yield from aligned(list(facts.items()), indent="  ")
    if plan.sources is not None:
        yield ""
        yield f"{count(len(plan.sources), 'source')}, {sum(each.size_bytes for each in plan.sources):,} bytes"
        shown = [(each.path, f"{each.size_bytes:,}") for each in plan.sources[:_MAX_SOURCES]]
        yield from aligned(shown, right=(1,), indent="  ")
        if len(plan.sources) > _MAX_SOURCES:
            yield f"  and {len(plan.sources) - _MAX_SOURCES:,} more"
    if plan.columns is not None:
        yield ""
        between = "" if plan.delimiter is None else f", delimiter: {delimiter_word(plan.delimiter)}"
        yield f"columns of the first source{between}"
        rows = [
            (each.path, each.type or "", each.key or "-", each.key_reference or "plaintext") for each in plan.columns
        ]
        table = [("column", "type", "key", "key reference"), *rows]
        has_types = any(each.type for each in plan.columns)
        yield from aligned(table if has_types else [(row[0], *row[2:]) for row in table], indent="  ")


def _signed_as(plan: ConfigPlan) -> str:
    if plan.valid_for_seconds is None:
        return f"digests with {plan.digest}, valid for ever"
    days, hours = divmod(plan.valid_for_seconds // _HOUR_SECONDS, _DAY_HOURS)
    validity = [count(days, "day")] * bool(days) + [count(hours, "hour")] * bool(hours)
    return f"digests with {plan.digest}, valid for {' and '.join(validity)}"


def delimiter_word(delimiter: str) -> str:
    """Return how to call a delimiter: `comma`, `tab`; the character where it has no name here."""
    return "space" if delimiter == " " else FOUND_DELIMITERS.get(delimiter, delimiter)


def count(number: int, noun: str) -> str:
    """Return a number and what is counted: `1 file`, `2 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"
