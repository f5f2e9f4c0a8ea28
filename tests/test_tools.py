"""The numbers of tools.size are true, on a package written here; the mutations of tools.mutations fit the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import mutations
from tools.mutations import MUTATIONS, Mutation, mutate
from tools.size import kinds_of, main, measure_package

_FILES = {
    "__init__.py": '"""Nothing but a docstring."""\n',
    "kinds/cut.py": '"""A kind."""\n\n\nclass Cut:\n    """Of one sort."""\n',
    "work.py": '''"""What works.

On several lines.
"""

from typing import Generic, Protocol, TypeVar

from package.kinds.cut import Cut

T = TypeVar("T")  # a comment on a line of code


class Worker(Protocol[T]):
    """Has two lines of code, and one for the attribute."""

    name: str
    """Of the worker."""


class Protocols(Generic[T]):
    # only a comment
    text = """two
lines of a value"""


def work(value: object) -> bool:
    match value:
        case Cut():
            return True
    return isinstance(value, (str, Cut)) or isinstance(value, int)
''',
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in _FILES.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "package"


def test_each_number_is_counted(package: Path) -> None:
    assert kinds_of(package) == {"Cut"}
    sizes = {each.path.relative_to(package).as_posix(): each for each in measure_package(package)}
    assert set(sizes) == set(_FILES)
    numbers = {
        name: (each.lines, each.code_lines, each.classes, each.protocols, each.kind_checks)
        for name, each in sizes.items()
    }
    assert numbers == {"__init__.py": (1, 0, 0, 0, 0), "kinds/cut.py": (5, 1, 1, 0, 0), "work.py": (30, 13, 2, 1, 2)}


def test_the_way_of_a_run_is_measured(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(package)])
    printed = capsys.readouterr().out.splitlines()
    assert "| lines of code without blanks, comments, docstrings | 14 |" in printed
    assert "| files / median lines | 3 / 5 |" in printed
    assert "| classes / Protocols | 3 / 1 |" in printed
    assert "| kinds/ | 1 | 1 | 1 |" in printed
    (way,) = [line for line in printed if "first byte" in line]
    files, folders = (int(number) for number in way.removesuffix(" |").rpartition("| ")[2].split(" / "))
    assert files > folders > 3


def test_a_directory_without_code_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no Python file"):
        main([str(tmp_path)])


# ---- mutations ----


_ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_a_mutation_fits_the_code(mutation: Mutation) -> None:
    assert (_ROOT / mutation.path).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert all((_ROOT / each).exists() for each in mutation.tests)


def test_a_check_is_switched_off_in_the_copy(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("if wrong:\n    raise ValueError\n")
    mutation = Mutation("wrong", "it is right", "code.py", "if wrong:", "if False:", ("tests",))
    assert mutate(mutation, tmp_path) == "if wrong:\n    raise ValueError\n"
    assert (tmp_path / "code.py").read_text() == "if False:\n    raise ValueError\n"
    with pytest.raises(RuntimeError, match="0 times"):
        mutate(mutation, tmp_path)


def test_mutations_are_listed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    mutations.main(["--list"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(MUTATIONS) + 2
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS) >= 10
    with pytest.raises(SystemExit, match="nothing-of-the-kind"):
        mutations.main(["nothing-of-the-kind"])
