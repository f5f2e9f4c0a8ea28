"""`encrypt --sign` and `sign:` in a configuration: what they write, say and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run

_SIGNING = "keystore://./keys.json#signing"
_CONFIG = """\
source: {url: people.parquet}
sink: {url: out/}
encrypt: {default: pii}
keys: {pii: "keystore://./keys.json#pii", auditor: "keystore://./keys.json#signing"}
sign: {keys: auditor, valid_for: 36h}
"""


@pytest.fixture
def signing(run: Run, keyref: str) -> str:
    assert run("keys", "new", _SIGNING, "--type", "ed25519").code == 0
    return _SIGNING


def test_a_directory_is_signed_and_the_answer_says_so(run: Run, people: Path, keyref: str, signing: str) -> None:
    answer = run("encrypt", people, "out/", "--key", keyref, "--sign", signing)

    assert answer.code == 0, answer.err
    key_id = json.loads(Path("out/_pipecrypt/manifest.json").read_text())["signatures"][0]["keyid"]
    assert answer.out.splitlines()[-2:] == ["signed out/_pipecrypt/manifest.json, version 1", f"  by key {key_id}"]


def test_a_single_file_is_signed_by_several_keys(run: Run, people: Path, keyref: str, signing: str) -> None:
    assert run("keys", "new", "keystore://./keys.json#second", "--type", "mldsa65").code == 0
    keys = ["--sign", signing, "--sign", "keystore://./keys.json#second"]
    summary = run("encrypt", people, "out.parquet", "--key", keyref, *keys, "--valid-for", "12h", "--json").document

    (signed,) = summary["signed"]
    envelope = json.loads(Path("out.parquet.sig.json").read_text())
    assert [each["keyid"] for each in envelope["signatures"]] == signed["key_ids"]
    assert (signed["path"], signed["version"], len(signed["key_ids"])) == ("out.parquet.sig.json", 1, 2)
    assert signed["expires"] is not None
    assert set(summary["parts"][0]) == set(_unsigned_part(run, people, keyref))  # no digests, no promises


def _unsigned_part(run: Run, people: Path, keyref: str) -> dict[str, object]:
    summary = run("encrypt", people, "unsigned.parquet", "--key", keyref, "--json").document
    assert summary["signed"] == []
    part: dict[str, object] = summary["parts"][0]
    return part


@pytest.mark.parametrize(
    ("sink", "options", "code", "part"),
    [
        ("-", ["--sign", _SIGNING], 2, "standard output"),
        ("out/", ["--sign", _SIGNING, "--valid-for", "30"], 2, "'30'"),
        ("out/", ["--sign", _SIGNING, "--valid-for", "0d"], 2, "'0d'"),
        ("out/", ["--sign", _SIGNING, "--valid-for", "40000d"], 2, "too long"),
        ("out/", ["--sign", _SIGNING, "--digest", "md5"], 2, "md5"),
        ("out/", ["--digest", "blake3"], 2, "no key is to sign"),
        ("out/", ["--valid-for", "1d"], 2, "no key is to sign"),
        ("out/", ["--sign", _SIGNING, "--sign", _SIGNING], 2, "twice"),
        ("out/", ["--sign", "keystore://./keys.json#pii"], 2, "pii"),
        ("out/", ["--sign", "keystore://./keys.json#none"], 4, "none"),
        ("out/", ["--sign", "nonsense"], 2, "nonsense"),
    ],
)
def test_what_cannot_be_signed_is_refused_before_anything_is_written(
    run: Run, people: Path, keyref: str, signing: str, sink: str, options: list[str], code: int, part: str
) -> None:
    answer = run("encrypt", people, sink, "--key", keyref, *options)

    assert answer.code == code
    assert part in answer.err
    assert not Path("out").exists()


def test_a_configuration_signs(run: Run, people: Path, keyref: str, signing: str) -> None:
    Path("c.yaml").write_text(_CONFIG)

    lines = run("config", "check", "c.yaml").out.splitlines()
    assert f"  signed by  keystore://{Path.cwd()}/keys.json#signing" in lines
    assert "  signed as  digests with sha256, valid for 1 day and 12 hours" in lines
    assert run("run", "c.yaml", "--json").document["signed"][0]["version"] == 1
    assert run("run", "c.yaml").out.startswith("nothing to do")
    assert run("run", "c.yaml", "--overwrite", "--json").document["signed"][0]["version"] == 2

    unsigned = run("encrypt", people, "out/", "--key", keyref, "--overwrite")
    assert unsigned.code == 5
    assert "signed dataset" in unsigned.err
