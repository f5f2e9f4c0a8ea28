"""Files that a deep rotation put under a successor are done, where the configuration names the successor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.errors import ConflictError
from pipecrypt.keys.keystores import create_key, remove_keys
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.report.events import Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange
from pipecrypt.runs.spec.spec import EncryptSpec
from tests.faults.scenes import SCENES, Shop, prepare, write_source

_NAMES = ("first", "unsigned", "csv", "unsigned-csv", "chunks")


def _rotate(shop: Shop, old: str, new: str) -> None:
    sign = {"sign": [shop.key("signing")]} if shop.scene.is_signed else {}
    pc.rotate(shop.sink, shop.key(old), shop.key(new), deep=True, credentials=shop.credentials, **sign)


def _request(shop: Shop, key: str) -> EncryptSpec:
    request = shop.request()
    policy = request.policy
    policy = replace(
        policy,
        columns=dict.fromkeys(policy.columns or (), shop.key(key)),
        default=None if policy.default is None else shop.key(key),
    )
    return replace(request, policy=policy, run=replace(request.run, on_source_change=OnSourceChange.FAIL))


def _run(shop: Shop, key: str) -> Summary:
    return run(_request(shop, key), credentials=shop.credentials)


def _data(shop: Shop) -> dict[str, bytes]:
    return {name: data for name, data in shop.files().items() if not name.startswith("_pipecrypt/")}


def _journals(shop: Shop) -> int:
    return len([name for name in shop.files() if name.endswith("/finished.json")])


def _prepared(name: str, tmp_path: Path) -> Shop:
    shop = prepare(SCENES[name], tmp_path).at(tmp_path / "sink")
    create_key(shop.key("pii2"), "aes256", shop.credentials)
    _run(shop, "pii")
    return shop


def _destroy(shop: Shop) -> None:
    remove_keys(shop.key("pii"), None, shop.credentials)


@pytest.mark.parametrize("name", _NAMES)
def test_files_under_the_successor_are_done(name: str, tmp_path: Path) -> None:
    shop = _prepared(name, tmp_path)
    _rotate(shop, "pii", "pii2")
    rotated = _data(shop)
    planned = report_plan(_request(shop, "pii2"))
    assert (planned.to_do, planned.conflicts) == (0, ())
    assert _run(shop, "pii2").files == 0
    assert _data(shop) == rotated
    # It was noted, so the old key may go, and runs have nothing to do.
    _destroy(shop)
    finished = _journals(shop)
    assert report_plan(_request(shop, "pii2")).to_do == 0
    assert _run(shop, "pii2").files == 0
    assert _journals(shop) == finished
    write_source(shop.raw, "new", 9, shop.scene.kind)
    assert report_plan(_request(shop, "pii2")).to_do == 1
    assert _run(shop, "pii2").files >= 1
    assert {name: data for name, data in _data(shop).items() if name in rotated} == rotated
    if shop.scene.is_signed:
        pc.verify(shop.sink, [shop.key("signing")], keys=[shop.key("pii2")], credentials=shop.credentials)


@pytest.mark.parametrize("name", _NAMES)
def test_new_sources_beside_files_under_the_successor(name: str, tmp_path: Path) -> None:
    shop = _prepared(name, tmp_path)
    _rotate(shop, "pii", "pii2")
    rotated = _data(shop)
    write_source(shop.raw, "0-new", 9, shop.scene.kind)
    assert report_plan(_request(shop, "pii2")).to_do == 1
    assert all(part.path.startswith("0-new") for part in _run(shop, "pii2").parts)
    assert {name: data for name, data in _data(shop).items() if name in rotated} == rotated


_NOT_DONE: dict[str, Callable[[Shop], None]] = {
    "not rotated": lambda shop: None,
    "rotated to another key": lambda shop: _rotate(shop, "pii", "other"),
    "shared only": lambda shop: (
        pc.rotate(shop.sink, shop.key("pii"), shop.key("pii2"), credentials=shop.credentials) and None
    ),
}


@pytest.mark.parametrize("way", _NOT_DONE)
@pytest.mark.parametrize("name", ["first", "unsigned", "chunks"])
def test_files_that_are_not_under_the_key_of_the_policy_are_not_done(name: str, way: str, tmp_path: Path) -> None:
    shop = _prepared(name, tmp_path)
    _NOT_DONE[way](shop)
    assert report_plan(_request(shop, "pii2")).to_do == 3
    assert len(report_plan(_request(shop, "pii2")).conflicts) == 1
    with pytest.raises(ConflictError, match="policy changed"):
        _run(shop, "pii2")


def test_files_of_a_rotation_that_reached_some_are_told_apart(tmp_path: Path) -> None:
    shop = _prepared("unsigned", tmp_path)
    pc.rotate(f"{shop.sink}/a.parquet", shop.key("pii"), shop.key("pii2"), deep=True, credentials=shop.credentials)
    assert report_plan(_request(shop, "pii2")).to_do == 2


@pytest.mark.parametrize("name", ["first", "unsigned"])
def test_a_successor_in_another_keystore_is_found_by_the_keys_that_are_listed(name: str, tmp_path: Path) -> None:
    shop = _prepared(name, tmp_path)
    elsewhere = f"keystore://{tmp_path}/elsewhere.json#pii"
    create_key(elsewhere, "aes256", shop.credentials)
    sign = {"sign": [shop.key("signing")]} if shop.scene.is_signed else {}
    pc.rotate(shop.sink, shop.key("pii"), elsewhere, deep=True, credentials=shop.credentials, **sign)
    request = _request(shop, "pii")
    request = replace(request, policy=replace(request.policy, columns={"email": elsewhere}))
    assert report_plan(request).to_do == 3
    listed = replace(request, known_keys=(elsewhere, shop.key("pii")))
    assert report_plan(listed).to_do == 0
    assert run(listed, credentials=shop.credentials).files == 0
    assert run(request, credentials=shop.credentials).files == 0


def test_forged_footers_in_a_signed_dataset_mark_nothing_as_done(tmp_path: Path) -> None:
    shop = _prepared("first", tmp_path)
    forged = shop.at(tmp_path / "forged")
    for name, data in _data(shop).items():
        place = tmp_path / "forged" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    pc.rotate(forged.sink, shop.key("pii"), shop.key("pii2"), deep=True, credentials=shop.credentials)
    for name, data in _data(forged).items():
        (Path(shop.sink) / name).write_bytes(data)
    assert report_plan(_request(shop, "pii2")).to_do == 3
    with pytest.raises(ConflictError):
        _run(shop, "pii2")


def test_a_source_that_changed_as_well_is_not_done(tmp_path: Path) -> None:
    shop = _prepared("first", tmp_path)
    _rotate(shop, "pii", "pii2")
    write_source(shop.raw, "a", 9, "parquet", "new")
    report = report_plan(_request(shop, "pii2"))
    assert (report.to_do, report.replaced) == (1, ("a.parquet",))


@pytest.mark.parametrize("name", ["first", "unsigned"])
def test_a_new_version_of_the_same_key_changes_nothing(name: str, tmp_path: Path) -> None:
    shop = _prepared(name, tmp_path)
    create_key(shop.key("pii"), "aes256", shop.credentials, new_version=True)
    _rotate(shop, "pii", "pii")
    report = report_plan(_request(shop, "pii"))
    assert (report.to_do, report.conflicts) == (0, ())
    assert _run(shop, "pii").files == 0
