"""What all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember accepted versions in a directory of the test's own."""
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
