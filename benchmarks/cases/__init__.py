"""The cases, a module for each word of the command line; none imports what a contender needs before it runs."""

from __future__ import annotations

import importlib

from benchmarks.suite import Case

__all__ = ["GROUPS", "cases_of", "find_case"]

GROUPS = ("columns", "chunks", "sources", "readers", "objects", "scale", "verify", "keys", "memory")


def cases_of(group: str) -> tuple[Case, ...]:
    """Return the cases of one module."""
    cases: tuple[Case, ...] = importlib.import_module(f"benchmarks.cases.{group}").CASES
    return cases


def find_case(name: str) -> Case:
    """Return the case of this name, which begins with that of its module."""
    for case in cases_of(name.partition(":")[0]):
        if case.name == name:
            return case
    raise KeyError(name)
