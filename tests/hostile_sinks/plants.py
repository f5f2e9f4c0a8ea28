"""What an attacker puts at a path of a sink: links, hard links, FIFOs, and files of others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["LINKS", "PLANTS", "Victim"]

_HUGE_BYTES: Final = 8 << 30
_BIG_JSON_BYTES: Final = 24 << 20


class Victim:
    """A directory outside of the sink that nobody may change.

    Args:
        root: where it is made.
    """

    def __init__(self, root: Path) -> None:
        """Make it, with a file, and a directory that looks as those of a sink do."""
        self.root = root
        self.file = root / "precious.txt"
        self.directory = root / "home"
        (self.directory / "day=1").mkdir(parents=True)
        (self.directory / "staged").mkdir()
        self.file.write_bytes(b"precious\n" * 600)
        for name in ("notes.txt", "a.parquet", "day=1/b.parquet", "staged/a.parquet", "manifest.json"):
            (self.directory / name).write_bytes(b"precious\n" * 600)
        # Old, so that whoever cleans up by age would take it.
        for path in sorted(root.rglob("*")):
            os.utime(path, (1_600_000_000, 1_600_000_000))


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)


def _link_to_file(path: Path, victim: Victim) -> None:
    _clear(path)
    path.symlink_to(victim.file)


def _link_to_directory(path: Path, victim: Victim) -> None:
    _clear(path)
    path.symlink_to(victim.directory)


def _link_to_itself(path: Path, victim: Victim) -> None:
    _clear(path)
    path.symlink_to(path.name)


def _link_to_nothing(path: Path, victim: Victim) -> None:
    _clear(path)
    path.symlink_to(victim.root / "made-by-following")


def _moved_out(path: Path, victim: Victim) -> None:
    """Let everything look as it was, but lie outside."""
    moved = victim.root / "moved"
    if os.path.lexists(path):
        shutil.move(path, moved)
    else:
        moved.mkdir()
        path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(moved)


def _hard_link(path: Path, victim: Victim) -> None:
    _clear(path)
    os.link(victim.file, path)


def _hard_link_of_itself(path: Path, victim: Victim) -> None:
    """Leave what is there, and give it a name outside too: a change in place would change the other."""
    if path.is_file():
        os.link(path, victim.root / "twin")
    else:
        _hard_link(path, victim)


def _fifo(path: Path, victim: Victim) -> None:
    _clear(path)
    os.mkfifo(path)


def _huge(path: Path, victim: Victim) -> None:
    """Make a sparse file that ends as a Parquet file with an enormous footer does."""
    _clear(path)
    with path.open("wb") as file:
        file.write(b"PAR1")
        file.truncate(_HUGE_BYTES - 8)
        file.seek(0, os.SEEK_END)
        file.write((0x7FFF_FFF0).to_bytes(4, "little") + b"PAR1")


def _many_values(path: Path, victim: Victim) -> None:
    """Make a JSON document of very many small values."""
    _clear(path)
    path.write_bytes(b"[" + b"[]," * (_BIG_JSON_BYTES // 3) + b"[]]")


def _foreign(path: Path, victim: Victim) -> None:
    _clear(path)
    path.write_bytes(b'{"payload": "AAAA", "version": ' + b"9" * 400 + b"}\n")


def _other_kind(path: Path, victim: Victim) -> None:
    """Put a directory in the place of a file, or a file in that of a directory."""
    is_directory = path.is_dir()
    _clear(path)
    if is_directory:
        path.write_bytes(b"a file\n")
    else:
        path.mkdir()
        (path / "inside").write_bytes(b"a file\n")


PLANTS: Final[dict[str, Callable[[Path, Victim], None]]] = {
    "link to a file": _link_to_file,
    "link to a directory": _link_to_directory,
    "link to itself": _link_to_itself,
    "link to nothing": _link_to_nothing,
    "moved out": _moved_out,
    "hard link": _hard_link,
    "hard link of itself": _hard_link_of_itself,
    "fifo": _fifo,
    "huge": _huge,
    "many values": _many_values,
    "foreign": _foreign,
    "other kind": _other_kind,
}
LINKS: Final = frozenset({"link to a file", "link to a directory", "link to itself", "link to nothing", "moved out"})
