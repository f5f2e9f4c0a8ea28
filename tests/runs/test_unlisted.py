"""A column that no rule covers never goes out in plaintext: it stops the run before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.dataset.statement import manifest
from pipecrypt.dataset.version import read_version
from pipecrypt.errors import PolicyError, UnlistedColumnError
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.journal import journal
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.report.events import FileDone
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from pipecrypt.store.small_files import locate
from tests.runs.conftest import World

_ROW = {"id": 1, "email": "a@example.org", "customer": {"city": "Ulm"}}
_NUMBER = "123-45-6789"


def _put(world: World, name: str, **more: object) -> Path:
    """Write a source of one row, with more columns."""
    path, row = world.raw / name, {**_ROW, **more}
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".csv"):
        flat = {key: value for key, value in row.items() if not isinstance(value, dict)}
        path.write_text(",".join(flat) + "\n" + ",".join(map(str, flat.values())) + "\n")
    elif name.endswith(".jsonl"):
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.table({key: [value] for key, value in row.items()}), path)
    return path


@pytest.fixture(params=["signed", "unsigned", "encrypted footer", "unsigned, encrypted footer"])
def request_of(request: pytest.FixtureRequest, world: World) -> EncryptSpec:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    for path in world.raw.rglob("*.parquet"):
        path.unlink()
    is_signed = not request.param.startswith("unsigned")
    policy = Policy(
        {"email": world.key},
        footer="encrypted" if "footer" in request.param else "plaintext",
        sign=world.reference("signing") if is_signed else None,
    )
    return EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=policy,
        run=RunOptions(keeps_journal=True, on_source_change=OnSourceChange.REPLACE),
    )


def _with(request: EncryptSpec, **changes: Any) -> EncryptSpec:
    return replace(request, policy=replace(request.policy, **changes))


def _is_refused(world: World, request: EncryptSpec, name: str = "ssn") -> bool:
    """Say whether a run and its plan refuse a column, and nothing is written."""
    before = world.tree()
    planned = report_plan(request)
    with pytest.raises(UnlistedColumnError, match=name) as caught:
        run(request, credentials=world.credentials)
    assert caught.value.exit_code == 5
    assert "encrypt.unlisted: plaintext" in caught.value.hint
    assert any(name.replace("\\", "") in each and "encrypt.unlisted: plaintext" in each for each in planned.conflicts)
    after = {path: data for path, data in world.tree().items() if "/lock/" not in path}
    return after == {path: data for path, data in before.items() if "/lock/" not in path}


_ODD: dict[str, tuple[str, dict[str, object]]] = {
    "new": ("ssn", {"ssn": _NUMBER}),
    "nested": (r"customer\.ssn", {"customer": {"city": "Ulm", "ssn": _NUMBER}}),
    "deeper": (r"more\.person\.ssn", {"more": {"person": {"ssn": _NUMBER}}}),
    "another case": ("EMAIL", {"EMAIL": "b@example.org"}),
    "a case of a plaintext column": ("ID", {"ID": 7}),
}


@pytest.mark.parametrize("odd", _ODD)
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_later_file_with_a_new_column_stops_the_run(
    world: World, request_of: EncryptSpec, suffix: str, odd: str
) -> None:
    name, more = _ODD[odd]
    if suffix == "csv" and any(isinstance(value, dict) for value in more.values()):
        pytest.skip("csv has no nested columns")
    _put(world, f"a.{suffix}")
    run(request_of, credentials=world.credentials)
    _put(world, f"b.{suffix}", **more)
    assert _is_refused(world, request_of, name)
    assert _is_refused(world, replace(request_of, overwrite=True), name)
    # Said once, it is known: later files may have it, too.
    assert run(_with(request_of, unlisted="plaintext"), credentials=world.credentials).files == 1
    _put(world, f"c.{suffix}", **more)
    assert run(request_of, credentials=world.credentials).files == 1


def test_a_name_in_another_case_is_told(world: World, request_of: EncryptSpec) -> None:
    _put(world, "a.parquet")
    run(request_of, credentials=world.credentials)
    _put(world, "b.parquet", EMAIL="b@example.org")
    with pytest.raises(UnlistedColumnError, match="in case only"):
        run(request_of, credentials=world.credentials)


@pytest.mark.parametrize("odd_one", ["a.parquet", "b.parquet", "c.jsonl"])
def test_files_of_a_first_run_are_compared_with_each_other(world: World, request_of: EncryptSpec, odd_one: str) -> None:
    for name in ("a.parquet", "b.parquet", "c.jsonl"):
        _put(world, name, **({"ssn": _NUMBER} if name == odd_one else {}))
    assert _is_refused(world, request_of)
    without_journal = replace(request_of, run=RunOptions())
    with pytest.raises(UnlistedColumnError):
        run(without_journal, credentials=world.credentials)
    assert not list(world.out.rglob("*.parquet"))


def test_fewer_columns_and_listed_ones_are_fine(world: World, request_of: EncryptSpec) -> None:
    _put(world, "a.parquet", more=1)
    run(request_of, credentials=world.credentials)
    _put(world, "b.parquet")
    assert run(request_of, credentials=world.credentials).files == 1
    assert report_plan(request_of).conflicts == ()


def test_a_column_that_was_encrypted_does_not_go_out_because_nobody_lists_it_any_more(
    world: World, request_of: EncryptSpec
) -> None:
    _put(world, "a.parquet", ssn=_NUMBER)
    listed = _with(request_of, columns={"email": world.key, "ssn": world.key})
    run(listed, credentials=world.credentials)
    assert _is_refused(world, request_of)


def test_unlisted_columns_are_encrypted_where_that_is_said(world: World, request_of: EncryptSpec) -> None:
    _put(world, "a.parquet")
    _put(world, "b.parquet", ssn=_NUMBER)
    encrypting = _with(request_of, unlisted="encrypt")
    assert report_plan(encrypting).columns_by_key == ((world.key, 3),)
    run(encrypting, credentials=world.credentials)
    assert all(_NUMBER.encode() not in data for data in world.tree().values())
    with pytest.raises(PolicyError, match="several keys"):
        _with(request_of, unlisted="encrypt", columns={"email": world.key, "id": world.reference("other")})
    several = _with(
        request_of,
        unlisted="encrypt",
        columns={"email": world.key, "id": world.reference("other")},
        default=world.reference("other"),
    )
    assert dict(report_plan(several).columns_by_key)[world.reference("other")] == 2


def test_a_new_column_can_be_encrypted_with_all_that_was_there(world: World, request_of: EncryptSpec) -> None:
    _put(world, "a.parquet")
    run(request_of, credentials=world.credentials)
    _put(world, "b.parquet", ssn=_NUMBER)
    assert _is_refused(world, request_of)
    assert run(_with(request_of, unlisted="encrypt"), credentials=world.credentials).files == 2
    assert all(_NUMBER.encode() not in data for data in world.tree().values())


def test_unlisted_columns_are_refused_where_that_is_said(world: World, request_of: EncryptSpec) -> None:
    _put(world, "a.parquet")
    refusing = _with(request_of, unlisted="refuse")
    assert any("'id'" in each for each in report_plan(refusing).conflicts)
    with pytest.raises(UnlistedColumnError):
        run(refusing, credentials=world.credentials)
    assert not list(world.out.rglob("*.parquet"))
    single = replace(refusing, source=Location(str(world.raw / "a.parquet")), sink=Location(str(world.out / "one")))
    with pytest.raises(UnlistedColumnError):
        run(replace(single, run=RunOptions()), credentials=world.credentials)
    assert not (world.out / "one").exists()
    schema = pa.schema([("email", pa.string()), ("id", pa.int64())])
    with pytest.raises(UnlistedColumnError):
        pc.ParquetWriter(world.root / "w.parquet", schema, refusing.policy, credentials=world.credentials)
    every = _with(refusing, columns={"*": world.key})
    assert run(every, credentials=world.credentials).files == 1


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note nothing, as earlier versions did."""
    for module in (manifest, journal):
        monkeypatch.setattr(module, "fits_clear_columns", lambda columns: False)


