from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from pipecrypt.errors import (
    AlreadyEncryptedError,
    ColumnNotFoundError,
    ConflictError,
    FormatError,
    InterruptedRunError,
    KeyNotFoundError,
    KeyServiceError,
    NotEncryptedError,
    PassphraseError,
    PipecryptError,
    SinkNotEmptyError,
    StorageError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.inspect import inspect_file
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.runs.files import decrypt, encrypt
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, FileStarted, RunFinished, RunStarted
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.store import beneath, publication
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source
from pipecrypt.vocabulary.context import Context
from tests.doubles.faulty_store import Faults, patched_os
from tests.runs.conftest import NAMES, World, write_table


@pytest.mark.parametrize("workers", [1, 2])
def test_there_and_back(world: World, workers: int) -> None:
    policy = Policy({"email": world.key}, footer="plaintext")
    encrypted = encrypt(world.raw, world.out, policy, workers=workers, credentials=world.credentials)
    assert sorted(world.tree()) == sorted(NAMES)
    assert not any(b"example.org" in data for data in world.tree().values())
    back = decrypt(world.out, world.root / "back", [world.key], workers=workers, credentials=world.credentials)
    assert world.tree(world.root / "back") == world.tree(world.raw)
    assert (encrypted.operation, back.operation) == ("encrypt", "decrypt")
    for summary in (encrypted, back):
        assert (summary.files, summary.rows, summary.batches) == (3, 3000, 12)
        assert [part.path for part in summary.parts] == sorted(NAMES)
        assert summary.data_keys == sum(part.data_keys for part in summary.parts) == 3 * 5  # footer and four batches
    assert encrypted.source_bytes == back.sink_bytes == sum(map(len, world.tree(world.raw).values()))
    assert encrypted.sink_bytes == sum(map(len, world.tree().values()))
    assert 1 <= encrypted.service_calls <= workers  # one per worker process and master key, however many files
    assert encrypted.megabytes_per_second > 0
    assert dataclasses.asdict(encrypted)["parts"][0]["path"] == "a.parquet"


def test_service_calls_are_counted_once(world: World) -> None:
    summary = encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials)
    assert [part.service_calls for part in summary.parts] == [1, 0, 0]


def test_paths_and_one_dataset_id_are_bound(world: World) -> None:
    encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials)
    encrypt(world.raw / "a.parquet", world.root / "one.enc", Policy(default=world.key), credentials=world.credentials)
    contexts = {}
    for file in (*list_sources(Location(str(world.out))), *list_sources(Location(str(world.root / "one.enc")))):
        with open_range_source(file) as source:
            summary = inspect_file(source)
        contexts[summary.path] = summary.dataset_id
    assert set(contexts) == {*NAMES, "one.enc"}
    assert len({contexts[name] for name in NAMES}) == 1
    assert contexts["one.enc"] != contexts["a.parquet"]
    assert Context(str(contexts["one.enc"]), "one.enc").aad_prefix()


@pytest.mark.parametrize("workers", [1, 2])
def test_events(world: World, workers: int) -> None:
    events: list[Event] = []
    summary = encrypt(
        world.raw,
        world.out,
        Policy(default=world.key),
        workers=workers,
        credentials=world.credentials,
        on_event=events.append,
    )
    assert events[0] == RunStarted(3, summary.source_bytes)
    assert events[-1] == RunFinished(summary)
    assert Counter(type(event) for event in events)[FileStarted] == 3
    assert {part for event in events if isinstance(event, FileDone) for part in event.parts} == set(summary.parts)
    assert sum(event.bytes for event in events if isinstance(event, BytesDone)) == summary.source_bytes


@pytest.mark.parametrize("workers", [1, 2])
def test_a_listener_that_fails_stops_the_run(world: World, workers: int) -> None:
    class _ListenerError(Exception):
        pass

    def listen(event: Event) -> None:
        if isinstance(event, FileStarted):
            raise _ListenerError

    with pytest.raises(_ListenerError):
        encrypt(
            world.raw,
            world.out,
            Policy(default=world.key),
            workers=workers,
            credentials=world.credentials,
            on_event=listen,
        )
    assert world.leftovers() == []


