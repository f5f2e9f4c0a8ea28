"""A file that takes more memory than there is: an error that names the file and what to lower."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pyarrow as pa
import pytest

from pipecrypt.errors import OutOfMemoryError, StorageError
from pipecrypt.runs.kinds import encrypt
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import World


def _storage_error() -> None:
    try:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    except OSError as error:
        raise StorageError("cannot read it") from error


def _raise(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


_WAYS: dict[str, Callable[[], None]] = {
    "python": _raise(MemoryError()),
    "arrow": _raise(pa.ArrowMemoryError("malloc of size 1 failed")),
    "the system": _raise(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "a thread": _raise(RuntimeError("can't start new thread")),
    "the storage": _storage_error,
}


@pytest.mark.parametrize("way", _WAYS)
def test_memory_that_runs_out_is_told(way: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypt, "encrypt_file", lambda *arguments, **options: _WAYS[way]())
    request = EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=Policy({"email": world.key})
    )
    with pytest.raises(OutOfMemoryError, match=r"a\.parquet") as caught:
        run(request, credentials=world.credentials)
    assert caught.value.exit_code == 1
    assert all(name in caught.value.hint for name in ("run.workers", "encrypt.batch_rows", "run.split_bytes"))
    assert not list(world.out.rglob("*.parquet"))


@pytest.mark.parametrize("error", [RuntimeError("x"), OSError(errno.EIO, "x"), StorageError("x")])
def test_other_failures_are_told_as_they_are(error: Exception, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypt, "encrypt_file", lambda *arguments, **options: _raise(error)())
    request = EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=Policy({"email": world.key})
    )
    with pytest.raises(type(error)) as caught:
        run(request, credentials=world.credentials)
    assert caught.value is error
