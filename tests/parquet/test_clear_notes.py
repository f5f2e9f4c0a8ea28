"""What a readable footer notes of encrypted columns: stripped, sealed, given back byte for byte; or refused by name."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import IntegrityError, UnsupportedError
from pipecrypt.parquet.files import check_policy, open_table_view
from pipecrypt.parquet.footer.notes import strip_arrow_schema, strip_note
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.parquet.policy import ClearNotes, ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.parquet.wire.fields import NOTES_KEY
from tests.parquet.test_view import SomeKeys
from tests.parquet.world import MemorySource, RandomKeys, decrypt, encrypt, parquet_bytes

_PLANTED = b"PLANTED"
OF_RECORD_KEYS = (
    "hoodie_min_record_key", "hoodie_max_record_key", "org.apache.hudi.bloomfilter", "com.uber.hoodie.bloomfilter",
)  # fmt: skip
OF_WHOLE_FILES = (*OF_RECORD_KEYS, "parquet.proto.descriptor", "r", "spatialpandas")


def carriers(column: str) -> dict[str, str]:
    """Return entries of all kinds, each with something planted about one column, in which no other is named."""
    escaped = "".join(f"\\u{ord(character):04x}" for character in column)
    spark = {"name": column, "type": "string", "nullable": True, "metadata": {"comment": "PLANTED"}}
    nested = {"name": column, "type": {"type": "struct", "fields": [{**spark, "name": "in"}]}, "nullable": True}
    avro = {"name": column, "type": ["null", "string"], "doc": "PLANTED", "default": "PLANTED", "x-values": ["PLANTED"]}
    hugging_face = {column: {"names": ["PLANTED", "b"], "_type": "ClassLabel"}}
    return {
        "geo": f'{{"version":"1.1.0","columns":{{"{escaped}":{{"encoding":"WKB","geometry_types":["PLANTED"],'
        '"bbox":["PLANTED",1.5],"notes":"PLANTED"}},"bounds":"PLANTED"}',
        "pandas": json.dumps(
            {
                "columns": [{"name": column, "field_name": column, "metadata": {"num_categories": "PLANTED"}}],
                "attributes": {column: "PLANTED"},
            }
        ),
        "PANDAS_ATTRS": json.dumps({"note": "PLANTED"}),
        "org.apache.spark.sql.parquet.row.metadata": json.dumps(
            {"type": "struct", "fields": [spark, {**nested, "metadata": {"EXISTS_DEFAULT": "PLANTED"}}]}
        ),
        "iceberg.schema": json.dumps(
            {
                "type": "struct",
                "fields": [{"id": 1, "name": column, "type": "string", "doc": "PLANTED", "initial-default": "PLANTED"}],
            }
        ),
        "parquet.avro.schema": json.dumps({"type": "record", "name": "r", "fields": [avro]}),
        "huggingface": json.dumps({"info": {"features": hugging_face}}),
    }


def file_with(entries: Mapping[str, str]) -> bytes:
    email = pa.field("email", pa.string(), metadata={"note": "PLANTED", "PARQUET:field_id": "7"})
    deep = pa.struct([pa.field("in", pa.int8(), metadata={"deep": "PLANTED"})])
    schema = pa.schema(
        [
            pa.field("id", pa.timestamp("us", "Europe/Berlin"), metadata={"note": "stays"}),
            email,
            pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
            pa.field("deep", deep, metadata={"note": "PLANTED"}),
        ],
        metadata=dict(entries),
    )
    arrays = [
        pa.array([1, 2], schema.field("id").type),
        pa.array(["a", "b"]),
        pa.array(["x", "y"]).dictionary_encode().cast(schema.field("kind").type),
        pa.array([{"in": 1}, {"in": 2}], deep),
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), out)
    return out.getvalue()


def policy(mode: ClearNotes = ClearNotes.STRIP, footer: FooterMode = FooterMode.PLAINTEXT) -> EncryptionPolicy:
    rules = tuple(ColumnRule(name, "open") for name in ("email", "deep"))
    return EncryptionPolicy(rules=rules, clear_notes=mode, footer=footer)


def shown_entries(data: bytes) -> dict[bytes, bytes]:
    sealed = read_sealed_footer(MemorySource(data, "x"))
    assert sealed.metadata is not None
    return {pair.binary(1) or b"": pair.binary(2) or b"" for pair in sealed.metadata.structs(5)}


def told(entries: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the entries that tell something that was planted, as they stand or in base64, inside of others too."""
    found = []
    for key, value in entries.items():
        inner = base64.b64decode(value) if key == b"ARROW:schema" else b""
        if _PLANTED in value or _PLANTED in inner:
            found.append(key)
    return found


