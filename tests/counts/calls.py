"""How many calls of Python functions, and of built-in ones, encrypting and decrypting takes: the same on every machine.

Seconds say how busy a machine is; calls say what the code does. Run as a program, in a process of its own, so that no
thread is there that began before: `python -m tests.counts.calls FOLDER KEY`, where FOLDER holds folders of Parquet
files. Prints JSON: of each folder the calls of encrypting it and of decrypting it.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pipecrypt as pc

__all__ = ["main"]


def _calls(work: Callable[[], object]) -> int:
    counter = itertools.count()  # its steps are atomic, and threads count too

    def note(frame: FrameType, event: str, _: object) -> None:
        if event in {"call", "c_call"}:
            next(counter)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return next(counter)


def main() -> None:
    """Encrypt and decrypt every folder, the first one twice: the first time imports what is needed."""
    root, key = Path(sys.argv[1]), sys.argv[2]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    counts = {}
    for number, folder in enumerate([folders[0], *folders]):
        encrypted, plain = (Path(f"{root}-{what}-{number}") for what in ("encrypted", "plain"))
        counts[folder.name] = (
            _calls(lambda source=folder, sink=encrypted: pc.encrypt(source, sink, pc.Policy(default=key))),
            _calls(lambda source=encrypted, sink=plain: pc.decrypt(source, sink, [key])),
        )
        for file in folder.iterdir():
            assert (plain / file.name).read_bytes() == file.read_bytes()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