def test_remote_there_and_back(world: World) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in NAMES:
        memory.pipe_file(f"/raw/{name}", (world.raw / name).read_bytes())
    encrypt("memory://raw", "memory://out/", Policy(default=world.key), workers=2, credentials=world.credentials)
    decrypt("memory://out/**/*.parquet", world.out, [world.key], credentials=world.credentials)
    assert world.tree() == world.tree(world.raw)
    memory.store.clear()


def test_relative_references_and_a_changed_directory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    environ = {"PIPECRYPT_KEY_FILE": "key"}
    policy = Policy(default="keystore://./keys.json#pii")
    encrypt("raw", "out", policy, workers=2, credentials=Credentials(environ))
    assert sorted(world.tree()) == sorted(NAMES)


# ---- failures ----


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_among_good_ones(world: World, workers: int) -> None:
    (world.raw / "day=2/bad.parquet").write_bytes(b"PAR1 this is not Parquet")
    with pytest.raises(FormatError) as caught:
        encrypt(world.raw, world.out, Policy(default=world.key), workers=workers, credentials=world.credentials)
    assert "bad.parquet" in caught.value.message
    assert world.leftovers() == []
    assert set(world.tree()) < set(NAMES) | {""}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("policy", "kind"),
    [({"columns": {"emial": "pii"}}, ColumnNotFoundError), ({"default": "nobody"}, KeyNotFoundError)],
)
def test_nothing_is_made_for_a_wrong_policy(
    world: World, workers: int, policy: dict[str, object], kind: type[PipecryptError]
) -> None:
    columns = policy.get("columns")
    assert columns is None or isinstance(columns, dict)
    made = Policy(
        {name: world.reference(key) for name, key in columns.items()} if columns else None,
        world.reference(str(policy["default"])) if "default" in policy else None,
    )
    with pytest.raises(kind):
        encrypt(world.raw, world.out, made, workers=workers, credentials=world.credentials)
    assert not world.out.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_wrong_credentials(world: World, workers: int) -> None:
    (world.root / "wrong").write_bytes(os.urandom(32))
    for environ in ({}, {"PIPECRYPT_KEY_FILE": str(world.root / "wrong")}):
        with pytest.raises(PassphraseError) as caught:
            encrypt(world.raw, world.out, Policy(default=world.key), workers=workers, credentials=Credentials(environ))
        assert caught.value.exit_code == 4
    assert not world.out.exists()


def test_wrong_inputs(world: World) -> None:
    encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials)
    again = world.root / "again"
    with pytest.raises(AlreadyEncryptedError):
        encrypt(world.out, again, Policy(default=world.key), credentials=world.credentials)
    with pytest.raises(NotEncryptedError):
        decrypt(world.raw, again, [world.key], credentials=world.credentials)
    with pytest.raises((KeyNotFoundError, KeyServiceError)):
        decrypt(world.out, again, [world.reference("other")], credentials=world.credentials)
    with pytest.raises(UsageError):
        decrypt(world.out, again, world.key, credentials=world.credentials)
    assert not again.exists()