@pytest.mark.parametrize("is_gone", [False, True])
def test_sinks_where_nobody_noted_columns(
    world: World, request_of: EncryptSpec, is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(world, "a.parquet", other=1)
    _put(world, "b.parquet", other=1)
    with monkeypatch.context() as patch:
        _forget(patch)
        run(request_of, credentials=world.credentials)
    assert not any(b"clear" in data for data in world.tree().values() if request_of.policy.sign is None)
    if is_gone:
        (world.raw / "a.parquet").unlink()
    _put(world, "c.parquet", other=1)
    assert run(request_of, credentials=world.credentials).files == 1
    _put(world, "d.parquet", ssn=_NUMBER)
    assert _is_refused(world, request_of)


@pytest.mark.parametrize("request_of", ["signed", "encrypted footer"], indirect=True)
def test_no_statement_says_of_all_files_what_was_seen_of_some(
    world: World, request_of: EncryptSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a column would be promised to be encrypted everywhere that a file has in plaintext, which nobody opened."""
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "fits_clear_columns", lambda columns: False)  # as releases did that noted none
        for number in range(40):
            _put(world, f"f{number:02}.parquet", **({"ssn": _NUMBER} if number == 4 else {}))
        run(_with(request_of, unlisted="plaintext"), credentials=world.credentials)
    _put(world, "new.parquet")
    run(request_of, credentials=world.credentials)
    version = read_version(*locate(Location(str(world.out))), None)
    assert version is not None
    assert len(version.entries) == 41
    assert version.clear_columns is None or ("ssn",) in version.clear_columns


def test_nothing_that_lies_in_a_signed_sink_unsigned_widens_it(world: World, request_of: EncryptSpec) -> None:
    if request_of.policy.sign is None:
        pytest.skip("journals of runs that do not sign are as trustworthy as the sink")
    _put(world, "a.parquet")
    run(request_of, credentials=world.credentials)
    # Another sink, written by the same runs without a signature, says that the column is known.
    other = replace(_with(request_of, sign=None, unlisted="plaintext"), sink=Location(str(world.root / "other")))
    _put(world, "b.parquet", ssn=_NUMBER)
    run(other, credentials=world.credentials)
    for path in (world.root / "other/_pipecrypt/runs").rglob("*"):
        if path.is_file():
            place = world.out / "_pipecrypt/runs" / path.relative_to(world.root / "other/_pipecrypt/runs")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    assert _is_refused(world, request_of)


@pytest.mark.parametrize("unlisted", [None, "plaintext"])
def test_a_continued_run_knows_what_it_noted(world: World, request_of: EncryptSpec, unlisted: str | None) -> None:
    for name in ("a.parquet", "b.parquet"):
        _put(world, name)

    def die(event: object) -> None:
        if isinstance(event, FileDone):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        run(_with(request_of, unlisted=unlisted), credentials=world.credentials, on_event=die)
    _put(world, "c.parquet", ssn=_NUMBER)
    resuming = replace(request_of, run=replace(request_of.run, resumes=True))
    with pytest.raises(UnlistedColumnError):
        run(resuming, credentials=world.credentials)
    (world.raw / "c.parquet").unlink()
    run(resuming, credentials=world.credentials)
    _put(world, "c.parquet", ssn=_NUMBER)
    assert _is_refused(world, request_of)


def test_a_deep_rotation_keeps_what_was_noted(world: World, request_of: EncryptSpec) -> None:
    _put(world, "a.parquet")
    run(_with(request_of, unlisted="plaintext"), credentials=world.credentials)
    sign = request_of.policy.sign
    pc.rotate(
        str(world.out),
        world.key,
        world.reference("other"),
        deep=True,
        credentials=world.credentials,
        **({} if sign is None else {"sign": sign}),  # type: ignore[arg-type]
    )
    _put(world, "b.parquet", ssn=_NUMBER)
    rotated = _with(request_of, columns={"email": world.reference("other")})
    assert _is_refused(world, rotated)


@pytest.mark.parametrize("change", [{"unlisted": "plaintext"}, {"unlisted": "refuse"}])
def test_what_is_refused_makes_no_other_task(world: World, request_of: EncryptSpec, change: dict[str, str]) -> None:
    for path in ("a.parquet", "b.parquet"):
        _put(world, path)
    before, after = (report_plan(each).tasks for each in (request_of, _with(request_of, **change)))
    assert before == after


_WRONG: dict[str, Callable[[str], Policy]] = {
    "a word": lambda key: Policy({"a": key}, unlisted="hide"),
    "plaintext beside a default": lambda key: Policy({"a": key}, default=key, unlisted="plaintext"),
    "refused beside a default": lambda key: Policy(default=key, unlisted="refuse"),
    "chunks": lambda key: Policy(default=key, mode="chunks", unlisted="encrypt"),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_policies_that_contradict_themselves(wrong: str, world: World) -> None:
    with pytest.raises(PolicyError):
        _WRONG[wrong](world.key)
