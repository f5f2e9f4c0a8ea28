"""What runs do about what earlier runs and others left: continue, replace, remove, refuse; and plans say the same."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipecrypt as pc
from pipecrypt.errors import ConflictError, PipecryptError, SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs import directory_run
from pipecrypt.runs.journal import journal
from pipecrypt.runs.plan.preview import PlanReport, report_plan
from pipecrypt.runs.report.events import FileDone
from pipecrypt.runs.report.report import read_report
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store import undo
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from tests.faults.scenes import SCENES, Scene, Shop, StoppedError, prepare, stop, write_source


@pytest.fixture(autouse=True)
def every_task_is_noted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 0.0)


def _shop(scene: Scene, tmp_path: Path) -> Shop:
    return prepare(scene, tmp_path).at(tmp_path / "sink")


def _data(shop: Shop) -> list[str]:
    return sorted(name for name in shop.files() if not name.startswith("_pipecrypt/"))


def _plan(shop: Shop, *, resumes: bool = False) -> PlanReport:
    return report_plan(shop.request(resumes=resumes))


@pytest.mark.parametrize("scene", [SCENES["csv"], SCENES["unsigned-csv"]], ids=["signed", "unsigned"])
def test_fewer_files_of_a_source_leave_no_old_rows(scene: Scene, tmp_path: Path) -> None:
    shop = _shop(scene, tmp_path)
    shop.run()
    before = _data(shop)
    write_source(shop.raw, "day=1/b", 5, "csv", "new")
    shop.run()
    assert len(_data(shop)) < len(before)
    assert shop.plaintext() == shop.expected()
    assert shop.run().files == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_fewer_files_that_a_stopped_run_noted_leave_no_old_rows(overwrite: bool, tmp_path: Path) -> None:
    shop = prepare(SCENES["unsigned-csv-next"], tmp_path).fresh("sink")
    stop(shop, 1)
    shop.run(resumes=True, overwrite=overwrite)
    assert shop.plaintext() == shop.expected()
    assert shop.run().removed == ()


@pytest.mark.parametrize("name", ["csv", "unsigned-csv"])
def test_an_overwriting_run_leaves_no_old_rows(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = _shop(SCENES[name], tmp_path)
    shop.run()
    write_source(shop.raw, "day=1/b", 5, "csv", "new")
    foreign = Path(shop.sink) / "a-00099.parquet"
    if not shop.scene.is_signed:
        foreign.write_bytes(b"of somebody else")
    shop.run(overwrite=True)
    if not shop.scene.is_signed:
        assert "a-00099.parquet" in caplog.text
        foreign.unlink()
    assert shop.plaintext() == shop.expected()


@pytest.mark.parametrize("change", ["gone", "renamed", "put into a directory"])
@pytest.mark.parametrize("name", ["first", "csv", "chunks", "unsigned", "unsigned-csv"])
def test_an_overwriting_run_leaves_nothing_of_sources_that_are_gone(name: str, change: str, tmp_path: Path) -> None:
    shop = _shop(SCENES[name], tmp_path)
    shop.run()
    left = {path for path in _data(shop) if path.startswith("day=2/c")}
    source = next(shop.raw.glob("day=2/c*"))
    if change == "gone":
        source.unlink()
    else:
        place = shop.raw / ("day=2/moved" if change == "renamed" else "day=2/c") / source.name.replace("c.", "z.")
        place.parent.mkdir()
        source.rename(place)
    planned = report_plan(shop.request(overwrite=True))
    done = shop.run(overwrite=True)
    assert left <= set(done.removed) == set(planned.removed)
    assert left.isdisjoint(_data(shop))
    assert shop.plaintext() == shop.expected()
    if shop.scene.is_signed:
        shop.verify()


def test_a_split_source_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    shop = _shop(SCENES["first"], tmp_path)

    def split(*, overwrite: bool = False) -> EncryptSpec:
        request = shop.request(overwrite=overwrite)
        return replace(request, run=replace(request.run, split_bytes=500))

    run(split(), credentials=shop.credentials)
    assert len([path for path in _data(shop) if path.startswith("day=1/b-")]) > 1
    (shop.raw / "day=1/b.parquet").unlink()
    run(split(overwrite=True), credentials=shop.credentials)
    assert shop.plaintext() == shop.expected()


@pytest.mark.parametrize("name", ["first", "unsigned"])
def test_an_overwriting_run_that_is_not_to_remove_says_what_stays(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = _shop(SCENES[name], tmp_path)
    shop.run()
    (shop.raw / "day=2/c.parquet").unlink()
    request = shop.request(overwrite=True)
    keeping = replace(request, run=replace(request.run, on_source_change=OnSourceChange.FAIL))
    assert report_plan(keeping).removed == ()
    assert run(keeping, credentials=shop.credentials).removed == ()
    assert "day=2/c.parquet" in _data(shop)
    assert "day=2/c.parquet" in caplog.text


def test_files_of_an_attempt_that_was_not_noted_leave_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = _shop(SCENES["unsigned-csv"], tmp_path)

    def die(self: object, done: FileDone) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(directory_run.DirectoryRun, "add", die)
        with pytest.raises(StoppedError):
            shop.run()
    first = _data(shop)
    assert len(first) > 1
    write_source(shop.raw, "a", 3, "csv", "new")
    shop.run(resumes=True)
    assert not set(first) <= set(_data(shop))
    assert shop.plaintext() == shop.expected()


@pytest.mark.parametrize("name", ["first", "unsigned"])
def test_a_saved_plan_that_continues_a_run_drops_nothing(name: str, tmp_path: Path) -> None:
    shop = _shop(SCENES[name], tmp_path)
    stop(shop, 1)
    kept = _data(shop)
    planned = _plan(shop, resumes=True)
    assert planned.to_do == 2
    ids = frozenset(task.id for task in planned.tasks[2:])
    done = run(replace(shop.request(resumes=True), only_tasks=ids), credentials=shop.credentials)
    assert (done.files, done.removed) == (1, ())
    assert set(kept) < set(_data(shop))
    if shop.scene.is_signed:
        assert shop.verify() == 1
    assert shop.run().files == 1
    assert shop.plaintext() == shop.expected()


def test_what_a_continued_run_removes_is_told(tmp_path: Path) -> None:
    shop = _shop(SCENES["unsigned"], tmp_path)
    stop(shop, 1)
    (shop.raw / "a.parquet").unlink()
    assert _plan(shop, resumes=True).removed == ("a.parquet",)
    assert shop.run(resumes=True).removed == ("a.parquet",)
    assert shop.plaintext() == shop.expected()


@pytest.mark.parametrize("name", ["first", "unsigned", "next", "unsigned-next"])
def test_an_overwriting_run_is_continued(name: str, tmp_path: Path) -> None:
    shop = prepare(SCENES[name], tmp_path).fresh("sink")
    stop(shop, 2)
    assert shop.run(resumes=True, overwrite=True).files == 1
    if shop.scene.is_signed:
        shop.verify()
    assert shop.plaintext() == shop.expected()
    assert shop.run(overwrite=True).files == 3


def test_a_plan_knows_that_a_signed_run_is_over(tmp_path: Path) -> None:
    shop = _shop(SCENES["first"], tmp_path)
    shop.run()
    next(Path(shop.sink).glob("_pipecrypt/runs/*/finished.json")).unlink()
    planned = _plan(shop)
    assert (planned.conflicts, planned.to_do, planned.signing_calls) == ((), 0, 0)
    assert shop.run().files == 0


@pytest.mark.parametrize("stray", ["x.parquet", "x-00077.parquet"])
@pytest.mark.parametrize("name", ["first", "csv"])
def test_files_of_others_in_a_signed_sink_are_not_touched(name: str, stray: str, tmp_path: Path) -> None:
    shop = _shop(SCENES[name], tmp_path)
    shop.run()
    write_source(shop.raw, "x", 9, shop.scene.kind)
    foreign = Path(shop.sink) / stray
    foreign.write_bytes(b"of somebody else")
    assert len(_plan(shop).conflicts) == 1
    with pytest.raises(ConflictError):
        shop.run()
    assert foreign.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("name", ["first", "unsigned"])
def test_a_continued_run_replaces_its_own_files_only(name: str, tmp_path: Path) -> None:
    shop = _shop(SCENES[name], tmp_path)
    stop(shop, 1)
    foreign = Path(shop.sink) / "day=1/b.parquet"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"of somebody else")
    with pytest.raises((ConflictError, SinkNotEmptyError)):
        shop.run(resumes=True)
    assert foreign.read_bytes() == b"of somebody else"
    foreign.unlink()
    shop.run(resumes=True)
    assert shop.plaintext() == shop.expected()


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_source_that_was_put_back_is_done_again(
    tmp_path: Path, is_noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = _shop(SCENES["unsigned"], tmp_path)
    shop.run()
    source, kept = shop.raw / "a.parquet", tmp_path / "kept"
    os.link(source, kept)
    source.unlink()
    write_source(shop.raw, "a", 60, "parquet", "neu")  # the same size
    with monkeypatch.context() as patch:
        if not is_noted:
            patch.setattr(journal.Journal, "add", lambda self, record, clear: None)
            patch.setattr(journal.Journal, "flush", lambda self: None)
        stop(shop, 1)
    source.unlink()
    shutil.move(kept, source)  # the same inode and time as before
    assert _plan(shop, resumes=True).to_do == 1
    assert shop.run(resumes=True).files == 1
    assert shop.plaintext() == shop.expected()


def test_unsigned_runs_into_one_directory_keep_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = _shop(SCENES["unsigned"], tmp_path)
    ids = set()
    real = directory_run._writing_plan

    def note(plan: Any, to_do: Any, header: directory_run.RunHeader, *rest: Any) -> object:
        ids.add(header.dataset_id)
        return real(plan, to_do, header, *rest)

    monkeypatch.setattr(directory_run, "_writing_plan", note)
    for number in range(3):
        write_source(shop.raw, f"more-{number}", 9, "parquet")
        shop.run()
    assert len(ids) == 1
    shop.run(overwrite=True)
    assert len(ids) == 2


@pytest.mark.parametrize("name", ["unsigned", "first"])
def test_keys_that_do_not_open_leave_a_finished_sink_finished(name: str, tmp_path: Path) -> None:
    shop = _shop(SCENES[name], tmp_path)
    shop.run()
    before = set(shop.files())
    with pytest.raises(PipecryptError):
        run(shop.request(overwrite=True), credentials=Credentials({}))
    assert {name for name in set(shop.files()) - before if not name.endswith("/report.json")} == set()
    assert shop.run().files == 0


def test_a_deep_rotation_between_unsigned_runs_is_no_conflict(tmp_path: Path) -> None:
    shop = _shop(SCENES["unsigned"], tmp_path)
    shop.run()
    sizes = {name: len(content) for name, content in shop.files().items() if name in _data(shop)}
    longer = shop.key("a-master-key-with-a-longer-name")
    create_key(longer, "aes256", shop.credentials)
    pc.rotate(shop.sink, shop.key("pii"), longer, deep=True, credentials=shop.credentials)
    assert any(len(content) != sizes[name] for name, content in shop.files().items() if name in sizes)
    assert _plan(shop).conflicts == ()
    assert shop.run().files == 0


def test_a_stopped_rotation_is_named(tmp_path: Path) -> None:
    shop = _shop(SCENES["first"], tmp_path)
    shop.run()
    place = Location(f"{shop.sink}/a.parquet")
    source = open_store(place).stat().file()
    assert source is not None
    undo.write_undo(source, source.size_bytes - 100)
    undo.replace_tail(source, source.size_bytes - 100, b"of another size")
    with pytest.raises(ConflictError) as caught:
        shop.run()
    assert "rotation" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name", ["99999999T999999Z-00000000", "20260230T000000Z-00000000", "99991231T235959Z-00000000"]
)
def test_directories_that_are_of_no_run_are_left_alone(name: str, tmp_path: Path) -> None:
    shop = _shop(SCENES["unsigned"], tmp_path)
    shop.run()
    strange = Path(shop.sink) / "_pipecrypt/runs" / name
    strange.mkdir()
    (strange / "parts-000000.jsonl").write_text("")
    write_source(shop.raw, "more", 9, "parquet")
    assert _plan(shop).to_do == 1
    assert shop.run().files == 1
    shop.clean()
    (strange / "report.json").write_text("{}")
    assert read_report(Location(shop.sink), None).run_id != name
    assert strange.exists()


def test_a_directory_of_the_last_run_there_can_be_is_named(tmp_path: Path) -> None:
    shop = _shop(SCENES["unsigned"], tmp_path)
    last = Path(shop.sink) / "_pipecrypt/runs/89991231T235959Z-00000000"
    last.mkdir(parents=True)
    (last / "finished.json").write_text("{}")
    with pytest.raises(ConflictError, match=last.name):
        shop.run()
    shutil.rmtree(last)
    assert shop.run().files > 0
