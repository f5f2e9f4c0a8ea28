"""Columns that only some files have: listed as optional they are encrypted wherever they are, and missed nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import ColumnNotFoundError, ConflictError, PolicyError, UnlistedColumnError
from pipecrypt.keys.keystores import create_key
from pipecrypt.parquet.footer.columns import choose_keys, covers, leaf_columns
from pipecrypt.parquet.footer.stored import read_plain_footer
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.report.events import Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.ranges import MemorySource
from tests.runs.conftest import World

_NUMBER = "123-45-6789"


def _put(world: World, name: str, **more: object) -> None:
    row = {"id": 1, "email": "a@example.org", **more}
    if name.endswith(".csv"):
        (world.raw / name).write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    else:
        pq.write_table(pa.table({key: [value] for key, value in row.items()}), world.raw / name)


@pytest.fixture(params=["signed", "unsigned", "signed, encrypted footer"])
def asked(request: pytest.FixtureRequest, world: World) -> EncryptSpec:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    for path in world.raw.rglob("*.parquet"):
        path.unlink()
    policy = Policy(
        {"email": world.key, "ssn": world.key},
        optional=["ssn"],
        footer="encrypted" if "footer" in request.param else "plaintext",
        sign=None if request.param == "unsigned" else world.reference("signing"),
    )
    return EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=policy,
        run=RunOptions(keeps_journal=True),
    )


def _with(request: EncryptSpec, **changes: Any) -> EncryptSpec:
    return replace(request, policy=replace(request.policy, **changes))


def _run(world: World, request: EncryptSpec) -> Summary:
    assert report_plan(request).conflicts == ()
    summary = run(request, credentials=world.credentials)
    if request.policy.sign:
        assert not pc.verify(world.out, [world.reference("signing")], remember=False).findings
    return summary


def _is_sealed(path: Path) -> bool:
    return _NUMBER.encode() not in path.read_bytes()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("first", ["with", "without", "both"])
def test_a_file_with_and_one_without(world: World, asked: EncryptSpec, suffix: str, first: str) -> None:
    files: dict[str, dict[str, object]] = {"with": {"ssn": _NUMBER}, "without": {}}
    for name in files if first == "both" else [first]:
        _put(world, f"{name}.{suffix}", **files[name])
    assert _run(world, asked).files == (2 if first == "both" else 1)
    for name, more in files.items():
        if not (world.raw / f"{name}.{suffix}").exists():
            _put(world, f"{name}.{suffix}", **more)
            assert _run(world, asked).files == 1
    _put(world, f"another.{suffix}", **files["without"])
    assert _run(world, asked).files == 1
    assert all(map(_is_sealed, world.out.rglob("*.parquet")))
    assert _run(world, asked).files == 0


def test_what_is_required_must_be_there(world: World, asked: EncryptSpec) -> None:
    _put(world, "a.parquet", ssn=_NUMBER)
    for policy in ({"columns": {"emial": world.key, "ssn": world.key}}, {"optional": [], "columns": {"sn": world.key}}):
        with pytest.raises(ColumnNotFoundError):
            run(_with(asked, **policy), credentials=world.credentials)
    with pytest.raises(PolicyError):
        _with(asked, optional=["email", "snn"])
    with pytest.raises(PolicyError):
        _with(asked, optional="ssn")


def test_a_typo_in_what_is_optional_lets_nothing_out_where_unlisted_columns_are_refused(
    world: World, asked: EncryptSpec
) -> None:
    _put(world, "a.parquet", ssn=_NUMBER)
    columns = {"id": world.key, "email": world.key, "snn": world.key}
    with pytest.raises(UnlistedColumnError):
        run(_with(asked, columns=columns, optional=["snn"], unlisted="refuse"), credentials=world.credentials)


def test_a_file_of_which_nothing_would_be_encrypted_is_refused(world: World, asked: EncryptSpec) -> None:
    _put(world, "a.parquet")
    with pytest.raises(ColumnNotFoundError):
        run(_with(asked, optional=["ssn"], columns={"ssn": world.key}), credentials=world.credentials)


def test_to_make_a_column_optional_repeats_nothing(world: World, asked: EncryptSpec) -> None:
    _put(world, "a.parquet", ssn=_NUMBER)
    assert _run(world, _with(asked, optional=[])).files == 1
    _put(world, "b.parquet")
    assert _run(world, asked).files == 1


def test_what_files_that_stay_have_in_plaintext_is_not_promised(world: World, asked: EncryptSpec) -> None:
    if asked.policy.sign is None:
        pytest.skip("nothing is promised")
    _put(world, "a.parquet", ssn=_NUMBER)
    listed = _with(asked, columns={"email": world.key}, optional=[])
    assert _run(world, listed).files == 1
    (world.raw / "a.parquet").unlink()
    _put(world, "b.parquet", ssn=_NUMBER)
    with pytest.raises(ConflictError):
        run(asked, credentials=world.credentials)


def test_covered_columns_are_those_that_are_chosen() -> None:
    names = ["a", "ab", "b.c", "card_1", "x"]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [1] for name in names}), sink)
    footer, _ = read_plain_footer(MemorySource(sink.getvalue().to_pybytes(), "t"))
    leaves = leaf_columns(footer, "t")
    policy = Policy(
        {"a": "static://1#k", "b": "static://1#k", "card_*": "static://1#k"}, optional=["b"]
    ).engine_policy()
    keys = choose_keys(policy, leaves, "t")
    assert [covers(policy, leaf.path) for leaf in leaves] == [key is not None for key in keys]
    assert 0 < sum(key is not None for key in keys) < len(names)
