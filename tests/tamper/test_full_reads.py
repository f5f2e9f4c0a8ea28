"""A reader who holds a data key exchanges a page after the whole file was digested: `verify="full"` shows it to nobody.

The forged page has the length and the tag that it must have, and the file its old time: only its bytes are others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.dataset.requirements import checks_of
from pipecrypt.dataset.trust import Trust
from pipecrypt.errors import IntegrityError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import locate_pages
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.parquet.wire.modules import ModuleType, open_module, seal_module
from pipecrypt.reading.rows import read_rows
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.ranges import MemorySource
from tests.tamper.corpus import Scene
from tests.tamper.world import table

_FIRST = 0
_HONEST, _FORGED = b"secret-020", b"FORGED-020"


def forge_page(file: Path, scene: Scene) -> None:
    """Encrypt other values in the place of the first page of the first column, under its own data key."""
    data, status = file.read_bytes(), file.stat()
    world = scene.world
    with KeySession(world.keys, credentials=world.credentials) as session:
        sealed = read_sealed_footer(MemorySource(data, "x"))
        with OpenedFile(sealed, keys=keys_of_file(Location(str(file)), session), aad_prefix=None) as opened:
            chunk = opened.open_row_group(0)[_FIRST]
            header = locate_pages(chunk).start
            start = header + 4 + int.from_bytes(data[header : header + 4], "little")
            end = start + 4 + int.from_bytes(data[start : start + 4], "little")
            aad = opened.aad.module(ModuleType.DATA_PAGE, 0, _FIRST) + (0).to_bytes(2, "little")
            plain = open_module(opened.cipher(chunk), memoryview(data)[start:end], aad, "page")
            assert _HONEST in plain
            forged = seal_module(opened.cipher(chunk), plain.replace(_HONEST, _FORGED), aad)
    assert len(forged) == end - start
    with file.open("r+b") as out:
        out.seek(start)
        out.write(forged)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def secrets(found: pa.Table) -> str:
    return str(found["secret"].to_pylist())


def by_dataset(scene: Scene, mode: str, out: Path) -> str:
    world = scene.world
    options = {"keys": world.keys, "trust": Trust(world.trust, verify=mode), "credentials": world.credentials}
    with pc.open(scene.data, **options) as found:
        return secrets(found.to_table(columns=table(0).column_names))


def by_arrow(scene: Scene, mode: str, out: Path) -> str:
    world = scene.world
    options = {"keys": world.keys, "trust": Trust(world.trust, verify=mode), "credentials": world.credentials}
    with pc.open(scene.data, **options) as found:
        return secrets(found.dataset().to_table())


def by_rows(scene: Scene, mode: str, out: Path) -> str:
    world = scene.world
    checks = checks_of(Trust(world.trust, verify=mode), world.environ, Credentials({}))
    place = Location(str(scene.file("a.parquet")))
    with read_rows(place, keys=world.keys, checks=checks, credentials=world.credentials) as rows:
        return str(list(rows.batches()))


def by_decrypting(scene: Scene, mode: str, out: Path) -> str:
    world = scene.world
    pc.decrypt(
        scene.file("a.parquet"),
        out / "a.parquet",
        world.keys,
        trust=Trust(world.trust, verify=mode),
        credentials=world.credentials,
    )
    return secrets(pq.read_table(out / "a.parquet"))


ways = pytest.mark.parametrize("way", [by_dataset, by_arrow, by_rows, by_decrypting], ids=lambda way: way.__name__)


@ways
def test_a_page_exchanged_after_the_pass_is_never_read(
    scene: Scene, way: Callable[[Scene, str, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, digested = CheckedSource.digest, list[str]()

    def digest_then_exchange(source: CheckedSource, *args: object, **named: object) -> object:
        found = digest(source, *args, **named)  # type: ignore[arg-type]
        if source.name.endswith("a.parquet") and not digested:
            digested.append(source.name)
            forge_page(scene.file("a.parquet"), scene)
        return found

    monkeypatch.setattr(CheckedSource, "digest", digest_then_exchange)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        way(scene, "full", tmp_path)
    assert digested
    assert not (tmp_path / "a.parquet").exists()


@ways
def test_the_forged_page_is_a_true_attack(scene: Scene, way: Callable[[Scene, str, Path], str], tmp_path: Path) -> None:
    """Without the digest of the whole file, whoever holds the key can show values: it is what full reads are for."""
    forge_page(scene.file("a.parquet"), scene)
    assert "FORGED" in way(scene, "read", tmp_path)
    with pytest.raises(IntegrityError):
        way(scene, "full", tmp_path / "again")


@ways
def test_what_nobody_exchanged_is_read(scene: Scene, way: Callable[[Scene, str, Path], str], tmp_path: Path) -> None:
    assert _HONEST.decode() in way(scene, "full", tmp_path)
