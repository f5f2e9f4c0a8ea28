"""One block of a run's journal as bytes, and back; its seal; and how much memory what is kept of many may take.

JSON lines: what the run is, each promise that a task of the block made, then a line for each task::

    {"version": 1, "run": "<id>", "sequence": n, "dataset": "<32 hex>", "token": "<8 hex>", "staged": true | false,
     "removes": ["<path>", ...], "replaces": ["<path>", ...],
     "clear": <see manifest.clear_columns>}              left out where nothing is to be noted
    {"promise": <see manifest.promise>}
    {"task": "<64 hex>", "source": "<path>", "more": true where the next task line goes on with the files of this one,
     "files": [{"path": "<path>", "source_bytes": n, "sink_bytes": n, "rows": n, "batches": n, "data_keys": n,
                "service_calls": n, "seconds": s, "bad_rows": n,
                "entry": "<line of a file list>" | null, "promise": <number of the line, from 0> | null}]}

A member that a later release adds is optional when it is read, so that journals of this one can be resumed; where it
changes what the others mean, `version` rises. Older releases refuse a member that they do not know.

A block says nothing secret. It lies where an attacker may write, so a run that signs signs its blocks too: one that is
resumed signs what the journal says was written, so it must have said so itself. A block is bounded before it is parsed,
and goes when it was read. What is kept of all of them together is charged to a budget before the next block is read,
however many lie in a sink.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, message_to_sign, parse_envelope
from pipecrypt.dataset.statement.file_list import (
    MAX_LINE_BYTES,
    check_digest,
    decode_file_line,
    encode_file_line,
)
from pipecrypt.dataset.statement.manifest import MAX_STATEMENT_BYTES
from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, check_inside, parse_run_id
from pipecrypt.dataset.statement.promise import (
    ClearColumns,
    JSONObject,
    PromisedPolicy,
    decode_clear_columns,
    decode_policy,
    encode_clear_columns,
    encode_policy,
)
from pipecrypt.errors import ConflictError
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.runs.report.events import PART_COUNTS, Part
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.documents import Document, DocumentError, check_parts, parse_document

__all__ = [
    "JOURNAL_TYPE",
    "MAX_BLOCK_BYTES",
    "MAX_BLOCK_TASKS",
    "MOST_KEPT_BYTES",
    "Block",
    "MemoryBudget",
    "RunHeader",
    "Seal",
    "TaskRecord",
    "decode_block",
    "encode_block",
    "memory_of",
    "open_unchecked",
    "plain_seal",
    "signed_seal",
    "trusted_seal",
    "unchecked_seal",
]

# With a hostile block that is parsed, and those that are fetched ahead, less than 512 MiB. The files that unsigned runs
# have written take some 400 bytes each, and 700 until their run was read; of a run to be continued, 1,000 to 2,000.
MOST_KEPT_BYTES: Final = 288 << 20
_OWN_BYTES: Final = 16  # what the garbage collector keeps for an object, rounded up


class MemoryBudget:
    """What may be kept in memory of the journals in a sink.

    Args:
        sink: the directory.
        most_bytes: how much.
    """

    def __init__(self, sink: Location, most_bytes: int = MOST_KEPT_BYTES) -> None:
        """Nothing is kept yet."""
        self._sink = sink
        self._most_bytes = most_bytes
        self.kept_bytes = 0

    def charge(self, run_id: str, count: int) -> None:
        """Take so many bytes for what a run noted.

        Raises:
            ConflictError: they are too many.
        """
        self.kept_bytes += count
        if self.kept_bytes > self._most_bytes:
            raise ConflictError(
                f"{self._sink.child(f'{RUNS_DIRECTORY}/{run_id}').display}: the journals up to this one note more than "
                f"{self._most_bytes >> 20} MiB of memory hold",
                hint="if no run of yours made that directory, remove it; sign what you write, or use several sinks",
            )

    def give_back(self, count: int) -> None:
        """Say that so many bytes are not kept any more."""
        self.kept_bytes -= count


def memory_of(things: Iterable[object]) -> int:
    """Return how many bytes things take, with all that is in them; what is in them twice counts once."""
    waiting, seen, total = list(things), set[int](), 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        if isinstance(thing, tuple | list | frozenset):
            waiting.extend(thing)
        elif (names := getattr(thing, "__slots__", None)) is not None:
            total += _OWN_BYTES
            waiting.extend(getattr(thing, name) for name in names)
    return total


MAX_BLOCK_BYTES: Final = MAX_STATEMENT_BYTES
MAX_BLOCK_TASKS: Final = 500
_VERSION: Final = 1
_MAX_TEXT: Final = 4096
_MAX_LIST: Final = 100_000
_DATASET_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TOKEN: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """What holds of a whole run.

    Args:
        run_id: its id.
        dataset_id: of the dataset that it writes.
        token: stands in the names of its temporary files.
        is_staged: whether its files wait in its own directory until the version that lists them is signed.
    """

    run_id: str
    dataset_id: str
    token: str
    is_staged: bool


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task that is done.

    Args:
        task_id: its id.
        source: path of the input below the source.
        parts: the record of each file published.
        signable: what a signature will say about each; empty where nothing is signed.
        has_more: whether the next record, of this block or the next, goes on with the files of this task.
    """

    task_id: str
    source: str
    parts: tuple[Part, ...]
    signable: tuple[SignableFile, ...] = ()
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """What one file of a journal says.

    Args:
        header: of the run.
        sequence: counts from 0.
        records: tasks that were done since the block before.
        removes: paths that the run removes from the sink once its version is signed.
        replaces: paths where the run may write over outputs of earlier runs, noted before it does.
        clear: leaf columns that files have in plaintext, as far as no block before says so; None: nothing is noted.
    """

    header: RunHeader
    sequence: int
    records: tuple[TaskRecord, ...] = ()
    removes: tuple[str, ...] = field(default=())
    replaces: tuple[str, ...] = field(default=())
    clear: ClearColumns | None = None


