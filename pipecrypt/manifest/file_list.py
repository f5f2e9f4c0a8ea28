"""The list of a dataset's files as JSON lines, and back. Signing its digest is left to statement, trust to verify.

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
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring
from typing import Final, cast

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.model import FileListSummary
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["MAX_LINE_BYTES", "FileListEncoder", "decode_file_line", "decode_file_list", "encode_file_line"]

# A path, three digests and 1,024 KEK ids of 16 bytes in base64 take half of it.
MAX_LINE_BYTES: Final = 64 * 1024
_BLOCK_BYTES: Final = 256 * 1024


class FileListEncoder:
    """Writes a file list piece by piece, and sums it up.

    Args:
        digests: which digests each file has, as the manifest will name them.
    """

    __slots__ = ("_count", "_digester", "_digests", "_path", "_size_bytes", "_total_bytes", "_total_rows")

    def __init__(self, digests: tuple[DigestAlgorithm, ...]) -> None:
        """Begin with no files."""
        self._digests = digests
        self._digester = Digester(DigestAlgorithm.SHA256)
        self._path = ""
        self._size_bytes = self._count = self._total_bytes = self._total_rows = 0

    def encode(self, entries: Iterable[FileEntry]) -> Iterator[bytes]:
        """Yield the lines of `entries` in blocks; the caller appends them to one file. Memory: one block.

        Args:
            entries: sorted by path, each path once.

        Raises:
            RuntimeError: unsorted, doubled, or with other digests.
            DocumentError: a line would be longer than readers accept.
        """
        block = bytearray()
        for entry in entries:
            block += self._line(entry)
            if len(block) >= _BLOCK_BYTES:
                yield self._count_in(block)
                block = bytearray()
        if block:
            yield self._count_in(block)

    def summary(self) -> FileListSummary:
        """Return what the statement says about the list; for the end, when every block was taken."""
        return FileListSummary(
            sha256=self._digester.hexdigest(),
            size_bytes=self._size_bytes,
            count=self._count,
            total_bytes=self._total_bytes,
            total_rows=self._total_rows,
        )

    def _line(self, entry: FileEntry) -> bytes:
        if entry.path <= self._path or tuple(entry.digests()) != self._digests:
            raise RuntimeError("entries are not sorted by path, or have other digests than the list")
        line = encode_file_line(entry)
        if len(line) > MAX_LINE_BYTES:
            raise DocumentError(f"file {entry.path!a} takes more than {MAX_LINE_BYTES} bytes in the list")
        self._path = entry.path
        self._count += 1
        self._total_bytes += entry.size_bytes
        self._total_rows += entry.rows
        return line

    def _count_in(self, block: bytearray) -> bytes:
        self._digester.update(block)
        self._size_bytes += len(block)
        return bytes(block)


def decode_file_list(data: bytes, digests: tuple[DigestAlgorithm, ...]) -> Iterator[FileEntry]:
    """Yield the files of a list one by one; the caller has compared the digest of `data` before.

    Args:
        data: the whole list. Besides it, memory is bounded by one line.
        digests: which digests each file must have, as the manifest names them.

    Raises:
        IntegrityError: malformed, unsorted, doubled, or in another spelling than ours; names the line.
    """
    earlier, start, number = "", 0, 0
    kek_ids = _Shared()
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
    return _decode_entry(line, _Shared())


class _Shared(dict[tuple[str, ...], tuple[str, ...]]):
    """KEK ids of lines before: files of one worker have the same, and need not hold them once each."""

    def of(self, kek_ids: tuple[str, ...]) -> tuple[str, ...]:
        if len(self) >= 10_000:
            self.clear()
        return self.setdefault(kek_ids, kek_ids)


def _decode_entry(line: bytes, shared: _Shared) -> FileEntry:
    if not 0 < len(line) <= MAX_LINE_BYTES:
        raise DocumentError(f"longer than {MAX_LINE_BYTES} bytes, or cut off")
    try:
        # Bytes are decoded here: json.loads would guess UTF-16 and UTF-32 too.
        members = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise DocumentError("not JSON") from error
    if not isinstance(members, dict):
        raise DocumentError("no JSON object")
    entry = _entry_of(cast("dict[str, object]", members), shared)
    # The one comparison that stands for many: no second spelling of an entry passes.
    if encode_file_line(entry) != line:
        raise DocumentError("spelled in another way than pipecrypt does")
    return entry


def _entry_of(members: dict[str, object], shared: _Shared) -> FileEntry:
    path, kek_ids = members.get("path"), members.get("kek_ids")
    if not isinstance(path, str) or not isinstance(kek_ids, list) or not all(isinstance(one, str) for one in kek_ids):
        raise DocumentError("a member is missing or of another type")
    return FileEntry(
        path=path,
        # The entry checks the types of the others.
        size_bytes=cast("int", members.get("size_bytes")),
        rows=cast("int", members.get("rows")),
        sha256=cast("str | None", members.get("sha256")),
        footer_sha256=cast("str", members.get("footer_sha256")),
        kek_ids=shared.of(tuple(kek_ids)),
        blake3=cast("str | None", members.get("blake3")),
        task_id=cast("str | None", members.get("task")),
    )