@pytest.mark.parametrize("name", [*carriers("email"), "all"])
def test_what_is_noted_of_encrypted_columns_is_stripped_and_comes_back(name: str) -> None:
    every = carriers("email")
    data = file_with(every if name == "all" else {name: every[name]})
    keys = RandomKeys()
    sealed = encrypt(data, policy(), keys)
    assert told(pq.read_metadata(io.BytesIO(data)).metadata) != []
    assert told(shown_entries(sealed)) == []
    assert NOTES_KEY in shown_entries(sealed)
    assert decrypt(sealed, keys) == data


@pytest.mark.parametrize("twin", ["EMAIL", "e\u0301mail", "\u00e9mail", "e_x40mail", "email ", "contacts.email", ""])
@pytest.mark.parametrize("name", carriers("email"))
def test_what_is_noted_under_a_name_of_no_column_is_stripped_too(name: str, twin: str) -> None:
    """Programs note a column in another spelling than the file's, such as another case or normal form of Unicode."""
    data, keys = file_with({name: carriers(twin)[name]}), RandomKeys()
    sealed = encrypt(data, policy(), keys)
    assert told(shown_entries(sealed)) == []
    assert decrypt(sealed, keys) == data


@pytest.mark.parametrize("entry", OF_WHOLE_FILES)
def test_entries_that_go_whole_are_stripped_and_come_back(entry: str) -> None:
    data, keys = file_with({entry: "PLANTED"}), RandomKeys()
    sealed = encrypt(data, policy(), keys)
    assert told(shown_entries(sealed)) == []
    assert decrypt(sealed, keys) == data
    with pytest.raises(UnsupportedError):
        encrypt(data, policy(ClearNotes.REFUSE), keys)


@pytest.mark.parametrize("entry", OF_RECORD_KEYS)
def test_bounds_of_record_keys_stay_where_these_are_in_plaintext(entry: str) -> None:
    name = entry.encode()
    assert strip_note(name, b"a", {"_hoodie_record_key", "id"}) == b"a"
    assert strip_note(name, b"a", {"id"}) is None


def test_readers_without_the_footer_key_keep_the_types() -> None:
    """Notes of clear columns, extension types, time zones, dictionaries: all that is no note of an encrypted column."""
    data = file_with(carriers("email"))
    shown = shown_entries(encrypt(data, policy(), RandomKeys()))
    arrow = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(shown[b"ARROW:schema"])))
    true = pq.read_schema(io.BytesIO(data))
    assert arrow.names == true.names
    assert arrow.remove_metadata() == true.remove_metadata()
    assert arrow.field("id").metadata == {b"note": b"stays"}
    assert arrow.field("email").metadata == {b"PARQUET:field_id": b"7"}
    assert not arrow.field("deep").metadata
    assert json.loads(shown[b"geo"])["columns"]["email"] == {"encoding": "WKB", "geometry_types": []}
    assert json.loads(shown[b"huggingface"])["info"]["features"]["email"]["num_classes"] == 2
    assert json.loads(shown[b"parquet.avro.schema"])["fields"] == [{"name": "email", "type": ["null", "string"]}]


def test_a_reader_with_the_footer_key_sees_all_and_one_without_sees_what_is_shown() -> None:
    data = file_with(carriers("email"))
    keys = SomeKeys(missing="lost")
    with_key = encrypt(data, policy(), keys)
    without = encrypt(data, EncryptionPolicy(rules=policy().rules, footer_key="lost"), keys)
    for sealed, is_told in ((with_key, True), (without, False)):
        with open_table_view(MemorySource(sealed, "x"), keys=keys) as view:
            entries = pq.read_metadata(io.BytesIO(bytes(view.read_range(0, view.size_bytes)))).metadata
        assert bool(told(entries)) is is_told
        assert NOTES_KEY not in entries


def test_notes_of_columns_in_plaintext_stay_where_they_are() -> None:
    data = file_with(carriers("id"))
    shown = shown_entries(encrypt(data, policy(), RandomKeys()))
    assert json.loads(shown[b"geo"])["columns"] == json.loads(carriers("id")["geo"])["columns"]
    for name in ("iceberg.schema", "parquet.avro.schema", "huggingface"):
        assert shown[name.encode()] == carriers("id")[name].encode()
    plain = io.BytesIO()
    pq.write_table(pa.table({"id": [1], "email": ["a"]}), plain)
    assert NOTES_KEY not in shown_entries(encrypt(plain.getvalue(), policy_of("email"), RandomKeys()))