def test_a_sink_in_use(world: World) -> None:
    encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials)
    before = world.tree()
    with pytest.raises(SinkNotEmptyError):
        encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials)
    assert world.tree() == before
    (world.out / "other.txt").write_text("mine")
    encrypt(world.raw, world.out, Policy(default=world.key), overwrite=True, credentials=world.credentials)
    after = world.tree()
    assert after.pop("other.txt") == b"mine"
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_a_source_that_changes_meanwhile(world: World) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, BytesDone):
            write_table(world.raw / "a.parquet", 10)

    with pytest.raises(ConflictError) as caught:
        encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials, on_event=listen)
    assert "a.parquet" in caught.value.message
    assert world.tree() == {}


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "close"])
def test_a_disk_that_fails_in_the_middle(world: World, call: str) -> None:
    """The n-th call fails, for every n: all that is there is whole, and nothing else is."""
    with patched_os(Faults(), beneath, publication) as faults:
        encrypt(world.raw, world.root / "count", Policy(default=world.key), credentials=world.credentials)
    assert faults.calls[call] >= 3
    for at in range(1, faults.calls[call] + 1):
        sink = world.root / f"{call}{at}"
        with patched_os(Faults(call, at), beneath, publication):
            try:
                encrypt(world.raw, sink, Policy(default=world.key), credentials=world.credentials)
            except StorageError:
                failed = True
            else:
                failed = False
        # A lock that could not be given back stays: whoever comes next sees that its holder has gone.
        outputs = [name for name in world.tree(sink) if not name.startswith("_pipecrypt/lock/")]
        # A missing output directory costs one call more or less than in the counted run.
        assert len(outputs) <= 3 if failed else len(outputs) == 3
        if outputs:
            back = world.root / f"back-{call}{at}"
            decrypt(sink, back, [world.key], credentials=world.credentials)
            assert world.tree(back).items() <= world.tree(world.raw).items()


def test_a_full_disk_for_real(world: World) -> None:
    with pytest.raises(PipecryptError):
        encrypt(world.raw / "a.parquet", "/dev/full", Policy(default=world.key), credentials=world.credentials)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_in_this_process(world: World, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def listen(event: Event) -> None:
        if isinstance(event, BytesDone) and not set(world.tree()) - {"_pipecrypt/lock/1.json"}:
            os.kill(os.getpid(), number)

    with pytest.raises(InterruptedRunError) as caught:
        encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials, on_event=listen)
    assert number.name in caught.value.message
    assert world.tree() == {}
    assert signal.getsignal(number) is before


def test_ignored_signals_stay_ignored(world: World) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        encrypt(
            world.raw,
            world.out,
            Policy(default=world.key),
            credentials=world.credentials,
            on_event=lambda event: os.kill(os.getpid(), signal.SIGHUP),
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(world.tree()) == 3


def test_runs_in_a_thread(world: World) -> None:
    done = []

    def call() -> None:
        done.append(
            encrypt(world.raw, world.out, Policy(default=world.key), workers=2, credentials=world.credentials).files
        )

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60)
    assert done == [3]


def test_key_material_beside_the_file_is_read_when_a_key_is_there(world: World) -> None:
    world.out.mkdir()
    encrypt(world.raw / "a.parquet", world.out / "a.parquet", Policy(default=world.key), credentials=world.credentials)
    material = world.out / "_KEY_MATERIAL_FOR_a.parquet.json"
    material.write_text("{")
    decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials)  # all of its keys are inside

    outside = b'{"keyMaterialType":"PKMT1","internalStorage":false,"keyReference":"footerKey"}'
    with KeySession([world.key], credentials=world.credentials) as session:
        keys = keys_of_file(Location(str(world.out / "a.parquet")), session)
        with pytest.raises(FormatError) as caught:
            keys.open_data_key(outside, Context("", ""))
        assert material.name in caught.value.message
        material.write_text("{}")
        with pytest.raises(KeyNotFoundError):
            keys.open_data_key(outside, Context("", ""))


def test_nothing_heavy_for_the_face() -> None:
    heavy = {"fsspec", "cryptography", "pyarrow"}
    code = f"import sys, pipecrypt.runs.report.events; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_console_command(world: World) -> None:
    pytest.importorskip("pipecrypt.cli.main")
    command = [sys.executable, "-m", "pipecrypt", "encrypt", str(world.raw), str(world.out)]
    done = subprocess.run(
        [*command, "--key", world.key, "--workers", "2"],
        env=os.environ | world.environ,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(world.tree()) == sorted(NAMES)
