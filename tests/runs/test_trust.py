"""Decrypting with keys to trust: everything is checked before a file appears, here and in worker processes."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

import pipecrypt as pc
from pipecrypt.dataset.requirements import checks_of
from pipecrypt.dataset.trust import Trust
from pipecrypt.errors import IntegrityError, InterruptedRunError, NotTrustedError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.kinds.decrypt import Decryption
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.report.events import BytesDone, Event
from pipecrypt.runs.spec.spec import DecryptSpec
from pipecrypt.store.location import Location
from pipecrypt.vocabulary import once
from tests.dataset.world import ALICE, NAMES, sign, tree
from tests.reading.attacks import ATTACKS, FIRST, SECOND, World


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World.at(tmp_path_factory.mktemp("world"))
    made.make_dataset()
    return made


@pytest.fixture
def trusting(signed: World, monkeypatch: pytest.MonkeyPatch) -> World:
    signed.use(monkeypatch)
    return signed


@pytest.fixture
def dataset(trusting: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trusting.root / "signed", tmp_path / "signed"))


def decrypt(world: World, dataset: Path, **options: object) -> Path:
    back = dataset.parent / "back"
    given: dict[str, object] = {"trust": [world.signing], "credentials": world.credentials, **options}
    pc.decrypt(dataset, back, [world.key], **given)  # type: ignore[arg-type]
    return back


@pytest.mark.parametrize("verify", ["read", "full"])
@pytest.mark.parametrize("workers", [1, 2])
def test_there_and_back(trusting: World, dataset: Path, verify: str, workers: int) -> None:
    back = decrypt(trusting, dataset, verify=verify, workers=workers)
    assert tree(back) == tree(trusting.root / "raw")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("verify", ["read", "full"])
def test_nothing_appears_of_what_was_tampered_with(trusting: World, dataset: Path, verify: str, attack: str) -> None:
    ATTACKS[attack](trusting, dataset)
    with pytest.raises(IntegrityError):
        decrypt(trusting, dataset, verify=verify)
    # Files before the one that was changed may be there, each of them whole.
    assert set(tree(dataset.parent / "back")) <= ({FIRST, SECOND} if attack == "duplicate" else {FIRST})


def test_workers_refuse_too(trusting: World, dataset: Path) -> None:
    ATTACKS["swap"](trusting, dataset)
    with pytest.raises(IntegrityError):
        decrypt(trusting, dataset, workers=2)
    assert set(tree(dataset.parent / "back")) <= {FIRST}


@pytest.mark.parametrize("attack", ["swap", "duplicate", "change_plaintext_column"])
def test_the_same_attacks_without_checks(trusting: World, dataset: Path, attack: str) -> None:
    ATTACKS[attack](trusting, dataset)
    assert set(tree(decrypt(trusting, dataset, verify="off"))) == set(NAMES)


@pytest.mark.parametrize("attack", ["add", "drop", "rename"])
def test_lists_are_compared_before_anything_is_made(trusting: World, dataset: Path, attack: str) -> None:
    ATTACKS[attack](trusting, dataset)
    with pytest.raises(IntegrityError):
        decrypt(trusting, dataset)
    assert not (dataset.parent / "back").exists()


def test_tasks_hold_what_their_file_is_compared_with(trusting: World, dataset: Path) -> None:
    checks = checks_of(Trust([trusting.signing]), {}, Credentials({}))
    plan = make_plan(
        DecryptSpec(
            source=Location(str(dataset)),
            sink=Location(str(dataset.parent / "back")),
            keys=("static://x",),
            checks=checks,
        )
    )
    for task in pickle.loads(pickle.dumps(plan.tasks)):  # noqa: S301  # made here
        assert isinstance(task.kind, Decryption)
        assert task.kind.signed is not None
        assert task.kind.signed.entry.path == task.path


def test_parts_of_a_dataset_and_single_files(trusting: World, dataset: Path, tmp_path: Path) -> None:
    for source, names in (("day=1", {"b ü.parquet"}), ("**/c.parquet", {"day=2/c.parquet"})):
        out = tmp_path / f"out {source[:3].strip('*/')}"
        pc.decrypt(f"{dataset}/{source}", out, [trusting.key], trust=[trusting.signing])
        assert set(tree(out)) == names
    pc.decrypt(dataset / FIRST, tmp_path / "one.parquet", [trusting.key], trust=[trusting.signing])
    assert (tmp_path / "one.parquet").read_bytes() == (trusting.root / "raw" / FIRST).read_bytes()


def test_who_is_trusted(trusting: World, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotTrustedError):
        decrypt(trusting, dataset, trust=[trusting.other_signing])
    monkeypatch.setenv("PIPECRYPT_TRUST", trusting.other_signing)
    with pytest.raises(NotTrustedError):
        decrypt(trusting, dataset, trust=None)
    assert not (dataset.parent / "back").exists()
    monkeypatch.setenv("PIPECRYPT_TRUST", trusting.signing)
    assert set(tree(decrypt(trusting, dataset, trust=None))) == set(NAMES)
    with pytest.raises(IntegrityError):
        decrypt(trusting, dataset, min_version=2)
    with pytest.raises(UsageError):
        pc.decrypt("-", dataset.parent / "x.parquet", [trusting.key], trust=[trusting.signing])


def test_digesting_can_be_stopped(trusting: World, dataset: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, BytesDone):
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        decrypt(trusting, dataset, verify="full", on_event=stop)
    assert tree(dataset.parent / "back") == {}


def test_progress_still_adds_up(trusting: World, dataset: Path) -> None:
    done: list[int] = []
    decrypt(trusting, dataset, verify="full", on_event=lambda event: _count(event, done.append))
    assert sum(done) == sum((dataset / name).stat().st_size for name in NAMES)


def _count(event: Event, add: Callable[[int], None]) -> None:
    if isinstance(event, BytesDone):
        add(event.bytes)


def test_memory(trusting: World) -> None:
    store = fsspec.filesystem("memory")
    policy = pc.Policy(columns={"email": trusting.key}, footer_key=trusting.key, sign=trusting.signing)
    pc.encrypt(trusting.root / "raw", "memory://decrypting", policy, credentials=trusting.credentials)
    try:
        pc.decrypt("memory://decrypting", "memory://decrypted", [trusting.key], trust=[trusting.signing], verify="full")
        assert store.cat_file(f"/decrypted/{FIRST}") == (trusting.root / "raw" / FIRST).read_bytes()
        store.rm_file(f"/decrypting/{SECOND}")
        with pytest.raises(IntegrityError):
            pc.decrypt("memory://decrypting", "memory://again", [trusting.key], trust=[trusting.signing])
    finally:
        for name in ("decrypting", "decrypted"):
            store.rm(f"/{name}", recursive=True)


def test_a_malformed_page_of_a_signed_file_was_changed(trusting: World, dataset: Path) -> None:
    policy = pc.Policy(default=trusting.key)
    one = dataset.parent / "one"
    pc.encrypt(trusting.root / "raw", one, policy, credentials=trusting.credentials)
    sign(one)
    data = bytearray((one / FIRST).read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"  # the length of the first module
    (one / FIRST).write_bytes(data)
    with pytest.raises(IntegrityError):
        decrypt(trusting, one, trust=[ALICE.public_key_pem])


def test_the_warning(trusting: World, dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(once, "_said", set())
    with pytest.warns(pc.UncheckedWarning):
        pc.decrypt(dataset, tmp_path / "one", [trusting.key])
    with warnings.catch_warnings():
        warnings.simplefilter("error", pc.UncheckedWarning)
        pc.decrypt(dataset, tmp_path / "two", [trusting.key])
