"""Every JSON document that somebody else may have written: parsing it costs what its bytes explain, and ends in our
errors, whatever its numbers are."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pipecrypt.dataset.statement.envelope import parse_envelope
from pipecrypt.dataset.statement.file_list import decode_file_line, encode_file_line
from pipecrypt.dataset.statement.manifest import decode_statement, encode_statement
from pipecrypt.errors import PipecryptError
from pipecrypt.keys.grants import MAX_GRANTS_BYTES, parse_grants
from pipecrypt.keys.material import parse_external_material, parse_key_metadata
from pipecrypt.keys.schemes.keystore_document import parse_keystore
from pipecrypt.parquet.blob.format import find_blob_entry
from pipecrypt.parquet.footer.entries import read_originals
from pipecrypt.parquet.wire.fields import BLOB_KEY, LAYOUT_KEY, FileMetaData, KeyValue
from pipecrypt.parquet.wire.thrift import Struct, WireType
from pipecrypt.runs.journal.block import Block, TaskRecord, decode_block, encode_block
from pipecrypt.runs.plan.saved_plan import read_saved_plan
from pipecrypt.runs.report.report import decode_report, encode_report
from pipecrypt.store.lease import read_holder
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.documents import DocumentError, parse_document
from tests.dataset.statement.world import entry, manifest
from tests.runs.journal.test_journal import _HEADER, _part
from tests.runs.report.test_run_report import finished_report

MIB = 1 << 20


def footer_with(key: bytes, value: bytes) -> Struct:
    footer, pair = Struct(), Struct()
    pair.set(KeyValue.KEY, WireType.BINARY, key)
    pair.set(KeyValue.VALUE, WireType.BINARY, value)
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [pair])
    return footer


def saved_plan(data: bytes, folder: Path) -> object:
    (folder / "plan.json").write_bytes(data)
    return read_saved_plan(folder / "plan.json")


def lock(data: bytes, folder: Path) -> object:
    (folder / "1.json").write_bytes(data)
    return read_holder(Location(str(folder)), 1)


READERS: dict[str, Callable[[bytes, Path], object]] = {
    "document": lambda data, _: parse_document(data, max_bytes=len(data)),
    "grants": lambda data, _: parse_grants(data),
    "key metadata": lambda data, _: parse_key_metadata(data),
    "external key material": lambda data, _: parse_external_material(data),
    "keystore": lambda data, _: parse_keystore(data, "x"),
    "envelope": lambda data, _: parse_envelope(data),
    "statement": lambda data, _: decode_statement(data),
    "line of the file list": lambda data, _: decode_file_line(data),
    "journal": lambda data, _: decode_block(data + b"\n"),
    "saved plan": saved_plan,
    "report": lambda data, _: decode_report(data, "x"),
    "lock": lock,
    "layout": lambda data, _: read_originals(footer_with(LAYOUT_KEY, data)),
    "chunks": lambda data, _: find_blob_entry(footer_with(BLOB_KEY, data), "x"),
}
_COUNT = 300_000
_ELEMENTS = {
    "empty objects": b"{}",
    "empty lists": b"[]",
    "zeros": b"0",
    "numbers": b"300",
    "objects of one member": b'{"a":0}',
    "objects in objects": b'{"a":{"a":{}}}',
    "lists in lists": b"[[[[]]]]",
    "texts": b'"ab"',
    "wide texts": '"\U0001f600"'.encode(),
    "nulls": b"null",
}
# Where a document keeps lists, so that a reader which looks before it parses has something to look at.
_WRAPPED = {
    "grants": b'{"v":1,"grants":[%b]}',
    "envelope": b'{"payloadType":"application/vnd.in-toto+json","signatures":[%b],"payload":""}',
    "keystore": b'{"pipecrypt_keystore":1,"keys":[%b]}',
    "saved plan": b'{"version":1,"sink":"x","tasks":[%b]}',
    "layout": b'{"v":1,"data_keys":"batch","source_bytes":0,"originals":[%b]}',
}


def hostile_documents() -> dict[str, bytes]:
    unique = b",".join(b'"%x":0' % number for number in range(_COUNT))
    found = {name: b",".join([element] * _COUNT) for name, element in _ELEMENTS.items()}
    found["objects of a member each"] = b",".join(b'{"%x":0}' % number for number in range(_COUNT))
    return {**found, "members": b"{%b}" % unique, "deep": b"[" * _COUNT + b"]" * _COUNT}


@pytest.mark.parametrize("kind", READERS)
def test_no_document_takes_more_than_twenty_times_its_bytes(kind: str, tmp_path: Path) -> None:
    for name, body in hostile_documents().items():
        data = _WRAPPED.get(kind, b'{"a":[%b]}') % body
        if kind == "key metadata":
            data = data[: 64 * 1024]
        tracemalloc.start()
        with contextlib.suppress(PipecryptError, DocumentError):
            READERS[kind](data, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 20 * len(data) + MIB, f"{name}: {peak / len(data):.0f} times"


@pytest.mark.parametrize("name", [*_ELEMENTS, "objects of a member each"])
def test_the_largest_file_of_grants_stays_below_half_a_gibibyte(name: str) -> None:
    start, end = b'{"v":1,"grants":[', b"]}"
    element = _ELEMENTS.get(name, b'{"kek":""}') + b","
    data = start + element * ((MAX_GRANTS_BYTES - 32) // len(element)) + b"0" + end
    tracemalloc.start()
    with pytest.raises(PipecryptError):
        parse_grants(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 512 * MIB - 2 * len(data)


HONEST = {
    "grants": b'{"v":1,"grants":[]}',
    "key metadata": b'{"keyMaterialType":"PKMT1","internalStorage":true,"isFooterKey":false,"masterKeyID":"a",'
    b'"doubleWrapping":false,"wrappedDEK":"AAAA","pipecrypt":{"v":1,"commitment":"%b"}}' % base64.b64encode(bytes(32)),
    "keystore": b'{"pipecrypt_keystore":1,"id":"0f2b6a52-0000-4000-8000-000000000000","protection":{"kind":'
    b'"passphrase","kdf":"argon2id","salt":"AAAAAAAAAAAAAAAAAAAAAA==","memory_kib":65536,"iterations":3,"lanes":4},"verifier":"AAAA",'
    b'"keys":[{"name":"a","id":"0f2b6a52-0000-4000-8000-000000000000","type":"aes256","version":1,"created":'
    b'"2026-01-31T12:00:00Z","sealed":"AAAA"}]}',
    "statement": encode_statement(manifest()),
    "line of the file list": encode_file_line(entry("a", kek_ids=())),
    "journal": encode_block(Block(_HEADER, 0, (TaskRecord("0" * 64, "a", (_part("a", rows=1),)),)))[:-1],
    "saved plan": b'{"version":1,"sink":"x","tasks":[{"id":"%b"}]}' % (b"0" * 64),
    "report": encode_report(finished_report()),
    "lock": b'{"place":"a","process":1,"started":"1","holder":"a","write_id":"a","interval_seconds":5,"beat":1}',
    "layout": b'{"v":1,"data_keys":"batch","source_bytes":5,"originals":[[0,0,1,5],[0,-1,5,null]]}',
    "chunks": b'{"v":1,"chunk_bytes":1048576,"size":3000000,"compression":"none","name":"a","mode":420,"mtime_ns":17}',
}
_NUMBER = re.compile(rb"(?<=[:\[,])-?\d+(?:\.\d+)?(?=[,}\]])")
_NUMBERS = (
    b"9" * 400,
    b"-" + b"9" * 400,
    b"9" * 5000,
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"NaN",
    b"Infinity",
    b"1.5",
    b"-1",
)


# Which of these a member may be all the same.
_HONEST_NUMBERS = {
    ("journal", "seconds"): {b"1.5", b"1e-999"},
    ("lock", "interval_seconds"): {b"-1"},  # whoever waits bounds it
    ("layout", "originals"): {b"-1"},  # in the place of a row group or a column it means all
    ("chunks", "mtime_ns"): {b"-1"},
}


def test_each_reader_has_an_honest_document() -> None:
    assert set(READERS) - set(HONEST) == {"document", "external key material", "envelope"}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_documents_are_read(kind: str, tmp_path: Path) -> None:
    assert READERS[kind](HONEST[kind], tmp_path) is not None


@pytest.mark.parametrize("kind", [kind for kind in HONEST if _NUMBER.search(HONEST[kind])])
@pytest.mark.parametrize("number", _NUMBERS, ids=lambda number: number[:8].decode())
def test_whatever_a_number_is_the_error_is_ours(kind: str, number: bytes, tmp_path: Path) -> None:
    for place in _NUMBER.finditer(HONEST[kind]):
        before, after = HONEST[kind][: place.start()], HONEST[kind][place.end() :]
        member = re.findall(rb'"(\w+)":', before)[-1].decode()
        data = before + number + after
        if number in _HONEST_NUMBERS.get((kind, member), ()):
            READERS[kind](data, tmp_path)
        elif kind == "key metadata" and not _is_json(data):
            assert READERS[kind](data, tmp_path) is None  # another program's
        else:
            with pytest.raises((PipecryptError, DocumentError)):
                READERS[kind](data, tmp_path)


def _is_json(data: bytes) -> bool:
    try:
        parse_document(data, max_bytes=len(data))
    except DocumentError:
        return False
    return True


def test_numbers_of_four_hundred_digits_are_no_numbers() -> None:
    document = parse_document(json.dumps({"a": 10**400, "b": 2**64 - 1, "c": -(10**400)}).encode(), max_bytes=2000)
    for read in (document.integer, document.number):
        for name in ("a", "c"):
            with pytest.raises(DocumentError):
                read(name)
    assert document.integer("b") == 2**64 - 1
    assert document.number("b") == float(2**64 - 1)
