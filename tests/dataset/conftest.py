from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipecrypt.keys.keystores import create_key
from tests.dataset.world import SignedWorld, sign
from tests.dataset.written import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    made = World(tmp_path, {"PIPECRYPT_KEY_FILE": str(tmp_path / "key")})
    for name in ("pii", "other"):
        create_key(made.reference(name), "aes256", made.credentials)
    for name in ("signing", "second"):
        create_key(made.reference(name), "ed25519", made.credentials)
    made.write("a.parquet")
    made.write("day=1/b.parquet")
    return made


@pytest.fixture(scope="session")
def signed_world(tmp_path_factory: pytest.TempPathFactory) -> SignedWorld:
    """Keys, tables and a signed dataset, which tests leave as they are."""
    made = SignedWorld.at(tmp_path_factory.mktemp("world"))
    sign(made.encrypt("signed"))
    return made


@pytest.fixture
def dataset(signed_world: SignedWorld, tmp_path: Path) -> Path:
    """A copy of a signed dataset of three files, to be tampered with."""
    return Path(shutil.copytree(signed_world.root / "signed", tmp_path / "signed"))