def encode_block(block: Block) -> bytes:
    """Return the lines of a block.

    Raises:
        DocumentError: it could not be read again: it is larger than a block can be, or holds what no block may.
    """
    promises: dict[PromisedPolicy, int] = {}
    tasks = [_task_line(record, promises) for record in block.records]
    header = block.header
    first: JSONObject = {
        "version": _VERSION,
        "run": header.run_id,
        "sequence": block.sequence,
        "dataset": header.dataset_id,
        "token": header.token,
        "staged": header.is_staged,
        "removes": list(block.removes),
        "replaces": list(block.replaces),
    }
    if block.clear is not None:
        first["clear"] = encode_clear_columns(block.clear)
    lines = [first, *({"promise": encode_policy(promise)} for promise in promises), *tasks]
    try:
        texts = [json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for line in lines]
        data = "".join(text + "\n" for text in texts).encode()
    except ValueError as error:
        raise DocumentError("the block holds a number or a text that JSON cannot hold") from error
    decode_block(data)  # nothing short of reading it tells that it can be read
    return data


def decode_block(data: bytes) -> Block:
    """Return what the lines of a block say.

    Raises:
        DocumentError: malformed.
    """
    lines = data.split(b"\n")
    if len(data) > MAX_BLOCK_BYTES or lines.pop() or not lines:
        raise DocumentError("the block is too long, empty or cut off")
    check_parts(data)  # of all lines together: each alone may have more parts than its size explains, if they are few
    documents = [parse_document(line, max_bytes=MAX_BLOCK_BYTES) for line in lines]
    first, rest = documents[0], documents[1:]
    promises = [_promise(document) for document in rest if "promise" in document]
    records = tuple(_record(document, promises) for document in rest if "promise" not in document)
    removes, replaces = _paths(first, "removes"), _paths(first, "replaces")
    clear = decode_clear_columns(first, "clear") if "clear" in first else None
    return Block(_header(first), first.count("sequence"), records, removes, replaces, clear)


def _task_line(record: TaskRecord, promises: dict[PromisedPolicy, int]) -> dict[str, object]:
    signable = {file.entry.path: file for file in record.signable}
    files = []
    for part in record.parts:
        file = signable.get(part.path)
        line: dict[str, object] = {"path": part.path, "seconds": round(part.seconds, 3)}
        line |= {name: getattr(part, name) for name in PART_COUNTS}
        line["entry"] = None if file is None else encode_file_line(file.entry).decode()
        line["promise"] = None if file is None else promises.setdefault(file.promise, len(promises))
        files.append(line)
    return {"task": record.task_id, "source": record.source, "more": record.has_more, "files": files}


def _header(document: Document) -> RunHeader:
    optional = ("clear",) if "clear" in document else ()
    document.only("version", "run", "sequence", "dataset", "token", "staged", "removes", "replaces", *optional)
    if document.integer("version") != _VERSION:
        raise DocumentError("the version of the block is unknown to this version of pipecrypt")
    run_id = document.text("run", max_characters=_MAX_TEXT)
    parse_run_id(run_id)
    return RunHeader(
        run_id=run_id,
        dataset_id=document.text("dataset", max_characters=_MAX_TEXT, pattern=_DATASET_ID),
        token=document.text("token", max_characters=_MAX_TEXT, pattern=_TOKEN),
        is_staged=document.boolean("staged"),
    )


