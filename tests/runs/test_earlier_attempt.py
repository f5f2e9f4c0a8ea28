"""What a file says of its run decides whether a repeated task may replace it, on any storage and in any footer mode."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from pipecrypt.errors import SinkNotEmptyError
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.output import is_written_as
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import DecryptSpec, EncryptSpec
from pipecrypt.runs.task import Task, run_task
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.runs.conftest import World

_MOST = 1 << 20


def _policies(world: World) -> dict[str, Policy]:
    return {
        "plaintext footer": Policy(default=world.key),
        "encrypted footer": Policy(default=world.key, footer="encrypted"),
        "chunks": Policy(mode="chunks", default=world.key),
    }


@pytest.fixture(params=["local", "memory"])
def sink(world: World, request: pytest.FixtureRequest) -> Location:
    return Location(str(world.out) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def _write(world: World, task: Task) -> None:
    with KeySession([world.key], credentials=world.credentials) as session:
        run_task(task, session, lambda _: None)


@pytest.mark.parametrize("kind", ["plaintext footer", "encrypted footer", "chunks"])
def test_only_a_file_of_this_run_and_path_is_replaced(world: World, sink: Location, kind: str) -> None:
    plan = make_plan(EncryptSpec(source=Location(str(world.raw)), sink=sink, policy=_policies(world)[kind]))
    task, dataset_id = plan.tasks[0], plan.dataset_id or ""
    mine = Context(dataset_id, task.path)
    assert not is_written_as(task.sink, mine)  # nothing is there
    _write(world, task)
    assert is_written_as(task.sink, mine)
    before = open_store(task.sink).read_small(max_bytes=_MOST)
    again = replace(task.target, is_repeated=True)
    for other in (task.target, replace(again, dataset_id=new_dataset_id()), replace(again, path="b.parquet")):
        with pytest.raises(SinkNotEmptyError):
            other.open()
    with pytest.raises(SinkNotEmptyError):
        _write(world, task)
    assert open_store(task.sink).read_small(max_bytes=_MOST) == before
    _write(world, task.again())
    assert open_store(task.sink).read_small(max_bytes=_MOST) not in {None, before}


def test_a_repeated_decryption_replaces_plaintext_which_does_not_tell(world: World) -> None:
    encrypted, plain = Location(str(world.out)), Location(str(world.root / "plain"))
    for task in make_plan(
        EncryptSpec(source=Location(str(world.raw)), sink=encrypted, policy=Policy(default=world.key))
    ).tasks:
        _write(world, task)
    task = make_plan(DecryptSpec(source=encrypted, sink=plain, keys=(world.key,))).tasks[0]
    _write(world, task)
    with pytest.raises(SinkNotEmptyError):
        _write(world, task)
    (world.root / "plain" / task.path).write_bytes(b"half")
    _write(world, task.again())
    assert (world.root / "plain" / task.path).read_bytes() == (world.raw / task.path).read_bytes()


def test_what_cannot_be_read_is_not_ours(world: World) -> None:
    world.out.mkdir()
    place = Location(str(world.out / "x.parquet"))
    for content in (b"", b"PAR1", b"PAR1" * 100):
        (world.out / "x.parquet").write_bytes(content)
        assert not is_written_as(place, Context(new_dataset_id(), "x.parquet"))
    (world.out / "x.parquet").unlink()
    (world.out / "x.parquet").mkdir()
    assert not is_written_as(place, Context(new_dataset_id(), "x.parquet"))
