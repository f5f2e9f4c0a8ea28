from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import pipecrypt as pc
from cli.conftest import Run
from pipecrypt.cli.main import main
from tests.crypto.keys import private_pem

_ROUND_TRIPS = [
    [],
    ["--footer", "encrypted"],
    ["--data-keys", "file"],
    ["--columns", "email,address.city"],
    ["--columns", "email", "--columns", "address"],
    ["--columns", "e*"],
    ["--uniform"],
    ["--no-bind-path", "--uniform", "--footer", "encrypted"],
    ["--workers", "2"],
]


@pytest.mark.parametrize("options", _ROUND_TRIPS, ids=" ".join)
def test_encrypt_and_decrypt_give_back_the_bytes(run: Run, people: Path, keyref: str, options: list[str]) -> None:
    answer = run("encrypt", people, "sealed.parquet", "--key", keyref, *options)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("encrypted 1 file in ")
    assert "key service calls  " in answer.out
    assert Path("sealed.parquet").read_bytes() != people.read_bytes()

    answer = run("decrypt", "sealed.parquet", "back.parquet", "--key", keyref)
    assert answer.code == 0, answer.err
    assert Path("back.parquet").read_bytes() == people.read_bytes()


def test_the_summary_in_json_and_progress_beside_it(run: Run, people: Path, keyref: str) -> None:
    answer = run("encrypt", people, "out/", "--key", keyref, "--json")

    summary = answer.document
    assert summary["operation"] == "encrypt"
    assert (summary["files"], summary["rows"], summary["batches"]) == (1, 6, 2)
    assert summary["source_bytes"] == people.stat().st_size
    assert summary["sink_bytes"] == Path("out/people.parquet").stat().st_size
    assert summary["service_calls"] == 1
    assert summary["data_keys"] == 4 * 2 + 1
    assert summary["megabytes_per_second"] > 0
    assert [part["path"] for part in summary["parts"]] == ["people.parquet"]
    assert json.loads(answer.err.splitlines()[0])["event"] == "run_started"


def test_a_full_sink_is_refused_unless_it_may_be_overwritten(run: Run, people: Path, keyref: str) -> None:
    Path("sealed.parquet").write_text("something else")

    answer = run("encrypt", people, "sealed.parquet", "--key", keyref)
    assert answer.code == 5
    assert "--overwrite" in answer.err
    assert Path("sealed.parquet").read_text() == "something else"

    assert run("encrypt", people, "sealed.parquet", "--key", keyref, "--overwrite").code == 0
    assert run("encrypt", people, "sealed.parquet", "--key", keyref).code == 5


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["encrypt", "people.parquet", "out.parquet", "--key", "keystore://./keys.json#no"], 4, "no"),
        (["encrypt", "people.parquet", "out.parquet", "--key", "keystor://./keys.json#pii"], 2, "keystore"),
        (["encrypt", "people.parquet", "out.parquet", "--key", "keystore://./none.json#pii"], 4, "none.json"),
        (["encrypt", "people.parquet", "out.parquet", "--key", "KEY", "--columns", "emial"], 2, "email"),
        (["encrypt", "people.parquet", "out.parquet", "--key", "KEY", "--columns", "z*"], 2, "z*"),
        (["encrypt", "people.parquet", "out.parquet", "--key", "KEY", "--columns", ","], 2, "column"),
        (["encrypt", "people.parquet", "out.parquet", "--key", "KEY", "--columns", "id", "--uniform"], 2, "uniform"),
        (["encrypt", "nothing.parquet", "out.parquet", "--key", "KEY"], 2, "nothing.parquet"),
        (["encrypt", "no*.parquet", "out/", "--key", "KEY"], 2, "no*.parquet"),
        (["encrypt", "machine.key", "out.parquet", "--key", "KEY"], 1, "machine.key"),
        (["decrypt", "people.parquet", "out.parquet", "--key", "KEY"], 1, "not encrypted"),
        (["decrypt", "people.parquet", "out.parquet", "--key", "KEY", "--aad-prefix", "hex:0"], 2, "hex"),
        (["encrypt", "people.parquet", "people.parquet", "--key", "KEY"], 2, "people.parquet"),
        (["cat", "people.parquet", "--columns", "emial"], 2, "email"),
        (["inspect", "machine.key"], 1, "machine.key"),
    ],
)
def test_bad_input_gets_its_exit_code_and_leaves_nothing(
    run: Run, people: Path, keyref: str, arguments: list[str], code: int, part: str
) -> None:
    before = sorted(people.parent.iterdir())

    answer = run(*[keyref if each == "KEY" else each for each in arguments])

    assert answer.code == code, answer.err
    assert part in answer.err
    assert "hint: " in answer.err
    assert sorted(people.parent.iterdir()) == before


