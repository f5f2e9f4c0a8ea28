"""What holds for all tests: none remembers accepted versions in this user's home, or finds those of another test."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def _state_dir(_states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(_states / uuid.uuid4().hex))
