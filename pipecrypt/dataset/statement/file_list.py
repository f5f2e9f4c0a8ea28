"""The files of a dataset as they were written: each as an entry, all of them as a list of JSON lines, and back.

One file a line, sorted by path (by code points, which is the order of UTF-8), UTF-8, each line ended by LF::

    {"path":"a/part-0.parquet","size_bytes":1234,"rows":10,"sha256":"<hex>","footer_sha256":"<hex>","kek_ids":["<id>"]}

After the KEK ids, `"task":"<hex>"` may follow. With BLAKE3, `"blake3":"<hex>"` follows `sha256`, or stands in its
place.
There is one spelling: members in this order, no spaces, nothing escaped that JSON allows as it is. A line that would be
written differently is refused, and with it duplicate and unknown members, floats and escaped spellings of a name. A
list of no files is empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from json.encoder import encode_basestring
from typing import Final, Self, cast

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.dataset.statement.paths import check_path
from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.documents import DocumentError

__all__ = [
    "MAX_FILES",
    "MAX_FILE_LIST_BYTES",
    "MAX_INTEGER",
    "MAX_KEK_IDS",
    "MAX_KEK_ID_CHARACTERS",
    "MAX_LINE_BYTES",
    "MAX_UNVERIFIED_LIST_BYTES",
    "FileEntry",
    "FileListSummary",
    "check_count",
    "check_digest",
    "decode_file_line",
    "decode_file_list",
    "encode_file_line",
    "encode_file_list",
]


# Sizes and row counts are signed 64-bit numbers in Parquet and on every storage.
MAX_INTEGER: Final = (1 << 63) - 1
MAX_KEK_IDS: Final = 1024
MAX_KEK_ID_CHARACTERS: Final = 256
MAX_FILES: Final = 10_000_000
MAX_FILE_LIST_BYTES: Final = 1 << 32
# Of a list whose statement nobody checked: some 400,000 files, which take twice as much again once they are read.
MAX_UNVERIFIED_LIST_BYTES: Final = 128 << 20
# A path, three digests and 1,024 KEK ids of 16 bytes in base64 take half of it.
MAX_LINE_BYTES: Final = 64 * 1024
_BLOCK_BYTES: Final = 256 * 1024
_MAX_SHARED: Final = 10_000  # lists of KEK ids
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEK_ID: Final = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, so that anybody can tell whether another one stands in its place.

    Args:
        path: inside the dataset, with `/`; the name of a single file.
        size_bytes: its size.
        rows: its rows.
        sha256: of the whole file as stored, in lower-case hex; None where the manifest names another digest only.
        footer_sha256: of its last bytes: footer, footer length and magic.
        kek_ids: ids of the key encryption keys in its key material, sorted, each once.
        blake3: of the whole file, in lower-case hex, where the manifest names it.
        task_id: of the task that wrote it, 64 hex digits; None where no run is to tell later that it was done.

    Raises:
        DocumentError: a member is outside of its range. A writer checks paths with `check_signable_paths` before.
    """

    path: str
    size_bytes: int
    rows: int
    sha256: str | None
    footer_sha256: str
    kek_ids: tuple[str, ...]
    blake3: str | None = None
    task_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, from our own code or a hostile file."""
        check_path(self.path)
        check_count("size_bytes", self.size_bytes)
        check_count("rows", self.rows)
        check_digest("footer_sha256", self.footer_sha256)
        for algorithm, digest in self.digests().items():
            check_digest(algorithm.value, digest)
        if self.task_id is not None:
            check_digest("task", self.task_id)
        if self.sha256 is None and self.blake3 is None:
            raise DocumentError(f"file {self.path!a} has no digest")
        _check_kek_ids(self.kek_ids)

    def digests(self) -> dict[DigestAlgorithm, str]:
        """Return the digests of the whole file."""
        found = {DigestAlgorithm.SHA256: self.sha256, DigestAlgorithm.BLAKE3: self.blake3}
        return {algorithm: digest for algorithm, digest in found.items() if digest is not None}

    def with_digests(self, digests: Mapping[DigestAlgorithm, str]) -> Self:
        """Return the same with other digests of the whole file."""
        return replace(self, sha256=digests.get(DigestAlgorithm.SHA256), blake3=digests.get(DigestAlgorithm.BLAKE3))


def check_count(name: str, value: int) -> None:
    """Pass if `value` is a size or a number of things.

    Raises:
        DocumentError: no integer, negative, or above 2^63 - 1.
    """
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise DocumentError(f"{name} is not an integer from 0 to 2^63 - 1")


def check_digest(name: str, value: str) -> None:
    """Pass if `value` is 256 bits in lower-case hex.

    Raises:
        DocumentError: it is not.
    """
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise DocumentError(f"{name} is not a digest of 64 lower-case hex digits")


def _check_kek_ids(kek_ids: tuple[str, ...]) -> None:
    if len(kek_ids) > MAX_KEK_IDS:
        raise DocumentError(f"more than {MAX_KEK_IDS} KEK ids")
    earlier = ""
    for kek_id in kek_ids:
        if not isinstance(kek_id, str) or _KEK_ID.fullmatch(kek_id) is None:
            raise DocumentError(f"a KEK id is not printable ASCII text of 1 to {MAX_KEK_ID_CHARACTERS} characters")
        if kek_id <= earlier:
            raise DocumentError("the KEK ids are not sorted, or one occurs twice")
        earlier = kek_id


@dataclass(frozen=True, slots=True)
class FileListSummary:
    """What a statement says about its file list.

    Args:
        sha256: of the file list's bytes, in lower-case hex.
        size_bytes: of the file list.
        count: how many files it lists.
        total_bytes: of all those files.
        total_rows: of all those files.

    Raises:
        DocumentError: a member is outside of its range.
    """

    sha256: str
    size_bytes: int
    count: int
    total_bytes: int
    total_rows: int

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_digest("the digest of the file list", self.sha256)
        for name in ("size_bytes", "count", "total_bytes", "total_rows"):
            check_count(name, getattr(self, name))
        if self.count > MAX_FILES or self.size_bytes > MAX_FILE_LIST_BYTES:
            raise DocumentError(f"the file list has more than {MAX_FILES} files or {MAX_FILE_LIST_BYTES} bytes")


def encode_file_list(
    entries: Iterable[FileEntry], digests: tuple[DigestAlgorithm, ...]
) -> tuple[list[bytes], FileListSummary]:
    """Return a file list in blocks, to be written one after the other, and what a statement says about it.

    Args:
        entries: sorted by path, each path once.
        digests: which digests each file has, as the manifest will name them.

    Raises:
        RuntimeError: unsorted, doubled, or with other digests.
        DocumentError: a line would be longer than readers accept, or the list.
    """
    blocks, block = list[bytes](), bytearray()
    digester = Digester(DigestAlgorithm.SHA256)
    earlier, count, total_bytes, total_rows = "", 0, 0, 0
    for entry in entries:
        if entry.path <= earlier or tuple(entry.digests()) != digests:
            raise RuntimeError("entries are not sorted by path, or have other digests than the list")
        line = encode_file_line(entry)
        if len(line) > MAX_LINE_BYTES:
            raise DocumentError(f"file {entry.path!a} takes more than {MAX_LINE_BYTES} bytes in the list")
        digester.update(line)
        block += line
        if len(block) >= _BLOCK_BYTES:
            blocks.append(bytes(block))
            block.clear()
        earlier, count = entry.path, count + 1
        total_bytes, total_rows = total_bytes + entry.size_bytes, total_rows + entry.rows
    blocks.append(bytes(block))
    size_bytes = sum(map(len, blocks))
    return blocks, FileListSummary(digester.hexdigest(), size_bytes, count, total_bytes, total_rows)


def decode_file_list(data: bytes, digests: tuple[DigestAlgorithm, ...]) -> Iterator[FileEntry]:
    """Yield the files of a list one by one; the caller has compared the digest of `data` before.

    Args:
        data: the whole list. Besides it, memory is bounded by one line.
        digests: which digests each file must have, as the manifest names them.

    Raises:
        IntegrityError: malformed, unsorted, doubled, or in another spelling than ours; names the line.
    """
    earlier, start, number = "", 0, 0
    kek_ids: dict[tuple[str, ...], tuple[str, ...]] = {}
    while start < len(data):
        number += 1
        end = data.find(b"\n", start, start + MAX_LINE_BYTES) + 1
        try:
            entry = _decode_entry(data[start:end], kek_ids)
            if entry.path <= earlier:
                raise DocumentError("not sorted by path, or a path occurs twice")
            if tuple(entry.digests()) != digests:
                raise DocumentError("other digests than the manifest names")
        except DocumentError as error:
            raise IntegrityError(f"line {number} of the file list is malformed: {error}") from error
        yield entry
        earlier, start = entry.path, end


def encode_file_line(entry: FileEntry) -> bytes:
    """Return the line of one file, with its LF."""
    digests = "".join(f'"{name}":"{digest}",' for name, digest in entry.digests().items())
    kek_ids = ",".join(map(encode_basestring, entry.kek_ids))
    task = "" if entry.task_id is None else f',"task":"{entry.task_id}"'
    return (
        f'{{"path":{encode_basestring(entry.path)},"size_bytes":{entry.size_bytes},"rows":{entry.rows},{digests}'
        f'"footer_sha256":"{entry.footer_sha256}","kek_ids":[{kek_ids}]{task}}}\n'
    ).encode()


def decode_file_line(line: bytes) -> FileEntry:
    """Return the file of one line.

    Raises:
        DocumentError: malformed, or in another spelling than ours.
    """
    return _decode_entry(line, {})


def _decode_entry(line: bytes, shared: dict[tuple[str, ...], tuple[str, ...]]) -> FileEntry:
    """Return the file of a line; KEK ids that a line before had, as files of one worker do, are held once."""
    if not 0 < len(line) <= MAX_LINE_BYTES:
        raise DocumentError(f"longer than {MAX_LINE_BYTES} bytes, or cut off")
    try:
        # Bytes are decoded here: json.loads would guess UTF-16 and UTF-32 too.
        members = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise DocumentError("not JSON") from error
    if not isinstance(members, dict):
        raise DocumentError("not a JSON object")
    path, kek_ids = members.get("path"), members.get("kek_ids")
    if not isinstance(path, str) or not isinstance(kek_ids, list) or not all(isinstance(one, str) for one in kek_ids):
        raise DocumentError("a member is missing or of another type")
    if len(shared) >= _MAX_SHARED:
        shared.clear()
    ids = tuple(kek_ids)
    entry = FileEntry(
        path=path,
        # The entry checks the types of the others.
        size_bytes=cast("int", members.get("size_bytes")),
        rows=cast("int", members.get("rows")),
        sha256=members.get("sha256"),
        footer_sha256=cast("str", members.get("footer_sha256")),
        kek_ids=shared.setdefault(ids, ids),
        blake3=members.get("blake3"),
        task_id=members.get("task"),
    )
    # The one comparison that stands for many: no second spelling of an entry passes.
    if encode_file_line(entry) != line:
        raise DocumentError("spelled in another way than pipecrypt does")
    return entry
