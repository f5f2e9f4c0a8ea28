"""Signed datasets in both footer modes, built once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import pipecrypt as pc
from tests.tamper.corpus import Scene
from tests.tamper.world import TamperWorld, build


@pytest.fixture(scope="session", params=["plaintext", "encrypted"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TamperWorld:
    return build(tmp_path_factory.mktemp(f"tamper-{request.param}"), request.param)


@pytest.fixture
def scene(world: TamperWorld, tmp_path: Path) -> Scene:
    """Return a copy of the second version, which was verified and remembered."""
    data = tmp_path / "data"
    shutil.copytree(world.second, data)
    pc.verify(data, trust=world.trust)
    return Scene(world, data)
