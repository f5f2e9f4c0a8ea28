"""Storage that fails on request: an fsspec store in memory, and a stand-in for the `os` module.

Every fault can be switched off, to see that a test notices.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Final

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

__all__ = ["Faults", "FaultyOS", "FaultyStore", "patched_os", "register_faulty_store"]

PROTOCOL: Final = "faulty"
# What a test most often lets fail while a local file is published.
PUBLISHING_CALLS: Final = ("open", "write", "fsync", "rename", "link", "close")


@dataclass(slots=True)
class Faults:
    """Which call fails, how, and what was called so far.

    Args:
        call: name of the call, such as `write` or `put_file`; "" for none.
        at: number of that call which fails, from 1; 0 for every one.
        error: what is raised; an `OSError` with this number, or the exception given.
        after: whether the call takes effect first, as when only its answer is lost.
        short_bytes: instead of failing, a `write` or upload keeps only this many bytes.
    """

    call: str = ""
    at: int = 1
    error: int | BaseException = errno.EIO
    after: bool = False
    short_bytes: int | None = None
    calls: Counter[str] = field(default_factory=Counter)

    def run(self, call: str, action: Callable[[], Any]) -> Any:
        """Count a call, then do it or fail."""
        self.calls[call] += 1
        is_hit = self.hits(call)
        if is_hit and self.short_bytes is None and not self.after:
            raise self._exception()
        result = action()
        if is_hit and self.after:
            raise self._exception()
        return result

    def hits(self, call: str) -> bool:
        """Say whether the call that was just counted is the one to fail."""
        return call == self.call and self.at in {0, self.calls[call]}

    def _exception(self) -> BaseException:
        if isinstance(self.error, BaseException):
            return self.error
        return OSError(self.error, os.strerror(self.error))


class FaultyOS:
    """The `os` module, with some calls counted and one of them failing.

    Args:
        faults: which.
        counted: the calls to count; all others go straight through.
    """

    def __init__(self, faults: Faults, counted: tuple[str, ...] = PUBLISHING_CALLS) -> None:
        """Stand in for `os`."""
        self._faults = faults
        self._counted = counted

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of `os`, wrapped where it is counted."""
        real = getattr(os, name)
        if name not in self._counted:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            given = self._shortened(name, arguments)
            return self._faults.run(name, lambda: real(*given, **options))

        return call

    def _shortened(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name != "write" or self._faults.short_bytes is None:
            return arguments
        descriptor, data = arguments
        return descriptor, memoryview(data)[: self._faults.short_bytes]


@contextmanager
def patched_os(faults: Faults, *modules: ModuleType) -> Iterator[Faults]:
    """Let `os` fail inside `modules` only, so that the test's own world stays whole."""
    saved = [(module, module.os) for module in modules]
    for module in modules:
        module.os = FaultyOS(faults)  # type: ignore[attr-defined]
    try:
        yield faults
    finally:
        for module, real in saved:
            module.os = real  # type: ignore[attr-defined]


class FaultyStore(MemoryFileSystem):  # type: ignore[misc]
    """A store in memory under `faulty://` whose calls fail as `FaultyStore.faults` says.

    It has its own files, apart from those of `memory://`. With `atomic_uploads` a failing upload leaves nothing, as on
    S3; without, it leaves a short file, as most file systems do.
    """

    protocol = PROTOCOL
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[Faults] = Faults()
    atomic_uploads: ClassVar[bool] = False

    @classmethod
    def reset(cls, faults: Faults | None = None) -> Faults:
        """Forget all files, and plan new faults."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        return cls.plan(faults)

    @classmethod
    def plan(cls, faults: Faults | None = None) -> Faults:
        """Plan new faults, and keep the files."""
        cls.faults = faults or Faults()
        return cls.faults

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        text = os.fspath(path) if isinstance(path, os.PathLike) else path
        for scheme in (PROTOCOL, "s3"):
            text = text.removeprefix(f"{scheme}://")
        return super()._strip_protocol(text)

    def info(self, path: str, **options: Any) -> Any:
        """Look one object up."""
        return self.faults.run("info", lambda: super(FaultyStore, self).info(path, **options))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        """Read a range, perhaps a short one."""
        data = self.faults.run("cat_file", lambda: super(FaultyStore, self).cat_file(path, start, end, **options))
        is_short = self.faults.short_bytes is not None and self.faults.hits("cat_file")
        return data[: self.faults.short_bytes] if is_short else data

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **options: Any) -> None:
        """Upload; a failing upload leaves what the kind of store would leave."""
        with open(lpath, "rb") as file:
            data = file.read()
        if mode == "create" and self._strip_protocol(rpath) in self.store:
            raise FileExistsError(rpath)
        kept = self.faults.short_bytes
        try:
            self.faults.run("put_file", lambda: self.pipe_file(rpath, data))
        except BaseException:
            if not self.faults.after and not self.atomic_uploads:
                self.pipe_file(rpath, data[: len(data) // 2])
            raise
        if kept is not None and self.faults.hits("put_file"):
            self.pipe_file(rpath, data[:kept])

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copy an object."""
        self.faults.run("cp_file", lambda: super(FaultyStore, self).cp_file(path1, path2, **options))

    def rm_file(self, path: str) -> None:
        """Delete an object."""
        self.faults.run("rm_file", lambda: super(FaultyStore, self).rm_file(path))


def register_faulty_store() -> type[FaultyStore]:
    """Let fsspec open `faulty://` URLs, and return the class that holds files and faults."""
    fsspec.register_implementation(PROTOCOL, FaultyStore, clobber=True)
    return FaultyStore
