"""Attempts that were given up and publish all the same, after their version was signed and moved to its places."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

import pipecrypt as pc
from pipecrypt.dataset import staged
from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.errors import IntegrityError, PipecryptError, VerificationError
from pipecrypt.runs.plan.preview import report_plan
from tests.faults.scenes import SCENES, Shop, prepare, write_source

NAME = "day=1/b.parquet"


@pytest.fixture(params=["local", "memory"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """A signed dataset in its second version, whose file `NAME` that version made."""
    made = prepare(SCENES["first"], tmp_path)
    made = made.at(tmp_path / "sink" if request.param == "local" else f"memory://{tmp_path.name}")
    made.run()
    write_source(made.raw, "day=1/b", 40, "parquet", "new")
    made.run()
    yield made
    if request.param == "memory":
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def _publish_late(shop: Shop) -> str:
    """Let another attempt at a file of the version appear where the first one was staged."""
    pc.encrypt(
        shop.raw,
        shop.root / "late",
        pc.Policy(columns={"email": shop.key("pii")}, sign=shop.key("signing")),
        credentials=shop.credentials,
    )
    run = max(name.split("/")[2] for name in shop.files() if name.endswith("/finished.json"))
    staged = f"_pipecrypt/runs/{run}/staged/{NAME}"
    fs, root = fsspec.core.url_to_fs(shop.sink)
    fs.makedirs(f"{root}/{staged}".rpartition("/")[0], exist_ok=True)
    late = (shop.root / "late" / NAME).read_bytes()
    assert len(late) == len(shop.files()[NAME])  # its footer alone tells it from the right one
    fs.pipe_file(f"{root}/{staged}", late)
    return staged


def _check_readers(shop: Shop) -> None:
    trust = [shop.key("signing")]
    assert pc.verify(f"{shop.sink}/{NAME}", trust, credentials=shop.credentials).findings == ()
    assert shop.plaintext() == shop.expected()
    with pc.open(f"{shop.sink}/{NAME}", keys=[shop.key("pii")], trust=trust, credentials=shop.credentials) as one:
        assert len(one.to_table()) == 40
    assert report_plan(shop.request()).conflicts == ()


def test_readers_take_the_file_that_was_signed(shop: Shop) -> None:
    staged = _publish_late(shop)
    _check_readers(shop)
    assert staged in shop.files()


def test_verifying_names_it(shop: Shop) -> None:
    staged = _publish_late(shop)
    with pytest.raises(VerificationError, match="left over") as caught:
        shop.verify()
    assert [(each.kind, each.path) for each in caught.value.report.findings] == [(FindingKind.LEFT_OVER, staged)]
    assert "pipecrypt clean" in caught.value.hint
    shop.clean()
    assert shop.verify() == 2


@pytest.mark.parametrize("tidy", ["run", "clean"])
def test_it_is_removed_by_whoever_writes_next(shop: Shop, tidy: str, caplog: pytest.LogCaptureFixture) -> None:
    before = shop.files()
    staged = _publish_late(shop)
    caplog.set_level(logging.WARNING)
    if tidy == "run":
        assert shop.run().files == 0
    else:
        shop.clean()
    assert staged in caplog.text
    assert shop.verify() == 2
    _check_readers(shop)
    after = shop.files()
    assert {name for name in after if not name.endswith("/finished.json")} <= before.keys()
    assert after[NAME] == before[NAME]
    write_source(shop.raw, "day=9/new", 10, "parquet")
    assert shop.run().files == 1
    assert shop.plaintext() == shop.expected()


def test_where_the_right_file_is_lost_too_nothing_is_touched_until_the_user_decides(shop: Shop) -> None:
    staged = _publish_late(shop)
    fs, root = fsspec.core.url_to_fs(shop.sink)
    fs.pipe_file(f"{root}/{NAME}", b"lost")
    before = shop.files()
    for attempt in (shop.run, partial(shop.run, overwrite=True), shop.clean):
        with pytest.raises(IntegrityError) as caught:
            attempt()
        assert staged in caught.value.message
        assert {name: data for name, data in shop.files().items() if "/lock/" not in name} == before
    fs.rm(f"{root}/{staged}".removesuffix(f"/{NAME}"), recursive=True)  # what the hint says
    assert shop.run(overwrite=True).files == 3
    assert (shop.verify(), shop.plaintext()) == (3, shop.expected())


def test_without_a_look_at_footers_it_destroys_the_dataset(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish_late(shop)
    for module in (staged, staged):
        monkeypatch.setattr(module, "is_listed", lambda file, entry: True)
    with pytest.raises(PipecryptError, match="footer"):
        shop.plaintext()
    shop.run()
    with pytest.raises(PipecryptError, match="footer"):
        shop.verify()