def _promise(document: Document) -> PromisedPolicy:
    document.only("promise")
    return decode_policy(document.document("promise"))


def _record(document: Document, promises: Sequence[PromisedPolicy]) -> TaskRecord:
    document.only("task", "source", "more", "files")
    task_id = document.text("task", max_characters=_MAX_TEXT)
    check_digest("task", task_id)
    files = document.documents("files", max_count=_MAX_LIST)
    signable = tuple(_signable(file, promises) for file in files if not file.is_null("entry"))
    source, has_more = document.text("source", max_characters=_MAX_TEXT), document.boolean("more")
    return TaskRecord(task_id, source, tuple(map(_part, files)), signable, has_more)


def _part(document: Document) -> Part:
    document.only("path", "seconds", "entry", "promise", *PART_COUNTS)
    counts = dict(zip(PART_COUNTS, document.counts(PART_COUNTS), strict=True))
    path = document.text("path", max_characters=_MAX_TEXT)
    check_inside(path)  # a run removes and replaces by these paths, and not every journal is signed
    seconds = document.number("seconds")
    if seconds < 0:
        raise DocumentError("'seconds' is less than 0")
    return Part(path=path, seconds=seconds, **counts)


def _signable(document: Document, promises: Sequence[PromisedPolicy]) -> SignableFile:
    entry = decode_file_line(document.text("entry", max_characters=MAX_LINE_BYTES).encode())
    return SignableFile(entry, promises[document.integer("promise", least=0, most=len(promises) - 1)])


def _paths(document: Document, name: str) -> tuple[str, ...]:
    paths = document.texts(name, max_count=_MAX_LIST, max_characters=_MAX_TEXT)
    for path in paths:
        check_inside(path)
    return paths


JOURNAL_TYPE: Final = "application/vnd.pipecrypt.journal+jsonl"
_PLAIN_SUFFIX: Final = ".jsonl"
_SIGNED_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Seal:
    """How blocks are stored.

    Args:
        suffix: of their names.
        max_bytes: the most that one takes.
        is_trusted: whether it opens those only that keys of the caller's, or keys that it trusts, have signed.
        open: returns the block that was stored; raises IntegrityError where nobody wrote it who may say so.
        seal: returns what is stored for a block.
    """

    suffix: str
    max_bytes: int
    is_trusted: bool
    open: Callable[[bytes], bytes]
    seal: Callable[[bytes], bytes]


def plain_seal() -> Seal:
    """Return the seal of runs that sign nothing: blocks as they are."""
    return Seal(_PLAIN_SUFFIX, MAX_BLOCK_BYTES, is_trusted=False, open=bytes, seal=bytes)


def signed_seal(signers: OpenSigners) -> Seal:
    """Return the seal of runs that sign: DSSE envelopes, with a call of each key's service for each block.

    Args:
        signers: opened before, and wiped by their owner.
    """
    return Seal(
        _SIGNED_SUFFIX,
        MAX_ENVELOPE_BYTES,
        is_trusted=True,
        open=lambda stored: signers.open_payload(stored, JOURNAL_TYPE),
        seal=lambda block: signers.seal_payload(block, JOURNAL_TYPE),
    )


def trusted_seal(trust: TrustedKeys) -> Seal:
    """Return what opens blocks that trusted keys signed, for whoever verifies."""

    def open_trusted(stored: bytes) -> bytes:
        untrusted = parse_envelope(stored, payload_type=JOURNAL_TYPE)
        trust.verify(message_to_sign(untrusted.payload, payload_type=JOURNAL_TYPE), untrusted.signatures)
        return untrusted.payload

    return Seal(_SIGNED_SUFFIX, MAX_ENVELOPE_BYTES, is_trusted=True, open=open_trusted, seal=_seal_nothing)


def unchecked_seal(names: Sequence[str]) -> Seal:
    """Return what opens blocks without asking who signed them, for whoever has no key and trusts nothing they say.

    Args:
        names: of the blocks.
    """
    if any(name.endswith(_PLAIN_SUFFIX) for name in names):
        return Seal(_PLAIN_SUFFIX, MAX_ENVELOPE_BYTES, is_trusted=False, open=bytes, seal=_seal_nothing)
    return Seal(_SIGNED_SUFFIX, MAX_ENVELOPE_BYTES, is_trusted=False, open=open_unchecked, seal=_seal_nothing)


def open_unchecked(stored: bytes) -> bytes:
    """Return the block in an envelope, whoever signed it."""
    return parse_envelope(stored, payload_type=JOURNAL_TYPE).payload


def _seal_nothing(block: bytes) -> bytes:
    raise AssertionError("who only reads writes no block")
