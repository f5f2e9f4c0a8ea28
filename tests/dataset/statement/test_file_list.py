import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.dataset.statement import file_list
from pipecrypt.dataset.statement.file_list import MAX_LINE_BYTES, FileEntry, decode_file_list, encode_file_list
from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.documents import DocumentError
from tests.dataset.statement.world import BOTH, ENTRIES, FILE_LIST, SHA256, SUMMARY, entries, entry, listed, sha

LINE = listed([entry("a")])[0]


def _decode(data: bytes) -> list[FileEntry]:
    return list(decode_file_list(data, SHA256))


def test_sums_up_what_it_wrote() -> None:
    assert _decode(FILE_LIST) == list(ENTRIES)
    assert (SUMMARY.count, SUMMARY.total_bytes, SUMMARY.total_rows) == (3, 2007, 20)
    assert SUMMARY.size_bytes == len(FILE_LIST)
    assert SUMMARY.sha256 == sha(FILE_LIST.decode())
    assert listed([])[0] == b""
    assert _decode(b"") == []


def test_lines_are_json_that_others_read() -> None:
    lines = [json.loads(line) for line in FILE_LIST.decode().split("\n")[:-1]]

    assert [line["path"] for line in lines] == [one.path for one in ENTRIES]
    assert lines[0] == {
        "path": "a/part-0.parquet",
        "size_bytes": 1000,
        "rows": 10,
        "sha256": sha("a/part-0.parquet"),
        "footer_sha256": sha("footer of a/part-0.parquet"),
        "kek_ids": ["AAAA", "BBBB"],
    }


@given(st.lists(entries, max_size=20, unique_by=lambda one: one.path))
def test_round_trip(made: list[FileEntry]) -> None:
    made.sort(key=lambda one: one.path)
    data, summary = listed(made)

    assert _decode(data) == made
    assert summary.count == len(made)
    assert data.splitlines() == sorted(data.splitlines(), key=lambda line: json.loads(line)["path"].encode())


def test_blocks_are_the_same_bytes_as_one() -> None:
    made = [entry(f"{number:05}") for number in range(3000)]
    blocks, summary = encode_file_list(made, SHA256)

    assert len(blocks) > 2
    assert b"".join(blocks) == b"".join(listed([one])[0] for one in made)
    assert (summary.count, summary.sha256) == (3000, sha(b"".join(blocks).decode()))


def test_more_digests() -> None:
    made = [entry("a", blake3=sha("b"))]
    data, _ = listed(made, BOTH)

    assert list(decode_file_list(data, BOTH)) == made
    with pytest.raises(IntegrityError):
        _decode(data)
    with pytest.raises(IntegrityError):
        list(decode_file_list(LINE, BOTH))


def test_the_writer_refuses_its_own_mistakes() -> None:
    for wrong in ([entry("b"), entry("a")], [entry("a"), entry("a")], [entry("a", blake3=sha("b"))]):
        with pytest.raises(RuntimeError):
            listed(wrong)
    long_ids = tuple(sorted(f"{number:0256}" for number in range(1024)))
    with pytest.raises(DocumentError):
        listed([entry("a", kek_ids=long_ids)])


def _changed(old: bytes, new: bytes) -> bytes:
    assert old in LINE
    return LINE.replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        LINE[:-1],
        LINE + b"\n",
        b"\n" + LINE,
        LINE[:-1] + b"\r\n",
        LINE + LINE,
        listed([entry("b")])[0] + LINE,
        LINE[:-1] + b" \n",
        b"\xef\xbb\xbf" + LINE,
        LINE.decode().encode("utf-16"),
        _changed(b'{"path"', b'{"path":"x","path"'),
        _changed(b'{"path"', b'{"p\\u0061th"'),
        _changed(b'"rows":10', b'"rows":10,"rows":10'),
        _changed(b'"rows":10', b'"rows":10.0'),
        _changed(b'"rows":10', b'"rows":1e1'),
        _changed(b'"rows":10', b'"rows":010'),
        _changed(b'"rows":10', b'"rows":-0'),
        _changed(b'"rows":10', b'"rows":NaN'),
        _changed(b'"rows":10', b'"rows":' + b"9" * 5000),
        _changed(b'"rows":10', b'"rows":true'),
        _changed(b'"rows":10', b'"rows": 10'),
        _changed(b'"rows":10,', b""),
        _changed(b'"rows":10', b'"rows":10,"more":1'),
        _changed(b'"path":"a"', b'"path":"\\u0061"'),
        _changed(b'"path":"a"', b'"path":"\\ud800"'),
        _changed(b'"path":"a"', b'"path":"\xff"'),
        _changed(b'"path":"a"', b'"path":"../a"'),
        _changed(b'"path":"a"', b'"path":null'),
        _changed(b'"path":"a"', b'"path":"' + b"a" * MAX_LINE_BYTES + b'"'),
        _changed(b'["AAAA","BBBB"]', b'["BBBB","AAAA"]'),
        _changed(b'["AAAA","BBBB"]', b'[["AAAA"]]'),
        _changed(b'["AAAA","BBBB"]', b"{}"),
        _changed(b'["AAAA","BBBB"]', b"[" * 30_000 + b"]" * 30_000),
        _changed(b'["AAAA","BBBB"]', b"[" * 60_000),
        b"null\n",
        b"[]\n",
        b'"a"\n',
        b"{}\n",
        b"{\n",
    ],
    ids=lambda data: ascii(data)[:60],
)
def test_refuses_any_other_spelling(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        _decode(data)


def test_an_endless_line_is_given_up_early() -> None:
    with pytest.raises(IntegrityError, match="line 2"):
        _decode(LINE + b"x" * 50_000_000)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_only_our_errors_for_any_bytes(data: bytes) -> None:
    try:
        found = _decode(data)
    except IntegrityError:
        return
    assert found == []


@given(st.integers(0, len(FILE_LIST) - 1), st.integers(1, 255))
def test_a_changed_byte_is_an_error_or_another_entry(place: int, mask: int) -> None:
    data = bytearray(FILE_LIST)
    data[place] ^= mask
    try:
        found = _decode(bytes(data))
    except IntegrityError:
        return
    assert found != list(ENTRIES)
    assert listed(found)[0] == data


def test_shared_kek_ids_are_held_once() -> None:
    same = _decode(listed([entry("a"), entry("b")])[0])
    assert same[0].kek_ids is same[1].kek_ids

    different = [entry(f"{number:05}", kek_ids=(f"{number:05}",)) for number in range(10_002)]
    assert _decode(listed(different)[0]) == different


@pytest.mark.parametrize(("bound", "most"), [("MAX_FILES", len(ENTRIES) - 1), ("MAX_FILE_LIST_BYTES", 500)])
def test_a_list_that_readers_would_refuse_is_not_summed_up(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    listed(ENTRIES)
    monkeypatch.setattr(file_list, bound, most)
    with pytest.raises(DocumentError, match="the file list has more than"):
        listed(ENTRIES)
