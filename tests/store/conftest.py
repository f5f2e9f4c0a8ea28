from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from tests.doubles.faulty_store import FaultyStore, register_faulty_store


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def faulty() -> Iterator[type[FaultyStore]]:
    store = register_faulty_store()
    store.reset()
    yield store
    store.reset()
