"""Runs that keep a journal: what they resume, skip, replace, remove and refuse; and what `clean` leaves and takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    NotTrustedError,
    SinkNotEmptyError,
    UnsafeSinkError,
    UsageError,
    VerificationError,
)
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs import directory_run
from pipecrypt.runs.journal.cleaning import CleanSummary, clean
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.report.events import Event, FileDone, FileStarted, Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from pipecrypt.store.publication import temporary_name
from tests.runs.conftest import NAMES, World, write_table


class _StoppedError(Exception):
    """What stops a run in these tests."""


@dataclass(frozen=True)
class Runs:
    """Runs of one configuration."""

    world: World
    is_signed: bool
    sink: str

    def request(self, **options: object) -> EncryptSpec:
        policy = {"columns": {"email": self.world.key}}
        if self.is_signed:
            policy["sign"] = self.world.reference("signing")  # type: ignore[assignment]
        overwrite = bool(options.pop("overwrite", False))
        return EncryptSpec(
            source=Location(str(self.world.raw)),
            sink=Location(self.sink),
            policy=Policy(**policy),  # type: ignore[arg-type]
            overwrite=overwrite,
            run=RunOptions(keeps_journal=True, **options),  # type: ignore[arg-type]
        )

    def run(self, *, stop_after: int | None = None, **options: object) -> Summary:
        """Run, and stop after so many files, as a kill would, but for the lock and the last block."""
        done = 0

        def count(event: Event) -> None:
            nonlocal done
            done += isinstance(event, FileDone)
            if done == stop_after:
                raise _StoppedError

        return run(self.request(**options), credentials=self.world.credentials, on_event=count)

    def stop(self, after: int, **options: object) -> None:
        with pytest.raises(_StoppedError):
            self.run(stop_after=after, **options)

    def names(self) -> list[str]:
        fs, path = fsspec.core.url_to_fs(self.sink)
        return sorted(name[len(path) :].lstrip("/") for name in fs.find(path))

    def data(self) -> list[str]:
        return [name for name in self.names() if not name.startswith("_pipecrypt/")]

    def emails(self) -> set[str]:
        trust = [self.world.reference("signing")] if self.is_signed else None
        opened = pc.open(
            self.sink,
            keys=[self.world.key],
            trust=trust,
            verify="read" if trust else "off",
            credentials=self.world.credentials,
        )
        with opened:
            return set(opened.to_table(["email"])["email"].to_pylist())

    def plaintext(self) -> set[str]:
        return {
            email for path in self.world.raw.rglob("*.parquet") for email in pq.read_table(path)["email"].to_pylist()
        }

    def clean(self, hours: float = 0, *, dry_run: bool = False) -> CleanSummary:
        return clean(self.sink, grace=timedelta(hours=hours), dry_run=dry_run)


@pytest.fixture(params=["signed", "unsigned", "signed in memory"])
def runs(request: pytest.FixtureRequest, world: World) -> Iterator[Runs]:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    if request.param != "signed in memory":
        yield Runs(world, request.param == "signed", str(world.out))
        return
    yield Runs(world, True, f"memory://{world.root.name}-runs")
    fsspec.filesystem("memory").rm(f"/{world.root.name}-runs", recursive=True)


@pytest.fixture
def signed(world: World) -> Runs:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    return Runs(world, True, str(world.out))


def test_a_second_run_has_nothing_to_do(runs: Runs) -> None:
    first = runs.run()
    assert (first.files, first.skipped) == (3, 0)
    before = runs.names()
    again = runs.run()
    assert (again.files, again.skipped, again.signed) == (0, 3, ())
    assert runs.names() == before
    assert runs.emails() == runs.plaintext()


def test_only_new_sources_are_encrypted(runs: Runs) -> None:
    runs.run()
    write_table(runs.world.raw / "day=3/new.parquet", 10)
    second = runs.run()
    assert (second.files, second.skipped) == (1, 3)
    assert [part.path for part in second.parts] == ["day=3/new.parquet"]
    assert [each.version for each in second.signed] == ([2] if runs.is_signed else [])
    assert runs.emails() == runs.plaintext()
    assert runs.run().files == 0


def test_what_changed_or_is_gone_stops_the_run(runs: Runs) -> None:
    runs.run()
    before = runs.emails()
    write_table(runs.world.raw / NAMES[0], 7)
    (runs.world.raw / NAMES[2]).unlink()
    with pytest.raises(ConflictError) as caught:
        runs.run()
    assert NAMES[0] in caught.value.message
    assert NAMES[2] in caught.value.message
    assert runs.emails() == before
    assert not [name for name in runs.names() if "/lock/" in name]


def test_what_changed_or_is_gone_is_replaced_and_removed_on_demand(runs: Runs) -> None:
    runs.run()
    write_table(runs.world.raw / NAMES[0], 7)
    (runs.world.raw / NAMES[2]).unlink()
    summary = runs.run(on_source_change=OnSourceChange.REPLACE)
    assert (summary.files, summary.skipped) == (1, 1)
    assert (summary.replaced, summary.removed) == ((NAMES[0],), (NAMES[2],))
    assert runs.data() == sorted(NAMES[:2])
    assert runs.emails() == runs.plaintext()
    assert runs.run().files == 0


def test_removing_alone_makes_a_version(signed: Runs) -> None:
    signed.run()
    (signed.world.raw / NAMES[1]).unlink()
    summary = signed.run(on_source_change=OnSourceChange.REPLACE)
    assert (summary.files, summary.removed, summary.signed[0].version) == (0, (NAMES[1],), 2)
    assert signed.emails() == signed.plaintext()


def test_another_policy_is_a_change(runs: Runs) -> None:
    runs.run()
    other = replace(runs.request(), policy=replace(runs.request().policy, footer="encrypted"))
    with pytest.raises(ConflictError):
        run(other, credentials=runs.world.credentials)


def test_overwriting_does_everything_again(runs: Runs) -> None:
    runs.run()
    assert runs.run(overwrite=True).files == 3
    assert runs.emails() == runs.plaintext()
    assert runs.run().files == 0


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_was_stopped_is_resumed(runs: Runs, after: int) -> None:
    runs.stop(after)
    with pytest.raises(ConflictError, match="was not finished"):
        runs.run()
    summary = runs.run(resumes=True)
    assert summary.skipped == after
    assert summary.files == 3 - after
    assert runs.emails() == runs.plaintext()
    assert runs.run().files == runs.run(resumes=True).files == 0


def test_verifying_tells_a_run_that_did_not_come_to_sign_from_what_nobody_signs(runs: Runs) -> None:
    create_key(other := runs.world.reference("another"), "ed25519", runs.world.credentials)
    runs.stop(1)
    with pytest.raises(NotTrustedError) as caught:
        pc.verify(runs.sink, trust=[other])
    assert ("--resume" in caught.value.hint) is runs.is_signed
    runs.run(resumes=True)
    fs, base = fsspec.core.url_to_fs(runs.sink)
    if runs.is_signed:
        assert not pc.verify(runs.sink, trust=[runs.world.reference("signing")], remember=False).findings
        fs.rm(f"{base}/_pipecrypt/manifest.json")
    with pytest.raises(NotTrustedError) as caught:
        pc.verify(runs.sink, trust=[other])
    assert "--resume" not in caught.value.hint


def test_a_link_among_the_runs_makes_nothing_signed(signed: Runs, tmp_path: Path) -> None:
    signed.stop(1)
    directory = signed.world.out / "_pipecrypt"
    (directory / "runs").rename(tmp_path / "elsewhere")
    (directory / "runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotTrustedError) as caught:
        pc.verify(signed.sink, trust=[signed.world.reference("signing")])
    assert "--resume" not in caught.value.hint


def test_a_run_into_a_dataset_leaves_it_as_it_was_until_it_is_signed(runs: Runs) -> None:
    runs.run()
    before, data = runs.emails(), runs.data()
    for name in NAMES:
        write_table(runs.world.raw / name, 5)
    write_table(runs.world.raw / "new.parquet", 10)
    runs.stop(2, on_source_change=OnSourceChange.REPLACE)
    if runs.is_signed:
        assert runs.emails() == before
        assert runs.data() == data
    summary = runs.run(resumes=True, on_source_change=OnSourceChange.REPLACE)
    assert summary.files == 2
    assert runs.emails() == runs.plaintext()
    assert not [name for name in runs.names() if "/staged/" in name]


@pytest.mark.parametrize("resumes", [False, True])
def test_what_became_of_the_outputs_is_looked_at(runs: Runs, resumes: bool) -> None:
    runs.run()
    fs, base = fsspec.core.url_to_fs(runs.sink)
    fs.rm(f"{base}/{NAMES[0]}")
    planned = report_plan(runs.request())
    if runs.is_signed:
        assert "missing" in "".join(planned.conflicts)
        with pytest.raises(ConflictError):
            runs.run(resumes=resumes)
        return
    assert (planned.to_do, planned.conflicts) == (1, ())
    assert runs.run(resumes=resumes).files == 1
    assert runs.emails() == runs.plaintext()
    fs.pipe_file(f"{base}/{NAMES[1]}", b"PAR1 of somebody else")
    assert "not of the size" in "".join(report_plan(runs.request()).conflicts)
    with pytest.raises(ConflictError):
        runs.run(resumes=resumes)
    assert runs.run(overwrite=True).files == 3
    assert runs.emails() == runs.plaintext()


def test_a_plan_knows_what_a_signed_run_would_refuse(runs: Runs) -> None:
    if not runs.is_signed:
        pytest.skip("unsigned runs leave files of others alone")
    runs.run()
    fs, base = fsspec.core.url_to_fs(runs.sink)
    assert report_plan(runs.request()).conflicts == ()
    fs.pipe_file(f"{base}/extra.parquet", b"1")
    assert "nor signed" in "".join(report_plan(runs.request()).conflicts)
    with pytest.raises(ConflictError):
        runs.run()
    fs.rm(f"{base}/extra.parquet")
    fs.rm(f"{base}/_pipecrypt/manifest.json")
    for look in (lambda: report_plan(runs.request()), runs.run):
        with pytest.raises(NotTrustedError, match="is not signed any more"):
            look()
    with pytest.raises(NotTrustedError, match="is forgotten"):
        pc.verify(runs.sink, forget=True)
    assert "no run of a configuration" in "".join(report_plan(runs.request()).conflicts)
    with pytest.raises(SinkNotEmptyError):
        runs.run()


def test_a_version_whose_files_are_not_in_place_is_read_and_put_in_place(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not runs.is_signed:
        pytest.skip("only a signed version waits for its files")
    runs.run()
    write_table(runs.world.raw / NAMES[0], 5)
    write_table(runs.world.raw / "new.parquet", 10)

    def stop(*arguments: object, **options: object) -> None:
        raise _StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(directory_run, "finish_version", stop)
        with pytest.raises(_StoppedError):
            runs.run(on_source_change=OnSourceChange.REPLACE)
    assert [name for name in runs.names() if "/staged/" in name]
    trust = [runs.world.reference("signing")]
    assert runs.emails() == runs.plaintext()
    with pytest.raises(VerificationError) as caught:
        pc.verify(runs.sink, trust=trust)
    not_in_place = FindingKind.NOT_IN_PLACE
    assert {each.path for each in caught.value.report.findings if each.kind is not_in_place} >= {"new.parquet"}
    with pytest.raises(VerificationError, match="not in place: published"):
        pc.verify(f"{runs.sink}/{NAMES[0]}", trust=trust)
    with pc.open(
        f"{runs.sink}/{NAMES[0]}", keys=[runs.world.key], trust=trust, credentials=runs.world.credentials
    ) as one:
        assert len(one.to_table()) == 5
    assert runs.clean(24).put_in_place or runs.run().files == 0
    assert not pc.verify(runs.sink, trust=trust).findings
    assert not [name for name in runs.names() if "/staged/" in name]
    assert runs.emails() == runs.plaintext()
    assert runs.run().files == 0


def test_a_changed_source_is_done_again_when_resuming(runs: Runs) -> None:
    runs.stop(1)
    write_table(runs.world.raw / NAMES[0], 3)
    assert runs.run(resumes=True).files == 3
    assert runs.emails() == runs.plaintext()


def test_a_lost_file_is_done_again_when_resuming(runs: Runs) -> None:
    runs.stop(2)
    fs, path = fsspec.core.url_to_fs(runs.sink)
    fs.rm(f"{path}/{NAMES[0]}")
    assert runs.run(resumes=True).files == 2
    assert runs.emails() == runs.plaintext()


@pytest.mark.parametrize("is_second", [False, True])
def test_a_run_that_failed_before_its_first_file_is_forgotten(runs: Runs, is_second: bool) -> None:
    if is_second:
        runs.run()
        write_table(runs.world.raw / "new.parquet", 10)

    def fail(event: Event) -> None:
        if isinstance(event, FileStarted):
            raise _StoppedError

    with pytest.raises(_StoppedError):
        run(runs.request(), credentials=runs.world.credentials, on_event=fail)
    # Among unsigned files nothing tells one that was published and not noted from those that were there.
    is_unclear = is_second and not runs.is_signed
    assert bool(report_plan(runs.request()).conflicts) is is_unclear
    assert runs.run(resumes=is_unclear).files == (1 if is_second else 3)
    assert runs.emails() == runs.plaintext()


def test_resuming_nothing_is_a_run(runs: Runs) -> None:
    assert runs.run(resumes=True).files == 3


def test_a_journal_that_others_wrote_is_refused(signed: Runs) -> None:
    signed.stop(2)
    block = next(path for path in sorted(signed.world.out.rglob("parts-000001.json")))
    content = block.read_bytes()
    for forged in (content.replace(b'"sig":"', b'"sig":"AAAA', 1), content[:-20], b"{}", b""):
        block.write_bytes(forged)
        with pytest.raises((IntegrityError, NotTrustedError)):
            signed.run(resumes=True)
    block.write_bytes(content)
    block.with_name("parts-000002.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        signed.run(resumes=True)
    block.with_name("parts-000002.json").unlink()
    assert signed.run(resumes=True).files == 1


def test_a_sink_of_others_is_refused(runs: Runs) -> None:
    with fsspec.open(f"{runs.sink}/other.parquet", "wb", auto_mkdir=True) as file:
        file.write(b"PAR1")
    with pytest.raises((SinkNotEmptyError, ConflictError)):
        runs.run()
    assert runs.data() == ["other.parquet"]


def test_clean_takes_what_a_dead_run_left(runs: Runs) -> None:
    runs.stop(2)
    kept = runs.clean(24)
    assert (kept.removed, len(kept.kept_runs)) == ((), 1)
    told = runs.clean(0, dry_run=True)
    assert set(NAMES[:2]) < set(told.removed)
    assert runs.data() == sorted(NAMES[:2])
    assert runs.clean(0).removed == told.removed
    assert runs.names() == []
    assert runs.run().files == 3


def test_clean_takes_probes_and_temporary_files_once_they_are_old(runs: Runs) -> None:
    runs.run()
    before = runs.names()
    left = ["_pipecrypt/probe-0123abcd", temporary_name("a.parquet", "0123abcd")]
    for name in left:
        with fsspec.open(f"{runs.sink}/{name}", "wb") as file:
            file.write(b"x")
    assert runs.clean(24).removed == ()
    tomorrow = datetime.now(UTC) + timedelta(hours=25)
    assert clean(runs.sink, grace=timedelta(hours=24), clock=lambda: tomorrow).removed == tuple(sorted(left))
    assert runs.names() == before


def test_clean_leaves_a_dataset_as_it_is(runs: Runs) -> None:
    runs.run()
    write_table(runs.world.raw / "new.parquet", 10)
    before = runs.names()
    runs.stop(1)
    removed = runs.clean(0).removed
    assert not set(removed) & set(before)
    assert runs.names() == before
    assert runs.run().files == 1
    assert runs.emails() == runs.plaintext()


def test_clean_waits_for_a_living_run(runs: Runs) -> None:
    def meet(event: Event) -> None:
        if isinstance(event, FileDone):
            for dry_run in (True, False):
                with pytest.raises(ConflictError):
                    runs.clean(0, dry_run=dry_run)

    run(runs.request(), credentials=runs.world.credentials, on_event=meet)
    assert runs.emails() == runs.plaintext()


def test_clean_wants_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        clean(tmp_path / "none")


def test_rolled_over_files_that_are_fewer_now_are_removed(signed: Runs) -> None:
    signed.world.out.mkdir()
    for path in list(signed.world.raw.rglob("*.parquet")):
        path.unlink()
    lines = signed.world.raw / "rows.csv"
    lines.write_text("id,email\n" + "".join(f"{row},{row}@example.org\n" for row in range(4000)))
    base = signed.request(on_source_change=OnSourceChange.REPLACE)
    request = replace(base, policy=replace(base.policy, batch_rows=500), max_file_bytes=4_000)
    many = run(request, credentials=signed.world.credentials)
    lines.write_text("id,email\n1,1@example.org\n")
    few = run(request, credentials=signed.world.credentials)
    assert many.files > few.files == 1
    assert signed.data() == ["rows-00000.parquet"]
    assert signed.emails() == {"1@example.org"}
    assert run(request, credentials=signed.world.credentials).files == 0


def test_a_storage_that_excludes_nobody_is_refused(signed: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def ignores(*arguments: object, **options: object) -> None:
        raise UnsafeSinkError("it does not")

    monkeypatch.setattr(directory_run, "check_writers", ignores)
    with pytest.raises(UnsafeSinkError):
        signed.run()
    assert not signed.world.out.exists()


def test_the_journal_says_nothing_secret(signed: Runs) -> None:
    signed.run()
    noted = b"".join(path.read_bytes() for path in signed.world.out.rglob("_pipecrypt/runs/*/*"))
    assert b"@example.org" not in noted
    finished = json.loads(next(signed.world.out.rglob("finished.json")).read_text())
    assert finished["run"] == signed.run().run_id or finished["version"] == 1
