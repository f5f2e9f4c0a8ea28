from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipecrypt.errors import PipecryptError
from tests.keys.contract.worlds import Servers, World, all_worlds


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" not in metafunc.fixturenames:
        return
    test = metafunc.function.__name__
    metafunc.parametrize(
        "world",
        [
            pytest.param(world, id=world.name, marks=_marks(world, test))
            for world in all_worlds()
            if test not in world.lacks
        ],
        indirect=True,
    )


def _marks(world: type[World], test: str) -> list[pytest.MarkDecorator]:
    fake = world.fakes.get(test)
    wrong = (AssertionError, PipecryptError, pytest.fail.Exception)
    return [] if fake is None else [pytest.mark.xfail(reason=fake, strict=True, raises=wrong)]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def world(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[World]:
    made: World = request.param(servers, tmp_path)
    with made.stack:
        yield made