@pytest.fixture
def sealed(people: Path, keyref: str) -> str:
    assert main(["encrypt", str(people), "sealed.parquet", "--key", keyref, "--columns", "email,address"]) == 0
    return "sealed.parquet"


def test_cat_in_three_formats(run: Run, sealed: str, keyref: str) -> None:
    chosen = ["--key", keyref, "--columns", "id,email,address.city", "--limit", "2"]

    table = run("cat", sealed, *chosen).out.splitlines()
    assert table[0].split() == ["id", "email", "address"]
    assert len(table) == 3

    rows = run("cat", sealed, *chosen, "--json").document
    assert rows == [{"id": n, "email": f"user{n}@example.org", "address": {"city": f"city {n}"}} for n in range(2)]
    assert rows == run("cat", sealed, *chosen, "--format", "json").document

    lines = list(csv.reader(io.StringIO(run("cat", sealed, *chosen, "--format", "csv").out)))
    assert lines[1] == ["0", "user0@example.org", '{"city": "city 0"}']


def test_cat_without_keys_shows_what_is_readable_and_says_so(run: Run, sealed: str) -> None:
    answer = run("cat", sealed)

    assert answer.code == 0
    assert answer.out.splitlines()[0] == "id"
    assert answer.err.splitlines() == [
        "note: authenticity was not checked: no public key to trust was given",
        "note: left out, for want of a key: email, address.city, address.zip",
    ]
    assert len(run("cat", sealed, "--verify", "off").err.splitlines()) == 1


def test_cat_of_a_column_without_its_key(run: Run, sealed: str) -> None:
    answer = run("cat", sealed, "--columns", "email")

    assert (answer.code, answer.out) == (4, "")
    assert "email" in answer.err


def test_cat_when_all_is_encrypted(run: Run, people: Path, keyref: str) -> None:
    run("encrypt", people, "all.parquet", "--key", keyref)

    assert run("cat", "all.parquet").code == 4


def test_a_tampered_file_exits_with_3(run: Run, sealed: str, keyref: str) -> None:
    data = bytearray(Path(sealed).read_bytes())
    name = b"user0@"
    assert name not in data
    summary = run("inspect", sealed, "--json").document
    assert summary["encrypted"]
    plain = sum(column["stored_bytes"] for column in summary["columns"][:1])
    data[4 + plain + 60] ^= 1
    Path(sealed).write_bytes(data)

    answer = run("decrypt", sealed, "back.parquet", "--key", keyref)

    assert answer.code == 3, answer.err
    assert not Path("back.parquet").exists()


