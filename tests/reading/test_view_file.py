"""The file object over a view: places, buffers and its end."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.reading import view_file
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.reading.view_file import ViewFile
from tests.parquet.world import DATA, needs_vectors, parquet_bytes, sample_table
from tests.reading.world import Keys, seal, write


def test_places_and_buffers(tmp_path: Path, keys: Keys) -> None:
    path = str(write(tmp_path / "a.parquet", sample_table(), keys.policy()))
    file = PipecryptFileSystem(keys=[keys.open], skip_instance_cache=True).open(path)
    assert isinstance(file, ViewFile)
    whole = file.readall()
    assert file.tell() == len(whole) == file.size
    assert file.read(1) == b""
    assert file.seek(-4, io.SEEK_END) == len(whole) - 4
    assert file.read(100) == b"PAR1"
    assert file.seek(4) == 4
    assert file.seek(6, io.SEEK_CUR) == 10
    room = bytearray(20)
    assert file.readinto(room) == 20
    assert bytes(room) == whole[10:30]
    assert bytes(file.read_buffer(5)) == whole[30:35]
    assert file.read_buffer(5).readonly
    with pytest.raises(ValueError, match="before its start"):
        file.seek(-1)
    assert file.readable()
    assert file.seekable()
    assert not file.writable()
    assert file.path == file.name == path
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_a_file_that_is_removed_or_shortened_while_it_is_read(keys: Keys) -> None:
    store = fsspec.filesystem("memory")
    data = seal(parquet_bytes(sample_table(5000), row_group_size=100), keys.policy(), "a")
    store.pipe_file("/gone/a.parquet", data)
    file = PipecryptFileSystem("memory", keys=[keys.open], skip_instance_cache=True).open("/gone/a.parquet")
    store.pipe_file("/gone/a.parquet", data[:10])
    with pytest.raises(StorageError, match="returned"):
        file.read(1000)
    store.rm("/gone", recursive=True)
    with pytest.raises(ConflictError, match="went away"):
        file.read(1000)


@needs_vectors
def test_key_material_beside_a_file(tmp_path: Path) -> None:
    texts = {"kf": b"0123456789012345", "kc1": b"1234567890123450", "kc2": b"1234567890123451"}
    listed = tmp_path / "keys.json"
    listed.write_text(json.dumps({name: base64.b64encode(text).decode() for name, text in texts.items()}))
    fs = PipecryptFileSystem(keys=[f"static://{listed}"], skip_instance_cache=True)
    path = str(DATA / "external_key_material_java.parquet.encrypted")
    assert pq.read_table(path, filesystem=fs).num_rows > 0


def test_python_waits_at_its_end_for_what_readers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    held = view_file._LentBuffers()
    monkeypatch.setattr(view_file, "_SETTLE_SECONDS", 30.0)
    data = memoryview(bytearray(10))
    held.add(data)
    done = threading.Event()

    def settle() -> None:
        held.settle()
        done.set()

    thread = threading.Thread(target=settle)
    thread.start()
    assert not done.wait(0.05)
    del data
    assert done.wait(30)
    thread.join()

    monkeypatch.setattr(view_file, "_SETTLE_SECONDS", 0.01)
    kept = memoryview(bytearray(10))
    held.add(kept)
    held.settle()  # not forever
    assert len(kept) == 10
