"""Relative paths of a configuration start from its own directory, and errors say where else something was."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import anchored_reference, parse_key_reference
from pipecrypt.store.location import Location
from tests.cli.conftest import Run

_CONFIG = """\
source: {url: ./raw/}
sink: {url: ./sealed/}
encrypt: {default: pii}
keys: {pii: "keystore://./keys.json#pii"}
"""


@pytest.fixture
def elsewhere(run: Run, world: Path) -> Path:
    """A directory `conf` with all that its configuration names, while the current directory is the one above it."""
    conf = world / "conf"
    (conf / "raw").mkdir(parents=True)
    pq.write_table(pa.table({"email": ["a", "b"]}), conf / "raw" / "a.parquet")
    (conf / "c.yaml").write_text(_CONFIG)
    assert run("keys", "new", "keystore://conf/keys.json#pii").code == 0
    return world


def test_a_configuration_means_the_same_wherever_it_is_run(
    run: Run, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["config", "check"], ["plan"], ["run"]):
        answer = run(*command, "conf/c.yaml")
        assert answer.code == 0, answer
    assert [path.name for path in (elsewhere / "conf" / "sealed").glob("*.parquet")] == ["a.parquet"]
    assert not (elsewhere / "sealed").exists()

    monkeypatch.chdir(elsewhere / "conf")
    assert run("run", "c.yaml").out.startswith("nothing to do: 1 file")
    monkeypatch.chdir("/")
    assert run("run", str(elsewhere / "conf" / "c.yaml")).out.startswith("nothing to do: 1 file")
    assert (
        run("cat", elsewhere / "conf/sealed/a.parquet", "--key", f"keystore://{elsewhere}/conf/keys.json#pii").code == 0
    )


def test_what_was_done_is_found_again_when_all_of_it_has_moved(run: Run, elsewhere: Path) -> None:
    assert run("run", "conf/c.yaml").code == 0
    shutil.move(elsewhere / "conf", elsewhere / "moved")

    assert run("run", "moved/c.yaml").out.startswith("nothing to do: 1 file")


def test_a_run_before_that_named_its_keystore_from_the_current_directory_is_continued(
    run: Run, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions did that kept references as they are written: their tasks have the ids that such a run looks for."""
    monkeypatch.chdir(elsewhere / "conf")
    monkeypatch.setattr("pipecrypt.config.load.anchored_reference", lambda text, _directory: text)
    assert run("run", "c.yaml").code == 0
    monkeypatch.undo()
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(elsewhere / "machine.key"))
    monkeypatch.chdir(elsewhere)

    assert run("run", "conf/c.yaml").out.startswith("nothing to do: 1 file")


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_successor_of_a_key_is_found_from_anywhere(run: Run, elsewhere: Path, is_listed: bool) -> None:
    assert run("run", "conf/c.yaml").code == 0
    old, new = (f"keystore://conf/keys.json#{name}" for name in ("pii", "pii2"))
    assert run("keys", "new", new).code == 0
    assert run("rotate", "conf/sealed", "--deep", "--from", old, "--to", new).code == 0
    keys = "old: 'keystore://./keys.json#pii', pii" if is_listed else "pii"
    text = _CONFIG.replace("{pii:", f"{{{keys}:").replace('json#pii"}', 'json#pii2"}')
    (elsewhere / "conf/c.yaml").write_text(text)

    assert run("run", "conf/c.yaml").out.startswith("nothing to do: 1 file")
    shutil.move(elsewhere / "conf", elsewhere / "moved")
    assert run("run", "moved/c.yaml").out.startswith("nothing to do: 1 file")


@pytest.mark.parametrize("command", [["config", "check"], ["plan"], ["run"]], ids=" ".join)
@pytest.mark.parametrize("what", ["raw", "keys.json"])
def test_what_is_in_the_current_directory_instead_is_told(
    run: Run, elsewhere: Path, what: str, command: list[str]
) -> None:
    shutil.move(elsewhere / "conf" / what, elsewhere / what)

    answer = run(*command, "conf/c.yaml")

    assert answer.code == (2 if what == "raw" else 4)
    assert f"{elsewhere}/conf" in answer.err
    assert f"./{what}" in answer.err
    assert f"exists in the current directory, {elsewhere}" in answer.err


def test_a_sink_in_the_current_directory_is_told_before_another_one_is_made(run: Run, elsewhere: Path) -> None:
    (elsewhere / "sealed").mkdir()

    answer = run("run", "conf/c.yaml")

    assert answer.code == 0
    assert "./sealed/ exists in the current directory" in answer.err
    assert run("run", "conf/c.yaml").err == "", "there is one where the configuration means it"