def test_inspect_needs_no_key(run: Run, sealed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")

    answer = run("inspect", sealed)
    assert answer.code == 0
    assert "email" in answer.out
    assert "keystore/pii/" in answer.out
    assert "AES_GCM_V1" in answer.out

    summary = run("inspect", sealed, "--json").document
    assert [column["encrypted"] for column in summary["columns"]] == [False, True, True, True]
    assert summary["footer_mode"] == "plaintext"
    assert summary["readers"]


def test_inspect_of_a_directory(run: Run, world: Path, people: Path) -> None:
    (world / "second.parquet").write_bytes(people.read_bytes())

    assert len(run("inspect", world, "--json").document["files"]) == 2
    assert run("inspect", world).out.count("any Parquet reader") == 2


def test_keys(run: Run, keyref: str) -> None:
    signing = "keystore://./keys.json#signing"
    made = run("keys", "new", signing, "--type", "ed25519", "--json").document
    assert (made["name"], made["type"], made["version"]) == ("signing", "ed25519", 1)

    assert run("keys", "new", keyref).code == 5
    assert run("keys", "new", keyref, "--new-version").code == 0
    listed = run("keys", "list", "keys.json", "--json").document["keys"]
    assert sorted((key["name"], key["version"]) for key in listed) == [("pii", 1), ("pii", 2), ("signing", 1)]
    assert len(run("keys", "list", keyref).out.splitlines()) == 3

    pem = run("keys", "export", signing, "--public").out
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert run("keys", "export", signing, "--public", "--verify").out == pem
    exported = run("keys", "export", signing, "--public", "--json").document
    assert exported["public_key"] == pem
    assert exported["key_id"] == made["key_id"]
    assert made["key_id"] in run("keys", "list", signing).out
    assert run("keys", "export", signing).code == 2
    assert run("keys", "export", keyref, "--public").code == 2


def test_export_of_a_pem_key(run: Run, world: Path) -> None:
    pem = private_pem(Ed25519PrivateKey.generate())
    (world / "key.pem").write_bytes(pem)
    (world / "key.pem").chmod(0o600)
    answer = run("keys", "export", "pem://./key.pem", "--public")
    assert answer.out.startswith("-----BEGIN PUBLIC KEY-----\n")

    (world / "public.pem").write_text(answer.out)
    assert run("keys", "export", "pem://./public.pem", "--public").code == 2
    assert run("keys", "export", "pem://./none.pem", "--public").code == 4
    assert run("keys", "export", "static://./keys.json", "--public").code == 2
    # A public key needs no keystore.
    refused = run("keys", "import", "keystore://./keys.json#public", "public.pem")
    assert (refused.code, "public key" in refused.err) == (2, True)
    assert run("keys", "import", "keystore://./keys.json#private", "key.pem").code == 0
    assert run("keys", "export", "keystore://./keys.json#private", "--public").out == answer.out


def test_import_of_a_key(run: Run, world: Path) -> None:
    (world / "raw").write_bytes(bytes(32))
    (world / "short").write_bytes(bytes(5))

    assert run("keys", "import", "keystore://./keys.json#old", "raw").code == 0
    assert run("keys", "import", "keystore://./keys.json#bad", "short").code == 2
    assert run("keys", "import", "keystore://./keys.json#bad", "missing").code == 2
    assert run("keys", "import", "keystore://./keys.json#bad", ".").code == 1


def test_no_passphrase_and_a_wrong_one(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")
    assert run("keys", "new", "keystore://./keys.json#pii").code == 4
    assert not Path("keys.json").exists()

    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "right horse")
    assert run("keys", "new", "keystore://./keys.json#pii").code == 0
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "wrong")
    answer = run("keys", "new", "keystore://./keys.json#other")
    assert answer.code == 4
    assert "wrong" not in answer.err.replace(str(world), "").replace("wrong passphrase", "").replace("is wrong", "")


