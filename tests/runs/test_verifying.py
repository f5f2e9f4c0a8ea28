from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import pipecrypt as pc
from pipecrypt.errors import (
    AccessError,
    InterruptedRunError,
    NotTrustedError,
    PassphraseError,
    RolledBackError,
    UsageError,
    VerificationError,
)
from pipecrypt.runs.report.events import BytesDone, Event, FileChecked, FileStarted, RunStarted
from tests.dataset.world import MALLORY, NAMES, SignedWorld, next_version, sign

A = NAMES[0]


@pytest.fixture(scope="module")
def signed_world(tmp_path_factory: pytest.TempPathFactory) -> SignedWorld:
    made = SignedWorld.at(tmp_path_factory.mktemp("world"))
    sign(made.encrypt("signed"))
    return made


@pytest.fixture
def dataset(signed_world: SignedWorld, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_world.root / "signed", tmp_path / "signed"))


@pytest.fixture
def trust(signed_world: SignedWorld) -> list[str]:
    return [str(signed_world.public_key)]


def test_a_script_gets_a_report(dataset: Path, trust: list[str]) -> None:
    events: list[Event] = []
    report = pc.verify(dataset, trust, on_event=events.append)

    assert (report.files, report.version, report.findings) == (3, 1, ())
    assert events[0] == RunStarted(3, report.bytes)
    assert {event.path for event in events if isinstance(event, FileStarted)} == set(NAMES)
    assert {event for event in events if isinstance(event, FileChecked)} == {FileChecked(name, 0) for name in NAMES}
    assert sum(event.bytes for event in events if isinstance(event, BytesDone)) == report.bytes


def test_a_script_cannot_overlook_findings(dataset: Path, trust: list[str]) -> None:
    (dataset / A).unlink()
    with pytest.raises(VerificationError) as caught:
        pc.verify(str(dataset), trust)

    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert copy.report == caught.value.report
    assert (copy.message, copy.hint, copy.exit_code) == (caught.value.message, caught.value.hint, 3)
    assert [finding.path for finding in copy.report.findings] == [A]


def test_trust_from_the_environment(dataset: Path, trust: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPECRYPT_TRUST", raising=False)
    for none in (None, []):
        with pytest.raises(UsageError):
            pc.verify(dataset, none)

    monkeypatch.setenv("PIPECRYPT_TRUST", f"  {trust[0]}\n{trust[0]} ")
    assert pc.verify(dataset).files == 3
    monkeypatch.setenv("PIPECRYPT_TRUST", "nothing.pub")
    assert pc.verify(dataset, trust).files == 3
    with pytest.raises(UsageError):
        pc.verify(dataset)


def test_versions_are_remembered_unless_asked_not_to(dataset: Path, trust: list[str]) -> None:
    first = sign(dataset)
    old = (dataset / "_pipecrypt/manifest.json").read_bytes()
    sign(dataset, **next_version(first))
    assert pc.verify(dataset, trust).version == 2
    (dataset / "_pipecrypt/manifest.json").write_bytes(old)

    with pytest.raises(RolledBackError):
        pc.verify(dataset, trust)
    assert pc.verify(dataset, trust, remember=False).version == 1
    with pytest.raises(RolledBackError):
        pc.verify(dataset, trust)
    assert pc.verify(dataset, trust, forget=True).version == 1
    assert pc.verify(dataset, trust).version == 1
    with pytest.raises(RolledBackError):
        pc.verify(dataset, trust, min_version=2)


def test_with_keys(dataset: Path, trust: list[str], signed_world: SignedWorld) -> None:
    world = signed_world
    assert pc.verify(dataset, trust, keys=[world.key], credentials=world.credentials).tags_checked
    with pytest.raises(AccessError):
        pc.verify(dataset, trust, keys=[world.other_key], credentials=world.credentials)
    with pytest.raises(PassphraseError):
        pc.verify(dataset, trust, keys=[world.key], credentials=type(world.credentials)({}))


@pytest.mark.parametrize(
    "options",
    [
        {"trust": "alice.pub"},
        {"trust": [1]},
        {"threshold": 2},
        {"threshold": 0},
        {"keys": []},
        {"keys": "keystore://k#a"},
        {"files": "*.parquet"},
        {"files": [""]},
        {"min_version": 0},
        {"dataset_id": "x"},
        {"dataset_id": "0" * 31},
        {"workers": 0},
        {"workers": 257},
        {"workers": True},
        {"remember": False, "forget": True},
        {"url": b"x"},
        {"url": ""},
    ],
    ids=str,
)
def test_misuse(dataset: Path, trust: list[str], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        pc.verify(**{"url": dataset, "trust": trust, **options})


def test_a_dataset_of_another_signer(dataset: Path, signed_world: SignedWorld) -> None:
    other = signed_world.root / "mallory.pub"
    other.write_text(MALLORY.public_key_pem, encoding="ascii")
    with pytest.raises(NotTrustedError):
        pc.verify(dataset, [str(other)])


def test_an_interruption(dataset: Path, trust: list[str]) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, FileStarted):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        pc.verify(dataset, trust, on_event=interrupt, workers=2)
    assert not [thread for thread in threading.enumerate() if thread.name == "pipecrypt-verify"]


def test_an_interruption_from_outside_is_quick(signed_world: SignedWorld, tmp_path: Path, trust: list[str]) -> None:
    """A file of many gigabytes, sparse, is left in the middle."""
    root = Path(shutil.copytree(signed_world.root / "signed", tmp_path / "large"))
    script = f"""
import dataclasses, os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import pipecrypt as pc
from tests.dataset.world import *
root = Path({str(root)!r})
entries = [entry_of(path, data) for path, data in data_files(root).items()]
entries[0] = dataclasses.replace(entries[0], size_bytes=1 << 40)
sign(root, entries=entries)
os.truncate(root / entries[0].path, 1 << 40)
try:
    pc.verify(root, {trust!r}, on_event=lambda event: print(event, flush=True))
except pc.errors.InterruptedRunError as error:
    print("stopped", flush=True)
    sys.exit(error.exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("BytesDone"):
                break
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(60) == 1

    assert rest.rstrip().endswith("stopped")
    assert time.monotonic() - began < 30, "it waited for a terabyte"
