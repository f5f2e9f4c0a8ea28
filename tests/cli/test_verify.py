from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Run
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY
from pipecrypt.dataset.verify import verification
from pipecrypt.store.lease import Lease
from pipecrypt.store.location import Location
from tests.dataset.world import MALLORY, NAMES, SignedWorld, half_rotate, next_version, sign, sign_file

A, B, C = NAMES


@pytest.fixture(scope="module")
def signed_world(tmp_path_factory: pytest.TempPathFactory) -> SignedWorld:
    made = SignedWorld.at(tmp_path_factory.mktemp("world"))
    sign(made.encrypt("signed"))
    return made


@pytest.fixture
def dataset(signed_world: SignedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PIPECRYPT_TRUST", raising=False)
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", signed_world.environ["PIPECRYPT_KEY_FILE"])
    return Path(shutil.copytree(signed_world.root / "signed", tmp_path / "signed"))


@pytest.fixture
def verify(run: Run, signed_world: SignedWorld) -> Run:
    return lambda *arguments: run("verify", *arguments, "--trust", signed_world.public_key)


def test_a_dataset_as_it_was_signed(verify: Run, dataset: Path) -> None:
    answer = verify(dataset)

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("verified: 3 files, ")
    assert "version 1, signed by " in answer.out
    assert "encrypted columns: email" in answer.out

    document = verify(dataset, "--json").document
    assert document["verified"] is True
    assert (document["files"], document["signed_files"], document["findings"]) == (3, 3, [])
    assert document["policy"]["columns"] == ["email"]
    assert document["created"].endswith("+00:00")


def test_findings_are_grouped_by_their_attack(verify: Run, dataset: Path) -> None:
    (dataset / A).unlink()
    (dataset / "evil\x1b[2J\n").write_bytes(b"")
    with (dataset / C).open("ab") as file:
        file.write(b"x")

    answer = verify(dataset)

    assert answer.code == 3
    assert answer.out.startswith("not verified: 3 findings in ")
    lines = answer.out.splitlines()
    assert lines[lines.index("missing: 1") + 1].split()[0] == A
    assert lines[lines.index("extra: 1") + 1].split()[0] == r"evil\x1b[2J\n"
    assert lines[lines.index("modified: 1") + 1].split()[0] == C
    assert "checked 2 of 3 files" in answer.out
    assert "\x1b" not in answer.out + answer.err
    assert answer.err.splitlines()[0].startswith("error: ")

    answer = verify(dataset, "--json")
    assert answer.code == 3
    document = answer.document
    assert document["verified"] is False
    assert [(each["kind"], each["path"]) for each in document["findings"]] == [
        ("missing", A),
        ("modified", C),
        ("extra", "evil\x1b[2J\n"),
    ]
    assert document["error"]["exit_code"] == 3
    assert document["error"]["type"] == "VerificationError"


def test_many_findings(verify: Run, dataset: Path) -> None:
    for number in range(60):
        (dataset / f"extra-{number}").write_bytes(b"")

    answer = verify(dataset)
    assert "extra: 60" in answer.out
    assert "and 10 more; --json names all" in answer.out
    assert len(verify(dataset, "--json").document["findings"]) == 60


def _roll_back(root: Path) -> None:
    sign(root, **{**next_version(sign(root)), "version": 6})


STATEMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda root: shutil.rmtree(root / "_pipecrypt"), "not trusted"),
    "another signer": (lambda root: sign(root, MALLORY), "not trusted"),
    "rolled back": (_roll_back, "rolled back"),
    "garbage": (lambda root: (root / "_pipecrypt/manifest.json").write_bytes(b"{}"), "modified"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_is_refused_is_a_finding_too(verify: Run, dataset: Path, name: str) -> None:
    tamper, kind = STATEMENTS[name]
    tamper(dataset)
    arguments = [dataset, "--min-version", 7] if name == "rolled back" else [dataset]

    answer = verify(*arguments)
    assert answer.code == 3
    assert answer.out.startswith(f"not verified: 1 finding in {dataset}\n\n{kind}: 1\n")

    document = verify(*arguments, "--json").document
    assert (document["verified"], document["root"]) == (False, str(dataset))
    assert [each["kind"] for each in document["findings"]] == [kind]
    assert document["error"]["exit_code"] == 3


def test_versions_are_remembered(verify: Run, dataset: Path) -> None:
    first = sign(dataset)
    old = (dataset / "_pipecrypt/manifest.json").read_bytes()
    sign(dataset, **next_version(first))
    assert verify(dataset).code == 0
    (dataset / "_pipecrypt/manifest.json").write_bytes(old)

    assert verify(dataset).code == 3
    assert verify(dataset, "--no-remember").code == 0
    assert verify(dataset).code == 3
    assert verify(dataset, "--forget").code == 0
    assert verify(dataset).code == 0
    assert verify(dataset, "--forget", "--no-remember").code == 2


def test_with_keys(verify: Run, dataset: Path, signed_world: SignedWorld) -> None:
    answer = verify(dataset, "--decrypt", "--key", signed_world.key)
    assert answer.code == 0
    assert "the tag of every encrypted page" in answer.out

    answer = verify(dataset, "--decrypt", "--key", signed_world.other_key)
    assert (answer.code, answer.out) == (4, "")

    (dataset / A).unlink()
    answer = verify(dataset, "--decrypt", "--key", signed_world.other_key)
    assert answer.code == 3
    assert "could not be checked: 2" in answer.out
    assert verify(dataset, "--decrypt").code == 2
    assert verify(dataset, "--key", signed_world.key).code == 2


def test_some_files_and_single_files(verify: Run, dataset: Path, tmp_path: Path) -> None:
    assert verify(dataset, "--files", "day=1/*").out.startswith("verified: 1 of 3 files, ")
    assert verify(dataset, "--files", "day=1/*", "--files", A).out.startswith("verified: 2 of 3 files, ")
    assert verify(dataset / A).out.startswith("verified: 1 of 3 files, ")
    alone = Path(shutil.copy(dataset / A, tmp_path / A))
    sign_file(alone)
    assert verify(alone).out.startswith("verified: 1 file, ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "does not exist"),
        (["signed", "--files", "*.csv"], "no file matches"),
        (["signed", "--threshold", "2"], "2 signatures"),
        (["signed", "--dataset-id", "12"], "not a dataset id"),
        (["signed", "--trust", "nothing.pub"], "nothing.pub"),
        (["signed", "--workers", "0"], "--workers"),
    ],
)
def test_wrong_usage(
    verify: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(dataset.parent)

    answer = verify(*arguments)

    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_trust_from_the_environment(
    run: Run, dataset: Path, signed_world: SignedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = run("verify", dataset)
    assert answer.code == 2
    assert "PIPECRYPT_TRUST" in answer.err

    monkeypatch.setenv("PIPECRYPT_TRUST", str(signed_world.public_key))
    assert run("verify", dataset).code == 0


def test_progress_is_told_in_json_lines(verify: Run, dataset: Path) -> None:
    events = [json.loads(line) for line in verify(dataset, "--json").err.splitlines()]

    assert events[0]["event"] == "run_started"
    assert events[0]["files"] == 3
    assert {each["path"] for each in events if each["event"] == "file_checked"} == set(NAMES)


@pytest.mark.parametrize("damage", ["a file", "the statement"])
@pytest.mark.parametrize("mode", ["", "--json", "--log-level debug"])
@pytest.mark.parametrize(
    "outputs", ["", "> /dev/full", ">&-", "2>&-", ">&- 2>&-", "2> /dev/full", "> /dev/full 2> /dev/full", "| true"]
)
def test_no_output_hides_a_failure(
    dataset: Path, signed_world: SignedWorld, damage: str, mode: str, outputs: str
) -> None:
    if "/dev/full" in outputs and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    if damage == "a file":
        (dataset / A).unlink()
    else:
        sign(dataset, MALLORY)
    words = [sys.executable, "-m", "pipecrypt", "verify", str(dataset), "--trust", str(signed_world.public_key)]
    command = f"set -o pipefail; {shlex.join(words)} {mode} {outputs}"

    done = subprocess.run(["bash", "-c", command], env=dict(os.environ), capture_output=True, check=False)

    assert done.returncode == 3
    if outputs in {"", "> /dev/full"}:
        assert (b'"event": "error"' if mode == "--json" else b"error: ") in done.stderr


def test_a_report_that_cannot_be_written_is_no_success(dataset: Path, signed_world: SignedWorld) -> None:
    words = [sys.executable, "-m", "pipecrypt", "verify", str(dataset), "--trust", str(signed_world.public_key)]

    done = subprocess.run(["bash", "-c", f"{shlex.join(words)} > /dev/full"], capture_output=True, check=False)

    assert done.returncode == 1


def test_what_a_run_at_work_explains_is_shown_too(verify: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_rotate(dataset, B)
    monkeypatch.setattr(verification.time, "monotonic", iter(range(0, 10**6, 100)).__next__)
    with Lease(Location(str(dataset)).child(LOCK_DIRECTORY), "x"):
        answer = verify(dataset)
        assert answer.code == 5
        assert "modified: 1" in answer.out
        assert "at work there" in answer.err
        answer = verify(dataset, "--json")
    assert answer.code == 5
    assert answer.document["verified"] is False
    assert [(each["kind"], each["path"]) for each in answer.document["findings"]] == [("modified", B)]
    assert answer.document["error"]["exit_code"] == 5
