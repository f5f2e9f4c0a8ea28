"""Print the lowest versions that pyproject.toml declares, of every dependency and extra, as constraints for pip.

`make test-lowest` installs exactly these. What a dependency itself depends on is left to pip.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

__all__ = ["declared_minimums"]

_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=(?P<lowest>[0-9][0-9.]*)")


def declared_minimums(path: Path = _PYPROJECT) -> dict[str, str]:
    """Return the lowest version of each package that an installation with all extras brings along.

    Raises:
        ValueError: a requirement declares no lowest version, or a package has two.
    """
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    extras = (each for extra in project["optional-dependencies"].values() for each in extra)
    for text in [*project["dependencies"], *extras]:
        match = _REQUIREMENT.fullmatch(text)
        if match is None or found.setdefault(match["name"], match["lowest"]) != match["lowest"]:
            raise ValueError(f"{text!r} declares no lowest version, or another one than before")
    return found


if __name__ == "__main__":
    for name, lowest in declared_minimums().items():
        print(f"{name}=={lowest}")
