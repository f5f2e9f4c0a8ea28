"""What `plan` tells: tasks, keys, calls, conflicts, drift; and runs of a saved plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import ConflictError, FormatError, SourceNotFoundError
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.plan.preview import read_saved_plan, report_plan, save_plan
from pipecrypt.runs.report.events import Event, FileDone
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import NAMES, World, write_table


@pytest.fixture(params=["signed", "unsigned"])
def request_of(request: pytest.FixtureRequest, world: World) -> EncryptSpec:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    sign = world.reference("signing") if request.param == "signed" else None
    return EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(columns={"email": world.key}, sign=sign),
        workers=2,
        run=RunOptions(keeps_journal=True),
    )


def test_a_first_run(world: World, request_of: EncryptSpec) -> None:
    report = report_plan(request_of)
    assert [task.path for task in report.tasks] == list(NAMES)
    assert (report.to_do, report.skipped, report.batches, report.workers) == (3, 0, 12, 2)
    assert report.source_bytes == sum(path.stat().st_size for path in world.raw.rglob("*.parquet"))
    assert report.columns_by_key == ((world.key, 1), (None, 1))
    assert report.wrapping_calls == 2
    assert (report.signing_calls > 0) is (request_of.policy.signing is not None)
    assert (report.conflicts, report.drifts) == ((), ())
    assert not world.out.exists()


def test_what_is_done_and_what_changed(world: World, request_of: EncryptSpec) -> None:
    run(request_of, credentials=world.credentials)
    before = world.tree()
    done = report_plan(request_of)
    assert (done.to_do, done.skipped, done.conflicts, done.wrapping_calls, done.signing_calls) == (0, 3, (), 0, 0)
    assert done.batches == 0
    write_table(world.raw / NAMES[0], 5)
    (world.raw / NAMES[2]).unlink()
    changed = report_plan(request_of)
    assert (changed.to_do, changed.replaced, changed.removed) == (1, (NAMES[0],), (NAMES[2],))
    assert len(changed.conflicts) == 1
    replacing = replace(request_of, run=replace(request_of.run, on_source_change=OnSourceChange.REPLACE))
    assert report_plan(replacing).conflicts == ()
    assert world.tree() == before


def test_conflicts_are_told(world: World, request_of: EncryptSpec) -> None:
    def look(event: Event) -> None:
        if isinstance(event, FileDone):
            told = report_plan(request_of).conflicts
            assert any("is writing there now" in each for each in told)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        run(request_of, credentials=world.credentials, on_event=look)
    assert any("was not finished" in each for each in report_plan(request_of).conflicts)
    resuming = replace(request_of, run=replace(request_of.run, resumes=True))
    assert report_plan(resuming).conflicts == ()


def test_files_of_others_are_told(world: World, request_of: EncryptSpec) -> None:
    write_table(world.out / "other.parquet")
    assert any("no run" in each for each in report_plan(request_of).conflicts)


def test_drift_is_told(world: World, request_of: EncryptSpec) -> None:
    pq.write_table(pa.table({"id": ["text"], "email": ["a"], "more": [1]}), world.raw / "b.parquet")
    pq.write_table(pa.table({"id": [1]}), world.raw / "c.parquet")
    (world.raw / "d.parquet").write_bytes(b"no table")
    found = {drift.source: drift for drift in report_plan(request_of).drifts}
    assert found.keys() == {"b.parquet", "c.parquet", "d.parquet"}
    assert (found["b.parquet"].added, found["b.parquet"].retyped) == (("more",), ("id",))
    assert found["c.parquet"].problem is not None  # the policy names a column that it lacks
    assert found["d.parquet"].problem is not None


def test_a_saved_plan_is_done_as_it_was_planned(world: World, request_of: EncryptSpec, tmp_path: Path) -> None:
    place = tmp_path / "plan.json"
    save_plan(report_plan(request_of), place)
    write_table(world.raw / "later.parquet", 5)
    planned = replace(request_of, only_tasks=read_saved_plan(place, request_of.sink))
    assert run(planned, credentials=world.credentials).files == 3
    write_table(world.raw / NAMES[0], 5)
    with pytest.raises(ConflictError, match="1 of 3 tasks"):
        run(planned, credentials=world.credentials)
    other = replace(planned, policy=replace(planned.policy, footer="encrypted"))
    with pytest.raises(ConflictError, match="3 of 3 tasks"):
        run(other, credentials=world.credentials)


def test_what_a_saved_plan_leaves_out_is_not_gone(world: World, request_of: EncryptSpec, tmp_path: Path) -> None:
    save_plan(report_plan(request_of), tmp_path / "plan.json")
    write_table(world.raw / "later.parquet", 5)
    run(request_of, credentials=world.credentials)
    saved = read_saved_plan(tmp_path / "plan.json", request_of.sink)
    for choice in OnSourceChange:
        options = replace(request_of.run, on_source_change=choice)
        planned = replace(request_of, only_tasks=saved, run=options)
        summary = run(planned, credentials=world.credentials)
        assert (summary.files, summary.removed) == (0, ())
    assert (world.out / "later.parquet").exists()
    assert run(request_of, credentials=world.credentials).files == 0


def test_a_saved_plan_is_for_its_sink(request_of: EncryptSpec, tmp_path: Path) -> None:
    save_plan(report_plan(request_of), tmp_path / "plan.json")
    assert read_saved_plan(tmp_path / "plan.json", request_of.sink)
    with pytest.raises(ConflictError):
        read_saved_plan(tmp_path / "plan.json", Location(str(tmp_path / "elsewhere")))


def test_drift_is_from_the_first_source_though_it_is_done(world: World, request_of: EncryptSpec) -> None:
    run(request_of, credentials=world.credentials)
    pq.write_table(pa.table({"id": [1], "email": ["a"], "more": [1]}), world.raw / "new.parquet")
    assert [drift.added for drift in report_plan(request_of).drifts] == [("more",)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"version": 2, "sink": "s", "tasks": []}',
        b'{"version": 1, "tasks": []}',
        b'{"version": 1, "sink": "s", "tasks": []}',
        b'{"version": 1, "sink": "s", "tasks": [{"id": "../x"}]}',
        b"{" * 9999,
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(FormatError):
        read_saved_plan(tmp_path / "plan.json", Location("s"))
    with pytest.raises(SourceNotFoundError):
        read_saved_plan(tmp_path / "none.json", Location("s"))


def test_a_plan_holds_no_storage_options(world: World, request_of: EncryptSpec, tmp_path: Path) -> None:
    secret = replace(request_of, source=Location(str(world.raw), {"auto_mkdir": "s3cr3t"}))
    save_plan(report_plan(secret), tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    assert "s3cr3t" not in text
    assert json.loads(text)["tasks"][0].keys() == {"id", "source", "path", "source_bytes"}
