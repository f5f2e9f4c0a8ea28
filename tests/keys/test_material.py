import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipecrypt.errors import FormatError, PipecryptError, UnsupportedError
from pipecrypt.keys.material import (
    MAX_KEY_METADATA_BYTES,
    ExternalMaterial,
    KeyMaterial,
    MaterialReader,
    MaterialWriter,
    dataset_of_kek_text,
    kek_text,
    parse_external_material,
    parse_kek_text,
    parse_key_metadata,
)

DATASET = "0123456789abcdef" * 2
WRITER = MaterialWriter("keystore/pii/1", bytes(range(16)), kek_text(DATASET, b"wrapped kek"))
COLUMN = WRITER.encode(b"wrapped data key", bytes(32), is_footer_key=False)
FOOTER = WRITER.encode(b"wrapped data key", bytes(32), is_footer_key=True)


def _changed(**members: Any) -> bytes:
    document = json.loads(COLUMN) | members
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def _material(key_metadata: bytes) -> KeyMaterial:
    material = parse_key_metadata(key_metadata)
    assert isinstance(material, KeyMaterial)
    return material


def test_layout_stays() -> None:
    assert COLUMN == (
        b'{"keyMaterialType":"PKMT1","internalStorage":true,"isFooterKey":false,"masterKeyID":"keystore/pii/1",'
        b'"doubleWrapping":true,"keyEncryptionKeyID":"AAECAwQFBgcICQoLDA0ODw==",'
        b'"wrappedKEK":"pc1.0123456789abcdef0123456789abcdef.d3JhcHBlZCBrZWs=","wrappedDEK":"d3JhcHBlZCBkYXRhIGtleQ==",'
        b'"pipecrypt":{"v":1,"commitment":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}'
    )
    footer = json.loads(FOOTER)
    assert footer["isFooterKey"] is True
    assert footer["kmsInstanceID"] == footer["kmsInstanceURL"] == "DEFAULT"


@given(st.text(max_size=20).filter(lambda text: text.isprintable()), st.binary(min_size=1, max_size=60))
def test_reads_what_it_writes(master_key_id: str, wrapped: bytes) -> None:
    writer = MaterialWriter(master_key_id, b"K" * 16, kek_text("", wrapped))
    material = _material(writer.encode(wrapped, b"C" * 32, is_footer_key=True))
    assert material.master_key_id == master_key_id
    assert material.commitment == b"C" * 32
    assert material.kek is not None
    assert material.kek.id == b"K" * 16
    assert parse_kek_text(material.kek.wrapped) == ("", wrapped)


def test_reads_what_others_write() -> None:
    material = _material(_changed(pipecrypt=None, doubleWrapping=False, keyEncryptionKeyID=None, wrappedKEK=None))
    assert material.kek is None
    assert material.commitment is None
    # parquet-java writes booleans as strings.
    java = _material(_changed(internalStorage="true", isFooterKey="false", doubleWrapping="true"))
    assert java.kek is not None
    external = parse_key_metadata(b'{"keyMaterialType":"PKMT1","internalStorage":"false","keyReference":"columnKey0"}')
    assert external == ExternalMaterial("columnKey0")


@pytest.mark.parametrize(
    "key_metadata",
    [b"", b"kf", b"\xff\x00", b"{}", b"[]", b'"PKMT1"', b'{"keyMaterialType":"PKMT2"}', b'{"a":1,"a":2}', b"[" * 60_000,
     b'{"x":' * 12_000, COLUMN[:-1], b" " * 100],
)  # fmt: skip
def test_other_schemes_are_none_of_ours(key_metadata: bytes) -> None:
    assert parse_key_metadata(key_metadata) is None


@pytest.mark.parametrize(
    "key_metadata",
    [
        _changed(masterKeyID=None), _changed(masterKeyID=1), _changed(masterKeyID="\ud800"),
        _changed(masterKeyID="x" * 5000),
        _changed(wrappedDEK=None), _changed(wrappedDEK=[]), _changed(keyEncryptionKeyID="?"), _changed(wrappedKEK=None),
        _changed(keyEncryptionKeyID="AAAA" * 200), _changed(doubleWrapping=None), _changed(doubleWrapping="yes"),
        _changed(internalStorage=None), _changed(internalStorage=False), _changed(internalStorage=1),
        _changed(pipecrypt=1), _changed(pipecrypt={}), _changed(pipecrypt={"v": True}), _changed(pipecrypt={"v": 1}),
        _changed(pipecrypt={"v": 1, "commitment": "AAAA"}), _changed(pipecrypt={"v": 1, "commitment": "?"}),
        _changed(keyMaterialType=1), COLUMN[:-1] + b',"masterKeyID":"other"}', COLUMN[:-1] + b',"pipecrypt":{}}',
        COLUMN[:-2] + b',"commitment":"AAAA"}}', COLUMN + b" " * MAX_KEY_METADATA_BYTES,
    ],
)  # fmt: skip
def test_malformed_material_is_refused(key_metadata: bytes) -> None:
    with pytest.raises(FormatError):
        parse_key_metadata(key_metadata)


def test_later_versions_ask_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedError):
        parse_key_metadata(_changed(pipecrypt={"v": 2, "commitment": "anything"}))