def policy_of(column: str, mode: ClearNotes = ClearNotes.STRIP) -> EncryptionPolicy:
    return EncryptionPolicy(rules=(ColumnRule(column, "open"),), clear_notes=mode)


@pytest.mark.parametrize("name", carriers("email"))
def test_refusing_names_the_entry(name: str) -> None:
    table = pa.table({"id": [1], "email": ["a"]}).replace_schema_metadata({name: carriers("email")[name]})
    out = io.BytesIO()
    pq.write_table(table, out)
    # The Arrow schema, which comes first, holds the same entries once more.
    with pytest.raises(UnsupportedError, match=f"{name}|ARROW:schema"):
        encrypt(out.getvalue(), policy_of("email", ClearNotes.REFUSE), RandomKeys())
    encrypt(out.getvalue(), policy_of("email"), RandomKeys())


def test_refusing_lets_entries_pass_that_tell_nothing() -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": [1], "email": ["a"]}).replace_schema_metadata({"note": "mine"}), out)
    encrypt(out.getvalue(), policy_of("email", ClearNotes.REFUSE), RandomKeys())


def test_a_writer_is_refused_before_its_first_batch_for_notes_of_encrypted_columns_only() -> None:
    out = io.BytesIO()
    note = pa.field("email", pa.string(), metadata={"comment": "PLANTED"})
    pq.write_table(pa.table({"id": [1], "email": ["a"]}, schema=pa.schema([pa.field("id", pa.int64()), note])), out)
    source = MemorySource(out.getvalue())
    with pytest.raises(UnsupportedError):
        check_policy(source, policy_of("email", ClearNotes.REFUSE))
    check_policy(source, policy_of("id", ClearNotes.REFUSE))
    check_policy(source, policy_of("email"))


def test_unknown_entries_stay_unless_all_are_dropped() -> None:
    data, keys = file_with({"mine": "PLANTED"}), RandomKeys()
    assert shown_entries(encrypt(data, policy(), keys))[b"mine"] == _PLANTED
    sealed = encrypt(data, policy(ClearNotes.DROP), keys)
    assert told(shown_entries(sealed)) == []
    assert b"ARROW:schema" in shown_entries(sealed)
    assert decrypt(sealed, keys) == data


def test_keeping_keeps_all() -> None:
    data, keys = file_with(carriers("email")), RandomKeys()
    sealed = encrypt(data, policy(ClearNotes.KEEP), keys)
    assert told(shown_entries(sealed))
    assert NOTES_KEY not in shown_entries(sealed)
    assert decrypt(sealed, keys) == data


@pytest.mark.parametrize("name", carriers("email"))
@pytest.mark.parametrize(
    "value", ["", "PLANTED", "[]", '{"a":1,"a":2}', "{" * 100_000, '{"columns":5,"fields":7,"info":[]}']
)
def test_entries_that_are_not_what_they_should_be_go_whole_or_tell_nothing(name: str, value: str) -> None:
    left = strip_note(name.encode(), value.encode(), {"id"})
    assert left is None or _PLANTED not in left


def test_entries_that_many_files_have_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bytes] = []

    def strip(value: bytes, *others: Any) -> bytes | None:
        looks.append(value)
        return strip_arrow_schema(value, *others)

    monkeypatch.setattr("pipecrypt.parquet.footer.notes.strip_arrow_schema", strip)
    schema = pa.schema([pa.field(name, pa.string(), metadata={"note": f"PLANTED-{name}"}) for name in ("a", "b")])
    value = pq.read_metadata(io.BytesIO(parquet_bytes(schema.empty_table()))).metadata[b"ARROW:schema"]
    # Other columns are encrypted, or more is dropped: what stays of the same entry is not the same.
    for plain, drops_unknown in (("a", False), ("b", False), ("", False), ("a", True)):
        left = {strip_note(b"ARROW:schema", value, [*plain], drops_unknown=drops_unknown) for _ in range(50)}
        shown = base64.b64decode(left.pop() or b"")
        assert not left
        assert [f"PLANTED-{name}".encode() in shown for name in "ab"] == [name in plain for name in "ab"]
    assert len(looks) == 4


_ENTRIES = sorted({*carriers("email"), "avro.schema"})
_MEMBERS = [
    "columns",
    "fields",
    "info",
    "features",
    "name",
    "field_name",
    "metadata",
    "type",
    "items",
    "values",
    "names",
    "default",
    "doc",
    "attributes",
    "email",
    "bbox",
    "geometry_types",
    "key",
    "value",
]
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)


