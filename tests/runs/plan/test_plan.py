from __future__ import annotations

from pathlib import Path

import pytest

from pipecrypt.errors import KeyReferenceError, SinkNotEmptyError, SourceNotFoundError, UsageError
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import DecryptSpec, EncryptSpec
from pipecrypt.store.location import Location

KEY = "keystore://./keys.json#pii"


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def _plan(source: object, sink: object, *, overwrite: bool = False, workers: int = 1) -> Plan:
    return make_plan(
        EncryptSpec(
            source=Location(str(source)),
            sink=Location(str(sink)),
            policy=Policy(default=KEY),
            overwrite=overwrite,
            workers=workers,
        )
    )


def _outputs(plan: Plan, root: Path) -> list[tuple[str, str]]:
    return [(str(Path(task.sink.local_path).relative_to(root)), task.path) for task in plan.tasks]


def test_relative_paths_are_kept(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/b.parquet", "raw/x/a.parquet")
    plan = _plan(tmp_path / "raw", tmp_path / "out", workers=8)
    assert _outputs(plan, tmp_path) == [("out/b.parquet", "b.parquet"), ("out/x/a.parquet", "x/a.parquet")]
    assert (plan.operation, plan.source_bytes, plan.workers) == ("encrypt", 2, 2)
    assert len({task.target.token for task in plan.tasks}) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sink", "output", "path"),
    [
        ("enc.parquet", "enc.parquet", "enc.parquet"),
        ("new/", "new/a.parquet", "a.parquet"),
        ("there", "there/a.parquet", "a.parquet"),
        ("no/such/enc", "no/such/enc", "enc"),
    ],
)
def test_single_file(tmp_path: Path, sink: str, output: str, path: str) -> None:
    _touch(tmp_path, "raw/a.parquet")
    (tmp_path / "there").mkdir()
    assert _outputs(_plan(tmp_path / "raw/a.parquet", f"{tmp_path}/{sink}"), tmp_path) == [(output, path)]


@pytest.mark.parametrize("source", ["raw", "raw/", "raw/*.parquet"])
def test_a_glob_or_directory_with_one_file_is_no_single_file(tmp_path: Path, source: str) -> None:
    _touch(tmp_path, "raw/a.parquet")
    assert _outputs(_plan(f"{tmp_path}/{source}", tmp_path / "out"), tmp_path) == [("out/a.parquet", "a.parquet")]


@pytest.mark.parametrize("held", ["out/other", "out/x/y/z", "out/.hidden", "out"])
def test_a_sink_that_holds_something(tmp_path: Path, held: str) -> None:
    _touch(tmp_path, "raw/a.parquet", "raw/b.parquet", held)
    with pytest.raises(SinkNotEmptyError) as caught:
        _plan(tmp_path / "raw", tmp_path / "out")
    assert caught.value.exit_code == 5
    assert _plan(tmp_path / "raw", tmp_path / "out", overwrite=True).tasks[0].target.overwrite


def test_an_output_file_that_exists(tmp_path: Path) -> None:
    _touch(tmp_path, "a.parquet", "b.parquet")
    with pytest.raises(SinkNotEmptyError):
        _plan(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_leftovers_of_killed_runs_do_not_count(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/a.parquet", "out/.a.parquet.pipecrypt-00aa00aa-00aa00aa.tmp")
    assert _plan(tmp_path / "raw", tmp_path / "out").tasks


@pytest.mark.parametrize(
    ("source", "sink"),
    [("raw", "raw"), ("raw", "raw/out"), ("raw/a.parquet", "raw/a.parquet"), ("raw/a.parquet", "raw/")],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_source_and_sink_overlap(tmp_path: Path, source: str, sink: str, overwrite: bool) -> None:
    _touch(tmp_path, "raw/a.parquet")
    with pytest.raises(UsageError):
        _plan(tmp_path / source, f"{tmp_path}/{sink}", overwrite=overwrite)


def test_overwriting_into_the_parent_spares_the_source(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/raw/a.parquet", "raw/a.parquet")
    with pytest.raises(UsageError):
        _plan(tmp_path / "raw", tmp_path, overwrite=True)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        _plan(tmp_path / "raw", tmp_path / "out")


def test_memory_stays_in_this_process(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/a.parquet", "raw/b.parquet")
    assert _plan(tmp_path / "raw", "memory://plan-test", workers=2).workers == 1


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_workers(workers: object) -> None:
    place = Location("x")
    with pytest.raises(UsageError):
        EncryptSpec(source=place, sink=place, policy=Policy(default=KEY), workers=workers)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        DecryptSpec(source=place, sink=place, keys=(KEY,), workers=workers)  # type: ignore[arg-type]


def test_decrypting_needs_keys() -> None:
    with pytest.raises(UsageError):
        DecryptSpec(source=Location("x"), sink=Location("y"), keys=())
    with pytest.raises(KeyReferenceError):
        DecryptSpec(source=Location("x"), sink=Location("y"), keys=("pii",))


def test_no_output_lies_among_what_runs_keep(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/a", "raw/_pipecrypt/manifest.json")
    request = EncryptSpec(
        source=Location(str(tmp_path / "raw")),
        sink=Location(str(tmp_path / "out")),
        policy=Policy(default=KEY, mode="chunks"),
    )
    with pytest.raises(UsageError, match="_pipecrypt"):
        make_plan(request)