def test_external_material_is_a_document_of_documents() -> None:
    entry = _changed(internalStorage=None).decode()
    entries = parse_external_material(json.dumps({"footerKey": entry, "columnKey0": entry}).encode())
    assert entries["columnKey0"].master_key_id == "keystore/pii/1"
    for data in (b"", b"[]", b'{"a":1}', b'{"a":"{}"}', b'{"a":"x"}', b'{"a":"{}","a":"{}"}',
                 json.dumps({"a": entry.replace("PKMT1", "PKMT2")}).encode()):  # fmt: skip
        with pytest.raises(FormatError):
            parse_external_material(data)


def test_kek_text_carries_the_dataset() -> None:
    assert parse_kek_text(kek_text(DATASET, b"w")) == (DATASET, b"w")
    assert dataset_of_kek_text(kek_text(DATASET, b"w")) == DATASET
    assert parse_kek_text("dw==") == (None, b"w")
    assert dataset_of_kek_text("dw==") is None
    for text in ("?", "pc1.", f"pc1.{DATASET}", f"pc1.{DATASET}.", f"pc1.{DATASET[1:]}.dw==", f"pc1.{DATASET}.dw=", "ü",
                 f"pc2.{DATASET}.dw==", f"pc1.{DATASET.upper()}.dw=="):  # fmt: skip
        with pytest.raises(FormatError):
            parse_kek_text(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["PKMT1", "true", "AAAA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.dictionaries(st.sampled_from(sorted({*json.loads(FOOTER), "keyReference"})), JSON)


def _read_any(data: bytes) -> None:
    with contextlib.suppress(PipecryptError):
        parse_key_metadata(data)
    with contextlib.suppress(PipecryptError):
        parse_external_material(data)


@given(st.binary(max_size=300))
@example(b'{"keyMaterialType":"PKMT1","internalStorage":true,"masterKeyID":"\\ud800"}')
def test_hostile_bytes_end_in_our_errors(data: bytes) -> None:
    _read_any(data)


@given(MEMBERS)
def test_hostile_documents_end_in_our_errors(members: dict[str, Any]) -> None:
    document = json.loads(FOOTER) | members
    _read_any(json.dumps(document).encode())
    _read_any(json.dumps({"footerKey": json.dumps(document)}).encode())


@given(st.integers(0, len(FOOTER) - 1), st.binary(max_size=3), st.integers(0, 5))
def test_hostile_changes_end_in_our_errors(position: int, inserted: bytes, removed: int) -> None:
    _read_any(FOOTER[:position] + inserted + FOOTER[position + removed :])


@given(st.text(max_size=100))
def test_hostile_kek_texts_end_in_our_errors(text: str) -> None:
    dataset_of_kek_text(text)
    with contextlib.suppress(PipecryptError):
        parse_kek_text(text)


def _outcome(read: Callable[[bytes], object], data: bytes) -> object:
    try:
        return read(data)
    except PipecryptError as error:
        return type(error)


OF_A_DATA_KEY = WRITER.encode(bytes(range(60)), bytes(range(32)), is_footer_key=False)


@given(st.binary(min_size=60, max_size=60), st.binary(min_size=32, max_size=32))
def test_what_data_keys_share_is_parsed_once(wrapped: bytes, commitment: bytes) -> None:
    reader = MaterialReader()
    reader.parse(OF_A_DATA_KEY)
    other = WRITER.encode(wrapped, commitment, is_footer_key=False)
    assert reader.parse(other) == parse_key_metadata(other)


def test_the_id_of_a_kek_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def parse(key_metadata: bytes) -> Any:
        parsed.append(key_metadata)
        return parse_key_metadata(key_metadata)

    monkeypatch.setattr("pipecrypt.keys.material.parse_key_metadata", parse)
    reader, other = MaterialReader(), WRITER.encode(bytes(60), bytes(32), is_footer_key=False)
    assert reader.kek_id(OF_A_DATA_KEY) == reader.kek_id(other) == bytes(range(16))
    assert parsed == [OF_A_DATA_KEY]


def test_without_a_kek_there_is_no_id() -> None:
    assert MaterialReader().kek_id(b"of another scheme") is None


@given(st.integers(0, len(OF_A_DATA_KEY) - 1), st.binary(max_size=3), st.integers(0, 5))
@example(len(OF_A_DATA_KEY) - 4, b"B", 1)
def test_changes_read_the_same_after_others(position: int, inserted: bytes, removed: int) -> None:
    reader, changed = MaterialReader(), OF_A_DATA_KEY[:position] + inserted + OF_A_DATA_KEY[position + removed :]
    reader.parse(OF_A_DATA_KEY)
    for _ in range(2):
        assert _outcome(reader.parse, changed) == _outcome(parse_key_metadata, changed)
    assert reader.parse(OF_A_DATA_KEY) == parse_key_metadata(OF_A_DATA_KEY)


def test_a_member_that_only_looks_like_the_wrapped_key() -> None:
    reader, real = MaterialReader(), OF_A_DATA_KEY.replace(b'"wrappedDEK":"', b'"wrappedDEK":"%b","x\\"wrappedDEK":"')
    first, second = (real % (bytes([letter]) * 80) for letter in b"AB")
    for material in (first, second):
        assert _outcome(reader.parse, material) == _outcome(parse_key_metadata, material)
