"""Everything in the corpus is detected without keys, and by keyed reads; without the checks, it is not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import pipecrypt as pc
from pipecrypt.errors import IntegrityError, PipecryptError
from tests.tamper.corpus import CORPUS, Scene, Tamper
from tests.tamper.world import FILES, table

cases = pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)


def act(case: Tamper, scene: Scene) -> None:
    if case.needs_readable_footer and scene.world.footer == "encrypted":
        pytest.skip("an encrypted footer hides the place")
    case.apply(scene)


def decrypt(scene: Scene, out: Path, **options: object) -> None:
    world = scene.world
    pc.decrypt(f"{scene.data}/", f"{out}/", world.keys, credentials=world.credentials, **options)


def read(scene: Scene, **options: object) -> pa.Table:
    world = scene.world
    with pc.open(scene.data, keys=world.keys, credentials=world.credentials, **options) as dataset:
        return dataset.to_table(columns=table(0).column_names)


def truth() -> pa.Table:
    return pa.concat_tables([table(20 + index) for index in range(len(FILES))])


def test_what_nobody_tampered_with_passes(scene: Scene, tmp_path: Path) -> None:
    report = pc.verify(scene.data, trust=scene.world.trust)
    assert (report.version, report.files) == (2, len(FILES))
    decrypt(scene, tmp_path / "out", trust=scene.world.trust)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (scene.world.plain / name).read_bytes()
    for mode in ("read", "full"):
        assert read(scene, trust=pc.Trust(scene.world.trust, verify=mode)).equals(truth())


@cases
def test_an_auditor_without_keys_detects_it(case: Tamper, scene: Scene) -> None:
    act(case, scene)
    with pytest.raises(IntegrityError):
        pc.verify(scene.data, trust=scene.world.trust)


@cases
def test_decrypting_detects_it_and_publishes_nothing_of_the_file(case: Tamper, scene: Scene, tmp_path: Path) -> None:
    act(case, scene)
    with pytest.raises(IntegrityError):
        decrypt(scene, tmp_path / "out", trust=scene.world.trust)
    assert not (tmp_path / "out" / "a.parquet").exists()


@cases
def test_reading_detects_it_or_shows_the_truth(case: Tamper, scene: Scene) -> None:
    act(case, scene)
    try:
        rows = read(scene, trust=scene.world.trust)
    except IntegrityError:
        return
    assert case.is_hidden_from_views, "a read that touched the place did not notice"
    assert rows.equals(truth())


@cases
def test_a_full_read_detects_it(case: Tamper, scene: Scene) -> None:
    act(case, scene)
    with pytest.raises(IntegrityError):
        read(scene, trust=pc.Trust(scene.world.trust, verify="full"))


@cases
def test_without_the_checks_it_goes_unnoticed(case: Tamper, scene: Scene, tmp_path: Path) -> None:
    """Shows that the corpus is not vacuous: what the tests above see, they see because of the checks."""
    act(case, scene)
    try:
        decrypt(scene, tmp_path / "out", verify="off")
    except PipecryptError:
        assert case.is_seen_by_encryption
    else:
        assert not case.is_seen_by_encryption


@cases
def test_an_auditor_who_does_not_compare_sees_no_changed_file(
    case: Tamper, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the comparisons are what detects changed files, not some error on the way."""
    act(case, scene)
    changed = {name for name in FILES if not scene.file(name).is_file() or _differs(scene, name)}
    if changed != {"a.parquet"} or not scene.file("a.parquet").is_file() or _holds_extra(scene):
        pytest.skip("it changes more than the content of one file")
    for name in ("signed_file.compare_file", "signed_file.compare_encryption"):
        monkeypatch.setattr(f"pipecrypt.dataset.{name}", lambda *_, **__: ())
    for name in ("compare_file", "check_structure"):
        monkeypatch.setattr(f"pipecrypt.dataset.verify.inspection.{name}", lambda *_, **__: ())
    try:
        pc.verify(scene.data, trust=scene.world.trust, remember=False)
    except IntegrityError:
        assert case.is_seen_by_encryption, "only a footer that cannot be read at all may be noticed still"


def _differs(scene: Scene, name: str) -> bool:
    return scene.file(name).read_bytes() != (scene.world.second / name).read_bytes()


def _holds_extra(scene: Scene) -> bool:
    signed = {path.relative_to(scene.world.second) for path in scene.world.second.rglob("*") if path.is_file()}
    return {path.relative_to(scene.data) for path in scene.data.rglob("*") if path.is_file()} != signed
