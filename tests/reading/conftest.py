"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipecrypt.reading.filesystem import PipecryptFileSystem
from tests.reading.world import PASSPHRASE, Keys


@pytest.fixture(scope="session")
def reading_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def keys(reading_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    for name in ("PIPECRYPT_KEYS", "PIPECRYPT_TRUST", "PIPECRYPT_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", PASSPHRASE)
    yield reading_keys
    PipecryptFileSystem.clear_instance_cache()
