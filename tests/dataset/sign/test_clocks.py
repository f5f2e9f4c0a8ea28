"""Clocks that are wrong: which one, by how far, and how to go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.cli.main import main
from pipecrypt.dataset.sign import signers
from pipecrypt.dataset.statement.envelope import MAX_CLOCK_SKEW, parse_envelope
from pipecrypt.dataset.statement.manifest import decode_statement
from pipecrypt.dataset.statement.paths import MANIFEST_PATH
from pipecrypt.errors import FutureStatementError, IntegrityError, UsageError
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.clock import utc_text
from tests.dataset.written import World, people

AHEAD = timedelta(minutes=15)


def _set_clock(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    init = signers.OpenSigners.__init__.__kwdefaults__
    monkeypatch.setitem(init, "clock", lambda: datetime.now(UTC) + ahead)


@pytest.fixture
def early(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A dataset that was signed by a machine whose clock is a quarter of an hour ahead."""
    with monkeypatch.context() as patch:
        _set_clock(patch, AHEAD)
        world.sign()
    return world


def test_readers_say_which_clocks_differ_and_by_how_far(early: World) -> None:
    trust = [early.reference("signing")]
    keys = [early.reference("pii")]
    for read in (
        lambda: pc.verify(early.out, trust),
        lambda: pc.open(early.out, keys=keys, trust=trust, credentials=early.credentials),
        lambda: pc.decrypt(early.out, early.root / "back", keys, trust=trust, credentials=early.credentials),
    ):
        with pytest.raises(FutureStatementError) as caught:
            read()
        assert "clock here says" in caught.value.message
        assert "0:14:5" in caught.value.message or "0:15:0" in caught.value.message
        assert "tampered" not in caught.value.message
        assert "--accept-future-statement" not in caught.value.hint, "readers have no such option"
    assert issubclass(FutureStatementError, IntegrityError)


