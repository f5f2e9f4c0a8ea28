"""The rooms of the engine that a wheel may hold compiled: what is listed is there and, where it was compiled, runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_HOOK = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]

# Set by `make compiled`, whose other tests say nothing of the compiled engine where the sources run.
_MUST_BE_COMPILED = "PIPECRYPT_TEST_COMPILED" in os.environ


def test_the_sources_to_compile_are_there_and_compiling_is_off_by_default() -> None:
    assert all((_ROOT / path).is_file() for path in _HOOK["custom"]["modules"])
    assert not _HOOK["custom"]["enable-by-default"]


@pytest.mark.skipif(
    not _MUST_BE_COMPILED and importlib.util.find_spec("pipecrypt__mypyc") is None, reason="nothing is compiled here"
)
@pytest.mark.parametrize("path", _HOOK["custom"]["modules"])
def test_compiled_modules_come_before_their_sources(path: str) -> None:
    found = importlib.import_module(path.removesuffix(".py").replace("/", ".")).__file__
    assert found is not None
    assert not found.endswith(".py")