def _structures(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(_MEMBERS) | st.text(max_size=3)
    return st.recursive(leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(names, each, max_size=4))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_ENTRIES), _structures(_scalars | st.sampled_from(_MEMBERS)))
def test_whatever_json_an_entry_is_it_is_stripped_or_goes(name: str, document: object) -> None:
    value = json.dumps(document).encode()
    left = strip_note(name.encode(), value, {"id"})
    assert left is None or left == value or json.loads(left) != document


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_ENTRIES), st.data())
def test_nothing_is_told_whatever_stands_elsewhere_in_an_entry(name: str, data: st.DataObject) -> None:
    """Notes may be any JSON. So may all else but names: an entry that names another column may tell of that one."""
    document = json.loads(carriers("email")["parquet.avro.schema" if name == "avro.schema" else name])
    notes = [place for place in _places(document) if place[0][place[1]] == "PLANTED"]
    for node, key in notes:
        node[key] = data.draw(
            st.sampled_from(["PLANTED", ["PLANTED"], {"email": "PLANTED"}, {"type": {"x": "PLANTED"}}])
        )
    for _ in range(data.draw(st.integers(0, 3))):
        places = list(_places(document))
        if places:
            node, key = data.draw(st.sampled_from(places))
            node[key] = data.draw(_structures(_scalars))
    left = strip_note(name.encode(), json.dumps(document).encode(), {"id"})
    assert left is None or _PLANTED not in left


@pytest.mark.parametrize("name", ["iceberg.schema", "parquet.avro.schema", "org.apache.spark.sql.parquet.row.metadata"])
@pytest.mark.parametrize("field", [{}, {"name": 5, "doc": "PLANTED"}, ["PLANTED"], "PLANTED"])
def test_an_entry_with_a_field_of_no_column_goes_whole(name: str, field: object) -> None:
    value = json.dumps({"type": "struct", "fields": [{"name": "id", "type": "string"}, field]}).encode()
    assert strip_note(name.encode(), value, {"id"}) is None


def test_attributes_of_a_frame_as_pandas_writes_them() -> None:
    frame = pd.DataFrame({"id": [1, 2], "email": pd.Categorical(["a", "b"])})
    frame.attrs = {"top": "PLANTED", "ratio": float("nan")}
    out = io.BytesIO()
    frame.to_parquet(out)
    data, keys = out.getvalue(), RandomKeys()
    sealed = encrypt(data, policy_of("email"), keys)
    assert told(pq.read_metadata(io.BytesIO(data)).metadata)
    assert told(shown_entries(sealed)) == []
    assert json.loads(shown_entries(sealed)[b"pandas"])["columns"][1]["metadata"] == {"ordered": False}
    assert decrypt(sealed, keys) == data


def test_the_sealed_entry_is_bound_to_its_file() -> None:
    keys = RandomKeys()
    one, other = (encrypt(file_with(carriers("email")), policy(), keys) for _ in range(2))
    exchanged = one.replace(shown_entries(one)[NOTES_KEY], shown_entries(other)[NOTES_KEY])
    assert exchanged != one
    with pytest.raises(IntegrityError):
        decrypt(exchanged, keys)


def test_hostile_arrow_schemas_end_in_nothing_worse_than_none() -> None:
    true = base64.b64decode(pq.read_metadata(io.BytesIO(file_with(carriers("email")))).metadata[b"ARROW:schema"])
    chance = random.Random(4)  # noqa: S311  # the same in each run
    for _ in range(3000):
        forged = bytearray(true)
        for _ in range(chance.randint(1, 4)):
            forged[chance.randrange(len(forged))] = chance.choice((0, 1, 4, 127, 128, 255, chance.randrange(256)))
        value = base64.b64encode(forged[: chance.choice((len(forged), chance.randrange(len(forged))))])
        left = strip_arrow_schema(value, {"id"}, lambda key, told: None)
        assert left is None or len(left) == len(value)
    for value in (b"", b"=", b"AAAA", base64.b64encode(bytes(8)), base64.b64encode(b"\xff" * 64)):
        assert strip_arrow_schema(value, {"id"}, lambda key, told: None) is None


def test_notes_and_chunks_under_encrypted_footers_are_left_alone() -> None:
    data, keys = file_with(carriers("email")), RandomKeys()
    sealed = encrypt(data, policy(footer=FooterMode.ENCRYPTED), keys)
    assert _PLANTED not in sealed
    assert NOTES_KEY not in sealed
    assert decrypt(sealed, keys) == data