def test_verify_names_the_kind_and_says_once_what_it_found(early: World, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", str(early.out), "--trust", early.reference("signing"), "--no-remember"]
    assert main(command) == 3
    answer = capsys.readouterr()
    assert "\nfrom the future: 1\n" in answer.out
    assert (answer.out + answer.err).count("clock here says") == 1
    assert "--accept" not in answer.err

    assert main([*command, "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in document["findings"]] == ["from the future"]
    assert "clock here says" in document["error"]["message"]
    assert document["error"]["type"] == "FutureStatementError"


def test_a_skew_that_is_allowed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _set_clock(patch, MAX_CLOCK_SKEW - timedelta(minutes=1))
        world.sign()
    first = world.verify().manifest.created
    world.sign(overwrite=True)
    assert (world.verify().manifest.version, world.verify().manifest.created) == (2, first)


def _request(world: World, *, accepts: bool) -> EncryptSpec:
    options = RunOptions(keeps_journal=True, on_source_change=OnSourceChange.REPLACE, accept_future_statement=accepts)
    return EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=world.policy(), run=options
    )


def test_writers_go_on_where_they_are_told_to(early: World) -> None:
    created = datetime.now(UTC) + AHEAD - timedelta(minutes=1)
    early.write("more.parquet")
    for attempt in (
        lambda: early.sign(overwrite=True),
        lambda: run(_request(early, accepts=False), credentials=early.credentials),
        lambda: report_plan(_request(early, accepts=False)),
    ):
        with pytest.raises(FutureStatementError, match="clock here says") as caught:
            attempt()
        assert "--accept-future-statement" in caught.value.hint
    assert report_plan(_request(early, accepts=True)).conflicts == ()
    assert run(_request(early, accepts=True), credentials=early.credentials).files >= 1
    early.sign(overwrite=True, accept_future_statement=True)
    assert not (early.root / "back").exists()
    last = decode_statement(parse_envelope((early.out / MANIFEST_PATH).read_bytes()).payload)
    assert (last.version, last.created >= created) == (3, True)


def test_a_machine_whose_own_clock_was_ahead(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It remembered the version with that clock too, and the way on that it names must lead on."""
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    with monkeypatch.context() as patch:
        _set_clock(patch, AHEAD)
        world.sign()
    (record,) = (tmp_path / "state" / "accepted").glob("*.json")
    document = json.loads(record.read_bytes())
    record.write_text(json.dumps({**document, "accepted": utc_text(datetime.now(UTC) + AHEAD)}))
    world.write("more.parquet")
    for attempt in (
        lambda: report_plan(_request(world, accepts=False)),
        lambda: run(_request(world, accepts=False), credentials=world.credentials),
    ):
        with pytest.raises(IntegrityError, match="in the future by the clock of this machine") as caught:
            attempt()
        assert "--accept-future-statement" in caught.value.hint
    assert report_plan(_request(world, accepts=True)).conflicts == ()
    assert run(_request(world, accepts=True), credentials=world.credentials).files >= 1
    assert json.loads(record.read_bytes())["version"] == 2
    with pytest.raises(FutureStatementError):
        report_plan(_request(world, accepts=False))


def test_a_single_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"source": world.raw / "a.parquet", "sink": world.root / "one.parquet", "overwrite": True}
    with monkeypatch.context() as patch:
        _set_clock(patch, AHEAD)
        world.sign(**one)
    with pytest.raises(FutureStatementError):
        world.sign(**one)
    world.sign(accept_future_statement=True, **one)


def test_a_writer_of_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    place, table = world.root / "one.parquet", people()
    given = {"overwrite": True, "credentials": world.credentials}

    def by_writer(**options: bool) -> None:
        with pc.ParquetWriter(place, table.schema, world.policy(), **given, **options) as writer:  # type: ignore[arg-type]
            writer.write_table(table)

    def by_reader(**options: bool) -> None:
        pc.encrypt_batches(table, place, world.policy(), **given, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        _set_clock(patch, AHEAD)
        by_writer()
    for number, write in enumerate((by_writer, by_reader), start=2):
        with pytest.raises(FutureStatementError) as caught:
            write()
        assert "--accept-future-statement" in caught.value.hint
        write(accept_future_statement=True)
        version = decode_statement(parse_envelope(Path(f"{place}.sig.json").read_bytes()).payload).version
        assert version == number


def test_a_deep_rotation(early: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rotate = ["rotate", str(early.out), "--from", early.reference("pii"), "--to", early.reference("other"), "--deep"]
    rotate += ["--sign", early.reference("signing")]
    for name, value in early.environ.items():
        monkeypatch.setenv(name, value)
    assert main(rotate) == 3
    monkeypatch.setenv("PIPECRYPT_TRUST", early.reference("signing"))
    assert main(rotate) == 3
    assert main([*rotate, "--accept-future-statement"]) == 0
    last = decode_statement(parse_envelope((early.out / MANIFEST_PATH).read_bytes()).payload)
    assert last.version == 2
    assert last.created > datetime.now(UTC) + AHEAD - timedelta(minutes=2)
    with pytest.raises(UsageError):
        pc.rotate(
            early.out,
            early.reference("other"),
            early.reference("pii"),
            accept_future_statement=True,
            credentials=early.credentials,
        )


def test_a_plan_of_a_configuration(early: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = early.root / "c.yaml"
    config.write_text(
        f"""
source: {{ url: {early.raw} }}
sink: {{ url: {early.out} }}
encrypt: {{ columns: [{{ match: email, key: pii }}], unlisted: plaintext }}
keys: {{ pii: {early.reference("pii")} }}
sign: {early.reference("signing")}
run: {{ on_source_change: replace }}
"""
    )
    for name, value in early.environ.items():
        monkeypatch.setenv(name, value)
    for command in (["plan", str(config)], ["run", str(config), "--dry-run"]):
        assert main(command) == 3
        assert main([*command, "--accept-future-statement"]) in {0, 5}
    saved = early.root / "saved.plan"
    assert main(["plan", str(config), "--out", str(saved), "--accept-future-statement"]) in {0, 5}
    assert saved.exists()


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_with_a_clock_of_the_system(world: World) -> None:
    world.sign()
    command = ["faketime", "-f", "+15m", sys.executable, "-m", "pipecrypt", "encrypt", str(world.raw), str(world.out)]
    keys = ["--key", world.reference("pii"), "--columns", "email", "--sign", world.reference("signing"), "--overwrite"]
    subprocess.run([*command, *keys], env={**world.environ, "PATH": "/usr/bin:/bin"}, check=True)
    with pytest.raises(FutureStatementError):
        pc.verify(Path(world.out), [world.reference("signing")])
