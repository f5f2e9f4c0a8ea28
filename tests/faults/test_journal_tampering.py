"""The journal lies where an attacker may write: signed runs refuse what they did not write, or do it once more.

Whatever was done to it, nothing is signed that no run wrote: the dataset is the sources' content in the end.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.errors import NotTrustedError, PipecryptError
from pipecrypt.runs.journal import journal
from pipecrypt.runs.journal.block import open_unchecked
from tests.faults.scenes import SCENES, Shop, prepare, stop


def _journal(shop: Shop) -> Path:
    """Return the directory of the last run."""
    return max(path for path in (Path(shop.sink) / "_pipecrypt" / "runs").iterdir())


def _blocks(shop: Shop) -> list[Path]:
    return sorted(_journal(shop).glob("parts-*"))


@pytest.fixture(params=["first", "next"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return a shop whose run was stopped after two files, each in a block of its own."""
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 0.0)
    made = prepare(SCENES[request.param], tmp_path).fresh("sink")
    stop(made, 2)
    assert len(_blocks(made)) == 3
    return made


def _flipped(shop: Shop) -> None:
    block = _blocks(shop)[1]
    data = bytearray(block.read_bytes())
    data[len(data) // 3] ^= 1
    block.write_bytes(data)


def _cut(shop: Shop) -> None:
    block = _blocks(shop)[1]
    block.write_bytes(block.read_bytes()[:-9])


def _one_removed(shop: Shop) -> None:
    _blocks(shop)[1].unlink()


def _swapped(shop: Shop) -> None:
    first, second = _blocks(shop)[1:]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def _unsigned_beside(shop: Shop) -> None:
    envelope = json.loads(_blocks(shop)[1].read_bytes())
    envelope["signatures"] = []
    (_journal(shop) / "parts-000003.json").write_text(json.dumps(envelope))


def _unsealed_beside(shop: Shop) -> None:
    (_journal(shop) / "parts-000003.jsonl").write_bytes(b'{"version":1}\n')


def _of_another_run(shop: Shop) -> None:
    """Replace a block by one that the same key signed, about another sink of the same sources."""
    other = shop.at(f"{shop.sink}-other")
    shutil.rmtree(other.sink, ignore_errors=True)
    stop(other, 2)
    shutil.copy(_blocks(other)[1], _blocks(shop)[1])


def _whole_other_run(shop: Shop) -> None:
    """Put the whole journal of another sink beside, later than this one's, with what it staged."""
    other = shop.at(f"{shop.sink}-other")
    stop(other, 2)
    shutil.copytree(_journal(other), Path(shop.sink) / "_pipecrypt" / "runs" / _journal(other).name)


_REFUSED: list[Callable[[Shop], None]] = [
    _flipped,
    _cut,
    _one_removed,
    _swapped,
    _unsigned_beside,
    _unsealed_beside,
    _of_another_run,
]


@pytest.mark.parametrize("tamper", _REFUSED, ids=lambda each: each.__name__)
def test_a_tampered_journal_is_refused(shop: Shop, tamper: Callable[[Shop], None]) -> None:
    before = _signed(shop)
    tamper(shop)
    with pytest.raises(PipecryptError) as caught:
        shop.run(resumes=True)
    assert caught.value.exit_code == 3
    assert _signed(shop) == before
    shop.clean()  # what the hint says
    assert shop.run().signed != ()
    shop.verify()
    assert shop.plaintext() == shop.expected()


def test_the_end_may_be_missing(shop: Shop) -> None:
    """As after a kill: what the last block said is done once more."""
    _blocks(shop)[-1].unlink()
    shop.run(resumes=True)
    shop.verify()
    assert shop.plaintext() == shop.expected()


@pytest.mark.parametrize("what", ["all", "only the blocks", "a false end"])
def test_without_its_journal_nothing_is_taken_over(shop: Shop, what: str) -> None:
    before = _signed(shop)
    if what == "all":
        shutil.rmtree(_journal(shop))
    elif what == "only the blocks":
        for block in _blocks(shop):
            block.unlink()
    else:
        (_journal(shop) / "finished.json").write_text("{}")
    try:
        shop.run(resumes=True)
    except PipecryptError:
        assert _signed(shop) == before  # files are there that nobody signed: refused
    else:
        shop.verify()
        assert shop.plaintext() == shop.expected()


def test_another_sinks_journal_is_not_continued(tmp_path: Path) -> None:
    shop = prepare(SCENES["first"], tmp_path).at(tmp_path / "sink")
    stop(shop, 2)
    _whole_other_run(shop)
    try:
        shop.run(resumes=True)
    except PipecryptError as error:
        assert error.exit_code in {1, 3, 5}  # noqa: PT017 - either way is right
        assert shop.seen() is None
        return
    shop.verify()
    assert shop.plaintext() == shop.expected()


def test_files_are_replaced_after_they_were_noted(shop: Shop) -> None:
    """What the journal noted and somebody changed since is not as it was signed: whoever reads is told."""
    base = _journal(shop) / "staged" if shop.scene.is_second else Path(shop.sink)
    changed = next(path for path in sorted(base.rglob("*.parquet")) if "_pipecrypt" not in path.relative_to(base).parts)
    data = bytearray(changed.read_bytes())
    data[60] ^= 1
    changed.write_bytes(data)
    shop.run(resumes=True)
    with pytest.raises(PipecryptError) as caught:
        shop.verify()
    assert caught.value.exit_code == 3


def test_the_signature_is_what_refuses(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    block = _blocks(shop)[1]
    envelope = json.loads(block.read_bytes())
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    block.write_text(json.dumps(envelope))
    with pytest.raises(NotTrustedError):
        shop.run(resumes=True)
    monkeypatch.setattr(OpenSigners, "open_payload", lambda self, stored, kind: open_unchecked(stored))
    shop.run(resumes=True)


def _signed(shop: Shop) -> bytes | None:
    manifest = Path(shop.sink) / "_pipecrypt" / "manifest.json"
    return manifest.read_bytes() if manifest.exists() else None


@pytest.mark.parametrize(
    "path", ["../victim/x", "./../victim/x", "/{victim}/x", "a.parquet/../../victim/x", "_pipecrypt/lock"]
)
@pytest.mark.parametrize("what", ["files", "removes"])
def test_a_journal_without_signatures_leads_nowhere_else(tmp_path: Path, path: str, what: str) -> None:
    shop = prepare(SCENES["unsigned-next"], tmp_path).fresh("sink")
    victim = Path(shop.sink).parent / "victim" / "x"
    victim.parent.mkdir()
    victim.write_text("keep")
    path = path.format(victim=victim.parent)
    block = _blocks(shop)[-1]
    first, *rest = [json.loads(line) for line in block.read_text().splitlines()]
    if what == "removes":
        first["removes"] = [path]
    else:
        rest.append(rest[-1] | {"task": "ab" * 32, "source": "gone", "files": [rest[-1]["files"][0] | {"path": path}]})
    block.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))

    with pytest.raises(PipecryptError) as caught:
        shop.run()

    assert caught.value.exit_code == 3
    assert victim.read_text() == "keep"
