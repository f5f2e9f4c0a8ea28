from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from tests.lowest import declared_minimums

_ROOT = Path(__file__).parents[1]


def test_every_dependency_declares_a_lowest_version() -> None:
    minimums = declared_minimums()

    assert {"cryptography", "fsspec", "pyarrow", "pydantic", "rich", "ruamel.yaml", "typer"} <= set(minimums)
    assert minimums["fsspec"] == minimums["s3fs"] == minimums["gcsfs"], "each wants fsspec of its own version"


@pytest.mark.parametrize("text", ["fsspec", "fsspec<3", "fsspec==2025.10", "fsspec>=2025.3"])
def test_what_cannot_be_a_constraint_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(f'[project]\ndependencies = ["fsspec>=2025.10"]\noptional-dependencies.a = ["{text}"]\n')

    with pytest.raises(ValueError, match=re.escape(text)):
        declared_minimums(path)


def test_the_target_installs_every_extra() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'-e "\.\[([a-z0-9,-]+)\]"', (_ROOT / "Makefile").read_text(encoding="utf-8"))

    assert sorted(extras.split(",")) == sorted(project["optional-dependencies"])


def test_what_is_installed_here_is_not_older() -> None:
    for name, lowest in declared_minimums().items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert _numbers(installed) >= _numbers(lowest), name


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
