"""`config check` says what is missing, as far as it sees that without a passphrase: keys, sinks that cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run

_CONFIG = """\
source: {{url: ./people.parquet}}
sink: {{url: {sink}}}
encrypt: {{columns: [{{match: email, key: k}}]}}
keys: {{k: "{key}", s: "{signing}"}}
sign: s
"""
_KEY = "keystore://./keys.json#pii"
_SIGNING = "keystore://./keys.json#signing"


@pytest.fixture
def checked(run: Run, people: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Checks a configuration without anything that opens keys."""
    assert run("keys", "new", _SIGNING, "--type", "ed25519").code == 0
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")

    def check(*options: str, sink: str = "./sealed/", key: str = _KEY, signing: str = _SIGNING) -> object:
        Path("c.yaml").write_text(_CONFIG.format(sink=sink, key=key, signing=signing))
        return run("config", "check", "c.yaml", *options)

    return check


def test_keys_that_are_there_need_no_passphrase(checked: Run) -> None:
    assert checked().code == 0


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"key": "keystore://./keys.json#missing"}, "pipecrypt keys new keystore://{here}/keys.json#missing"),
        ({"key": "keystore://./missing.json#pii"}, "pipecrypt keys new keystore://{here}/missing.json#pii"),
        (
            {"signing": "keystore://./keys.json#missing"},
            "pipecrypt keys new keystore://{here}/keys.json#missing --type ed25519",
        ),
    ],
)
def test_a_missing_key_is_told_with_the_command_that_makes_it(
    checked: Run, world: Path, change: dict[str, str], command: str
) -> None:
    answer = checked(**change)

    assert answer.code == 4
    assert command.format(here=world) in answer.err
    assert checked("--offline", **change).code == 0


def test_a_key_file_that_is_missing_is_told_by_its_whole_path(checked: Run, world: Path) -> None:
    answer = checked(signing="pem://./missing.pem")

    assert answer.code == 4
    assert f"{world}/missing.pem" in answer.err


@pytest.mark.parametrize("sink", ["people.parquet/", "people.parquet/deep/er/", "./keys.json/x.parquet"])
def test_a_sink_that_cannot_be_made_is_told_where_it_stands(checked: Run, world: Path, sink: str) -> None:
    answer = checked(sink=sink)

    assert answer.code == 2
    assert "\nerror: c.yaml:2:13: the sink " in answer.err
    assert "is not a directory" in answer.err


def test_a_sink_on_a_storage_that_nobody_has_is_told(checked: Run) -> None:
    assert checked(sink="nowhere://bucket/out/").code == 2


def test_a_sink_that_is_the_source_is_told(checked: Run) -> None:
    assert checked(sink="./people.parquet").code != 0


@pytest.mark.parametrize("sink", ["sealed", "a/b/c/", "-"])
def test_a_sink_that_can_be_made_is_not_made(checked: Run, world: Path, sink: str) -> None:
    before = sorted(world.iterdir())
    answer = checked(sink=sink)
    assert answer.code == (2 if sink == "-" else 0), "what is signed does not go to standard output"
    assert {path.name for path in world.iterdir()} - {path.name for path in before} <= {"c.yaml"}