def test_a_person_is_asked_twice_for_a_new_keystore(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "a passphrase"

    monkeypatch.setattr("pipecrypt.cli.options.getpass", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)

    assert run("keys", "new", "keystore://./keys.json#pii").code == 0
    assert len(asked) == 2
    assert run("keys", "new", "keystore://./keys.json#other").code == 0
    assert len(asked) == 3


def test_init_writes_what_runs(run: Run, world: Path, people: Path) -> None:
    answer = run("init", "new place")
    assert answer.code == 0, answer.err
    assert stat.S_IMODE(os.stat("new place/keys.json").st_mode) == 0o600

    os.chdir("new place")
    Path("data/deep").mkdir(parents=True)
    people.rename("data/deep/people.parquet")
    assert run("config", "check", "pipecrypt.yaml").code == 0
    assert run("run", "pipecrypt.yaml").code == 0
    assert pq.read_metadata("encrypted/deep/people.parquet").num_rows == 6


def test_init_overwrites_nothing(run: Run, world: Path) -> None:
    (world / "pipecrypt.yaml").write_text("mine")
    assert run("init").code == 5
    assert not (world / "keys.json").exists()

    (world / "pipecrypt.yaml").rename(world / "keys.json")
    assert run("init").code == 5
    assert (world / "keys.json").read_text() == "mine"
    assert not (world / "pipecrypt.yaml").exists()
    assert run("init", "keys.json/below").code == 1


_CONFIG = """\
source: {url: "${SOURCE:-people.parquet}"}
sink: {url: out/}
encrypt:
  columns: [{match: email, key: pii}, {match: address, key: pii}]
keys: {pii: "keystore://./keys.json#pii"}
"""


def test_run_and_check(run: Run, people: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("c.yaml").write_text(_CONFIG)
    plan = run("config", "check", "c.yaml", "--json").document
    assert plan["sources"] == [{"path": "people.parquet", "size_bytes": people.stat().st_size}]
    assert {column["path"]: column["key"] for column in plan["columns"]} == {
        "id": None,
        "email": "pii",
        "address.city": "pii",
        "address.zip": "pii",
    }
    assert "c.yaml is valid" in run("config", "check", "c.yaml").out
    assert not Path("out").exists()

    assert run("run", "c.yaml").code == 0
    again = run("run", "c.yaml")
    assert (again.code, again.out) == (0, "nothing to do: 1 file is as an earlier run left it\n")
    assert run("run", "c.yaml", "--overwrite", "--workers", "2", "--json").document["files"] == 1

    monkeypatch.setenv("SOURCE", "missing.parquet")
    assert run("config", "check", "c.yaml").code == 2
    offline = run("config", "check", "c.yaml", "--offline", "--json").document
    assert (offline["sources"], offline["columns"]) == (None, None)


def test_a_wrong_configuration_names_the_place(run: Run, people: Path, keyref: str) -> None:
    Path("c.yaml").write_text(_CONFIG.replace("email", "emial"))
    answer = run("config", "check", "c.yaml")
    assert answer.code == 2
    assert "email" in answer.err

    Path("c.yaml").write_text(_CONFIG + "signed: keystore://./keys.json#signing\n")
    answer = run("run", "c.yaml")
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: c.yaml:6:1: unknown key 'signed'")

    Path("c.yaml").write_text(_CONFIG.replace("columns: [{", "uniform: true\n  columns: [{"))
    answer = run("run", "c.yaml")
    assert (answer.code, answer.err[: len("error: c.yaml:4:")]) == (2, "error: c.yaml:4:")

    assert run("run", "none.yaml").code == 2


def test_the_schema_is_json(run: Run) -> None:
    assert run("config", "schema").document["title"] == "pipecrypt configuration"
    assert run("config", "schema", "--json").document["title"] == "pipecrypt configuration"


def test_cat_says_what_was_not_checked(run: Run, people: Path, keyref: str) -> None:
    answer = run("cat", people, "--key", keyref)
    assert answer.code == 0
    assert "is not encrypted" in answer.err
    assert "not encrypted" not in run("cat", people).err

    assert run("keys", "new", "keystore://./keys.json#other").code == 0
    policy = pc.Policy(columns={"email": keyref, "id": "keystore://./keys.json#other"})
    pc.encrypt(str(people), "sealed.parquet", policy)
    notes = {each: run("cat", "sealed.parquet", "--key", each).err for each in (keyref, "keystore://./keys.json#other")}
    assert sorted("the footer of" in text for text in notes.values()) == [False, True]
    assert all("authenticity was not checked" in text for text in notes.values())


def test_cat_takes_one_file(run: Run, people: Path) -> None:
    (people.parent / "b.parquet").write_bytes(people.read_bytes())
    answer = run("cat", people.parent)
    assert answer.code == 2
    assert "2 files" in answer.err


@pytest.mark.parametrize("is_sealed", [False, True])
def test_cat_tells_columns_apart_by_number(run: Run, world: Path, keyref: str, is_sealed: bool) -> None:
    table = pa.Table.from_arrays(
        [pa.array([each]) for each in ("1", "x", "3", "dotted", {"b": "nested"}, "flat")],
        ["d", "d", "d", "x.y", "a", "a.b"],
    )
    path, keys = "odd.parquet", ()
    pq.write_table(table, path)
    if is_sealed:
        pc.encrypt(path, "sealed.parquet", pc.Policy(default=keyref))
        path, keys = "sealed.parquet", ("--key", keyref)
    assert run("cat", path, *keys, "--format", "csv").out.splitlines()[1].split(",")[:4] == ["1", "x", "3", "dotted"]
    assert run("cat", path, *keys, "--columns", "x.y", "--format", "csv").out == "x.y\ndotted\n"
    assert "nested" in run("cat", path, *keys, "--columns", "a.b").out
    assert run("cat", path, *keys, "--format", "json").code == 2


def test_cat_of_damaged_pages(run: Run, people: Path) -> None:
    data = bytearray(people.read_bytes())
    data[30:90] = bytes(each ^ 255 for each in data[30:90])
    people.write_bytes(data)
    answer = run("cat", people)
    assert answer.code == 1
    assert "cannot decode" in answer.err
    assert "unexpected" not in answer.err


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full"])
def test_streams_that_are_closed_or_full(people: Path, keyref: str, streams: str) -> None:
    command = f"exec {sys.executable} -m pipecrypt encrypt people.parquet sealed.parquet --key {keyref} {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == ("full" in streams)
    assert Path("sealed.parquet").exists()
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


def test_no_standard_input_to_ask_on(people: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "some words")
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")
    key = "keystore://./other.json#pii"
    subprocess.run([sys.executable, "-m", "pipecrypt", "keys", "new", key], check=True, capture_output=True)
    monkeypatch.delenv("PIPECRYPT_PASSPHRASE")
    command = f"exec {sys.executable} -m pipecrypt encrypt people.parquet sealed.parquet --key {key} <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, start_new_session=True)
    assert done.returncode == 4
    assert "unexpected" not in done.stderr


def test_a_plan_is_shown_saved_and_done(run: Run, people: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("c.yaml").write_text(_CONFIG)
    monkeypatch.setenv("SOURCE", str(people))
    shown = run("plan", "c.yaml", "--out", "plan.json")
    assert (shown.code, shown.out.splitlines()[0].split(",")[0]) == (0, "1 file to encrypt")
    document = run("run", "c.yaml", "--dry-run", "--json").document
    assert (document["to_do"], document["conflicts"]) == (1, [])
    assert not Path("out").exists()
    assert run("run", "c.yaml", "--plan", "plan.json").code == 0
    assert run("plan", "c.yaml", "--json").document["skipped"] == 1
    Path("out/foreign").mkdir()
    Path("c.yaml").write_text(_CONFIG.replace("email", "id"))
    conflict = run("plan", "c.yaml")
    assert (conflict.code, "conflict: " in conflict.out) == (5, True)
    assert run("run", "c.yaml", "--plan", "plan.json").code == 5
    assert run("run", "c.yaml", "--plan", "none.json").code == 2
    assert run("run", "c.yaml", "--plan", "plan.json", "--dry-run").code == 2
    Path("c.yaml").write_text(_CONFIG.replace("out/", "another/"))
    assert run("run", "c.yaml", "--plan", "plan.json").code == 5
    assert not Path("another").exists()


def test_clean_tells_what_it_does(run: Run, people: Path, keyref: str) -> None:
    assert run("encrypt", people, "out/", "--key", keyref).code == 0
    assert run("clean", "out").out.splitlines()[0] == "removed 0 files, 0 bytes"
    assert run("clean", "out", "--grace", "0s", "--dry-run", "--json").document["is_dry_run"] is True
    assert run("clean", "out", "--grace", "soon").code == 2
    assert run("clean", "nowhere").code == 2