def test_a_linked_configuration_means_the_directory_that_it_is_named_in(run: Run, elsewhere: Path) -> None:
    """As volumes of Kubernetes show them: the name is a link into a directory of this version."""
    (elsewhere / "conf" / "..data").mkdir()
    os.rename(elsewhere / "conf/c.yaml", elsewhere / "conf/..data/c.yaml")
    (elsewhere / "conf/c.yaml").symlink_to("..data/c.yaml")

    assert run("config", "check", "conf/c.yaml").code == 0


def test_names_of_globs_in_the_directory_are_names(run: Run, elsewhere: Path) -> None:
    (elsewhere / "conf/c.yaml").write_text(_CONFIG.replace("./raw/", "'raw/*.parquet'"))
    shutil.move(elsewhere / "conf", elsewhere / "a[1]*")

    assert run("run", "a[1]*/c.yaml").code == 0
    assert (elsewhere / "a[1]*" / "sealed" / "a.parquet").exists()


def test_init_writes_paths_that_hold(run: Run, elsewhere: Path) -> None:
    assert run("init", "new").code == 0
    shutil.copytree(elsewhere / "conf" / "raw", elsewhere / "new" / "data")

    assert run("config", "check", "new/pipecrypt.yaml").code == 0
    assert run("run", "new/pipecrypt.yaml").code == 0
    assert (elsewhere / "new" / "encrypted" / "a.parquet").exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("raw", "/a b/c/raw"),
        ("./raw/", "/a b/c/raw/"),
        (".", "/a b/c"),
        ("../raw/*.parquet", "/a b/raw/*.parquet"),
        ("../../../../raw", "/raw"),
        ("./.././raw", "/a b/raw"),
        ("..", "/a b"),
        ("raw/../x", "/a b/c/raw/../x"),
        ("file://./raw", "/a b/c/raw"),
        ("file:///raw", "file:///raw"),
        ("/raw", "/raw"),
        ("~/raw", "~/raw"),
        ("-", "-"),
        ("s3://bucket/./raw", "s3://bucket/./raw"),
        ("simplecache::file://./raw", "simplecache::file://./raw"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert Location(url, {"a": 1}).anchored("/a b/c") == Location(expected, {"a": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keystore://./k.json#a", "keystore:///a%20b/%23c/k.json#a"),
        ("keystore://k.json#a", "keystore:///a%20b/%23c/k.json#a"),
        ("keystore://../k%20.json?x=../y#../z", "keystore:///a%20b/k%20.json?x=../y#../z"),
        ("KEYSTORE://k.json#a", "KEYSTORE:///a%20b/%23c/k.json#a"),
        ("pem://k.pem", "pem:///a%20b/%23c/k.pem"),
        ("recipient://./alice.pub", "recipient:///a%20b/%23c/alice.pub"),
        ("static://map.json", "static:///a%20b/%23c/map.json"),
        ("keystore:///k.json#a", "keystore:///k.json#a"),
        ("keystore://%2Fk.json#a", "keystore://%2Fk.json#a"),
        ("keystore://~/k.json#a", "keystore://~/k.json#a"),
        ("aws-kms://alias/pii", "aws-kms://alias/pii"),
        ("vault://host/transit/pii", "vault://host/transit/pii"),
        ("pkcs11:token=a;object=b", "pkcs11:token=a;object=b"),
    ],
)
def test_key_references(text: str, expected: str) -> None:
    assert anchored_reference(text, "/a b/#c") == expected


@given(st.text(min_size=1), st.lists(st.text(min_size=1).filter(lambda part: not {"/", "\0"} & set(part)), min_size=1))
def test_an_anchored_reference_names_the_file_in_the_directory(text: str, parts: list[str]) -> None:
    try:
        reference = parse_key_reference(f"keystore://{text}#a")
        directory = "/" + "/".join(parts)
        directory.encode()
    except (KeyReferenceError, UnicodeEncodeError):
        return
    if reference.fragment != "a" or reference.query or not 0 < len(directory) < 200:
        return
    anchored = parse_key_reference(anchored_reference(reference.text, directory))
    expected = os.path.normpath(os.path.join(directory, reference.location))
    if not reference.location.startswith("~") and not {".", ".."} & set(parts):
        assert os.path.normpath(anchored.location) == expected
        assert replace(anchored, location="", text="") == replace(reference, location="", text="")
