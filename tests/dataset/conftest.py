from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.dataset.world import World, sign


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World.at(tmp_path_factory.mktemp("world"))
    sign(made.encrypt("signed"))
    return made


@pytest.fixture
def world(_made: World, tmp_path: Path) -> World:
    """Keys and tables, which tests leave as they are."""
    return _made


@pytest.fixture
def dataset(world: World, tmp_path: Path) -> Path:
    """A copy of a signed dataset of three files, to be tampered with."""
    return Path(shutil.copytree(world.root / "signed", tmp_path / "signed"))
