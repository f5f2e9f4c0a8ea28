"""Runs that die while files of a signed version are moved, on storages that copy and then remove, or only rename."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from pipecrypt.errors import PipecryptError, UnsafeSinkError
from pipecrypt.store import fsspec_changes as rename_module
from tests.faults.scenes import SCENES, Shop, commitments, prepare, repeated_keys

_CHANGES = ("cp_file", "rm_file", "put_file", "pipe_file")


class DiedError(BaseException):
    """Nothing of ours catches it, as nothing catches a kill."""


class _Renaming(MemoryFileSystem):  # type: ignore[misc]
    """A storage that renames and cannot copy, as SFTP."""

    protocol = "renaming"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("renaming://")))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        AbstractFileSystem.cp_file(self, path1, path2)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        self.store[self._strip_protocol(path2)] = self.store.pop(self._strip_protocol(path1))


@dataclass
class _Death:
    """Comes before one of the steps of moving: copying, or removing the old name. Then nothing changes any more.

    Locks are given back all the same: the process that died would not be waited for, and this one lives.
    """

    at: int
    steps: int = 0
    is_dead: bool = False
    moving: set[str] = field(default_factory=set)

    def step(self, call: str, path: str, *others: object) -> None:
        if call == "cp_file" and ("/staged/" in path) is not ("/staged/" in str(others[0])):
            self.moving.add(path)
            self._count()
        elif call == "rm_file" and path in self.moving:
            self.moving.remove(path)
            self._count()
        if self.is_dead and "/lock/" not in path:
            raise DiedError

    def _count(self) -> None:
        self.steps += 1
        self.is_dead = self.is_dead or self.steps == self.at

    def installed(self, patch: pytest.MonkeyPatch) -> None:
        for call in _CHANGES:
            patch.setattr(MemoryFileSystem, call, self._dying(call, getattr(MemoryFileSystem, call)))

    def _dying(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(fs: MemoryFileSystem, *arguments: Any, **options: Any) -> Any:
            named = arguments[1:] if call == "put_file" else arguments
            self.step(call, *(each for each in named if isinstance(each, str)))
            return real(fs, *arguments, **options)

        return changed


@pytest.fixture(scope="module", params=["next", pytest.param("csv-next", marks=pytest.mark.long)])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return prepare(SCENES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture
def places() -> Iterator[Callable[[Shop, str], Shop]]:
    fsspec.register_implementation("renaming", _Renaming, clobber=True)
    made: list[str] = []

    def place(shop: Shop, scheme: str = "memory") -> Shop:
        """Return the same with a copy of the sink in a storage of its own."""
        sink = f"{scheme}://moves-{uuid.uuid4().hex}"
        fs, root = fsspec.core.url_to_fs(sink)
        for path in shop.template.rglob("*"):
            if path.is_file():
                fs.pipe_file(f"{root}/{path.relative_to(shop.template).as_posix()}", path.read_bytes())
        made.append(sink)
        return shop.at(sink)

    yield place
    for sink in made:
        fs, root = fsspec.core.url_to_fs(sink)
        fs.rm(root, recursive=True)


def _dies(shop: Shop, at: int, tidy: Callable[[Shop], object]) -> bool:
    """Let a run die at a step of moving; say whether it came to that, and check what it left and what follows."""
    before, death = shop.seen(), _Death(at)
    with pytest.MonkeyPatch.context() as patch:
        death.installed(patch)
        with contextlib.suppress(DiedError):
            shop.run()
    assert (death.steps == at) is death.is_dead
    seen, keys = shop.seen(), commitments(shop.files())
    assert seen in (before, shop.expected())
    tidy(shop)
    assert shop.seen() in (seen, shop.expected())
    shop.run(resumes=True)
    assert shop.seen() == shop.expected()
    assert shop.run().files == 0
    shop.clean()
    assert shop.leftovers() == []
    assert repeated_keys(keys, commitments(shop.files())) == []
    return death.is_dead


@pytest.mark.parametrize("tidy", ["run", "clean"])
def test_a_run_dies_before_any_step_of_moving(shop: Shop, places: Callable[..., Shop], tidy: str) -> None:
    tidies = {"run": lambda shop: None, "clean": lambda shop: shop.clean()}
    at = 1
    while _dies(places(shop), at, tidies[tidy]):
        at += 1
    assert at > len(("copied", "removed")) * len(("set aside", "replaced", "new"))


def test_on_a_storage_that_renames_only(shop: Shop, places: Callable[..., Shop]) -> None:
    with pytest.raises(UnsafeSinkError):
        places(shop, "renaming").run()
    placed = places(shop, "renaming").at(places(shop, "renaming").sink, only_writer=True)
    placed.run()
    assert placed.seen() == placed.expected()
    assert placed.run().files == 0
    assert placed.leftovers() == []


def test_without_a_look_at_the_copy_lost_files_are_noticed(
    shop: Shop, places: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies that never complete: only who looks keeps the old name."""
    placed = places(shop)
    real = MemoryFileSystem.cp_file

    def copy(fs: MemoryFileSystem, path1: str, path2: str, **options: Any) -> None:
        real(fs, path1, path2)
        if "/staged/" in path1 and "/staged/" not in path2:
            fs.pipe_file(path2, b"")

    def seen(is_looking: bool) -> Counter[object] | None:
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "cp_file", copy)
            if not is_looking:
                patch.setattr(rename_module, "_check_copy", lambda *arguments: None)
            target = placed.at(placed.sink, options={"transfer": {"deadline_seconds": 0}})
            with pytest.raises(PipecryptError):
                target.run()
        return placed.seen()

    assert seen(is_looking=True) == placed.expected()
    with pytest.raises(PipecryptError):
        seen(is_looking=False)
