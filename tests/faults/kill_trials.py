"""A program that runs trials: a run is killed, then what it left is looked at, continued, repeated and cleaned.

Everything is imported once; each run happens in a fork, so that a trial takes no start of Python. The runs know nothing
of it: calls of `os` that change files are counted in the fork, and the process kills itself before the n-th. Requests
come as lines of JSON on standard input, an answer for each goes to standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipecrypt.dataset.share import rekeying
from pipecrypt.runs import directory_run
from pipecrypt.runs.journal import journal
from pipecrypt.store import publication
from tests.faults.other_machine import act
from tests.faults.scenes import SCENES, Shop, commitments, in_one_process, prepare, repeated_keys

__all__ = ["SABOTAGE", "forked", "import_all", "read_old", "serve"]

# What changes files; each is a moment that can be the last.
_COUNTED = ("open", "write", "fsync", "link", "rename", "unlink", "mkdir", "rmdir")


@dataclass
class _Counting:
    """Counts calls, and ends the process before one of them.

    Args:
        last: number of the call that does not happen any more, from 1; 0 for none.
    """

    last: int = 0
    log: list[tuple[str, str]] | None = None
    count: int = 0

    def install(self) -> None:
        for name in _COUNTED:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            if name == "open" and not given[1] & os.O_CREAT:
                return real(*given, **options)
            self.count += 1
            if self.log is not None:
                self.log.append((name, _path(given[0], options)))
            if self.count == self.last:
                if name == "write":
                    real(given[0], memoryview(given[1])[: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **options)

        return call


def _path(place: object, options: dict[str, Any]) -> str:
    """Return the whole path of what a call is about: most name it inside of a directory that is held open."""
    directory = options.get("src_dir_fd", options.get("dir_fd"))
    return str(place) if directory is None else os.path.join(os.readlink(f"/proc/self/fd/{directory}"), str(place))


def forked(action: Callable[[], Any], kill_after: float | None = None) -> tuple[int, Any]:
    """Do something in a fork with a process group of its own; return its status and what it answered."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(ours)
        _child(action, theirs)
    os.close(theirs)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    data = b""
    while kill_after is None and (piece := os.read(ours, 1 << 16)):
        data += piece
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # its workers
    return status, json.loads(data) if data else None


def _child(action: Callable[[], Any], answers: int) -> None:
    real_write, code = os.write, 0
    os.set_inheritable(answers, False)
    try:
        answer = action()
    except BaseException:
        answer, code = {"error": traceback.format_exc()}, 1
    real_write(answers, json.dumps(answer).encode())
    os._exit(code)


class _Trial:
    """One sink, through all that happens to it."""

    def __init__(self, shop: Shop, old: Counter[object] | None, request: dict[str, Any], action: str) -> None:
        self.action = action
        self.shop = shop.fresh(request["name"])
        self.old = old
        self.request = request
        self.problems: list[str] = []
        self.seen = [commitments(self.shop.files())]
        self.state = self.shop.root / "states" / request["name"]

    def carry_out(self) -> dict[str, Any]:
        outcome = "killed"
        for number, kill in enumerate(self.request["kills"]):
            status = self._killed_run(kill, resumes=number > 0)
            if status != signal.SIGKILL:
                outcome = "ended" if status == 0 else "failed"
            self._in_fork(self._look)
        self._in_fork(self._finish)
        self._keys()
        shutil.rmtree(self.shop.sink, ignore_errors=True)
        return {"name": self.request["name"], "outcome": outcome, "problems": self.problems}

    def _killed_run(self, kill: dict[str, Any], *, resumes: bool) -> int:
        def action() -> None:
            self._prepare_process()
            _Counting(kill.get("call", 0)).install()
            act(self.shop, self.action if self.action == "rotate" or not resumes else "resume")

        status, answer = forked(action, kill.get("after"))
        if answer is not None and "error" in answer:
            self.problems.append(f"run: {answer['error']}")
        self.seen.append(commitments(self.shop.files()) if Path(self.shop.sink).exists() else {})
        return status

    def _in_fork(self, check: Callable[[], list[str]]) -> None:
        def action() -> list[str]:
            self._prepare_process()
            return check()

        status, answer = forked(action)
        if isinstance(answer, dict):
            self.problems.append(f"{check.__name__}: {answer['error']}")
        elif status:
            self.problems.append(f"{check.__name__}: ended with {status}")
        else:
            self.problems += answer
        self.seen.append(commitments(self.shop.files()) if Path(self.shop.sink).exists() else {})

    def _prepare_process(self) -> None:
        os.environ["PIPECRYPT_STATE_DIR"] = str(self.state)
        _note_each_task()
        SABOTAGE[self.request.get("sabotage", "")]()

    def _look(self) -> list[str]:
        """Whoever reads now is given the old version or the new one."""
        shop = self.shop
        # A rotation changes files before it signs them: in between they are neither, and nobody takes them for either.
        if not shop.scene.is_signed or not Path(shop.sink).exists() or self.action == "rotate":
            return []
        seen = shop.seen()
        if seen is None:
            return [] if self.old is None else ["the version before is gone"]
        if seen not in (self.old, shop.expected()):
            return ["what is read is neither the old version nor the new one"]
        return []

    def _finish(self) -> list[str]:
        """Continue, read, repeat, clean, read again."""
        shop, problems = self.shop, []
        if self.action == "rotate":
            return self._finish_rotation()
        shop.run(resumes=True)
        if shop.plaintext() != shop.expected():
            problems.append("the run that went on wrote something else")
        again = shop.run()
        if again.files or again.removed or again.signed:
            problems.append(f"a further run did something: {again}")
        shop.clean()
        if left := shop.leftovers():
            problems.append(f"left over: {left}")
        if shop.clean():
            problems.append("cleaning again found more")
        if shop.scene.is_signed:
            shop.verify()
        if shop.plaintext() != shop.expected():
            problems.append("cleaning removed what was needed")
        return problems

    def _finish_rotation(self) -> list[str]:
        """Rotate once more, read, and see that nothing is left to do."""
        shop, problems = self.shop, []
        act(shop, "rotate")
        if shop.plaintext() != self.old:
            problems.append("after the rotation something else is there")
        act(shop, "rotate")
        shop.clean()
        if left := shop.leftovers():
            problems.append(f"left over: {left}")
        if shop.scene.is_signed:
            shop.verify()
        return problems if shop.plaintext() == self.old else [*problems, "cleaning removed what was needed"]

    def _keys(self) -> None:
        if self.action == "rotate":
            return  # a rotation keeps the data keys
        if repeated_keys(*self.seen):
            self.problems.append("a data key was used twice")
        if not any(found for each in self.seen for found in each.values()):
            self.problems.append("no data key was seen at all")


def _note_each_task() -> None:
    """Write a block for each task, as runs do that take longer than these."""
    journal._FLUSH_SECONDS = 0.0  # type: ignore[misc]


def _nothing() -> None:
    """Leave all as it is."""


def _no_staging() -> None:
    """Write into a signed dataset in place."""
    directory_run.SinkState.is_staged = False  # type: ignore[assignment,misc]


def _no_temporary_names() -> None:
    """Write files under their own names, a byte at a time for all to see."""
    real = publication.LocalPublication.__init__

    def init(self: Any, location: Any, **options: Any) -> None:
        real(self, location, **options)
        self._temporary, self._overwrite = location.name, True

    publication.LocalPublication.__init__ = init  # type: ignore[method-assign]


def _nothing_set_aside() -> None:
    """Leave files at their places that the next version does not have."""
    directory_run.set_aside = lambda *_, **__: None


def _no_undo() -> None:
    """Change footers with no way back."""
    rekeying.write_undo = lambda *_, **__: 0  # type: ignore[attr-defined,assignment]


def _same_keys() -> None:
    """Let a broken generator give every process the same keys."""
    from pipecrypt.keys import session  # noqa: PLC0415

    generator = random.Random(7)  # noqa: S311
    session.random_bytes = generator.randbytes  # type: ignore[attr-defined]


def _no_journal() -> None:
    """Forget what earlier runs noted."""
    directory_run.RunHistory.look = classmethod(  # type: ignore[assignment,method-assign]
        lambda cls, *_, **__: cls()
    )


SABOTAGE: dict[str, Callable[[], None]] = {
    "": _nothing,
    "no staging": _no_staging,
    "nothing is set aside": _nothing_set_aside,
    "no temporary names": _no_temporary_names,
    "same keys": _same_keys,
    "no journal": _no_journal,
    "no undo": _no_undo,
}


def _trace(shop: Shop, run: str) -> dict[str, Any]:
    """Return the calls of a run, or a rotation, that nobody kills, and how long it takes."""
    traced = shop.fresh("trace")
    counting = _Counting(log=[])

    def action() -> dict[str, Any]:
        os.environ["PIPECRYPT_STATE_DIR"] = str(shop.root / "states" / "trace")
        _note_each_task()
        counting.install()
        started = time.perf_counter()
        act(traced, run)
        return {"seconds": time.perf_counter() - started, "calls": counting.log}

    return forked(action)[1]  # type: ignore[no-any-return]


@contextmanager
def _shop(scene: str, root: str) -> Iterator[Shop]:
    status, answer = forked(lambda: _prepared(scene, root))
    if status:
        raise RuntimeError(f"the scene cannot be set up: {answer}")
    import_all(answer)
    yield Shop(SCENES[scene], Path(root), str(Path(root) / "template"))


def import_all(names: list[str]) -> None:
    """Import modules once, instead of in every fork."""
    for name in names:
        with contextlib.suppress(ImportError, AttributeError):
            importlib.import_module(name)


def _prepared(scene: str, root: str) -> list[str]:
    """Set a scene up, do once all that trials do, and return the modules that this took."""
    os.environ["PIPECRYPT_STATE_DIR"] = str(Path(root) / "states" / "first")
    shop = prepare(SCENES[scene], Path(root))
    if shop.scene.is_second:
        (shop.root / "old.json").write_text(json.dumps(list(map(list, shop.plaintext().items()))))
    rehearsal = in_one_process(shop.fresh("rehearsal"))
    rehearsal.run()
    rehearsal.seen()
    rehearsal.clean()
    act(rehearsal, "rotate")
    return [name for name in sys.modules if name.partition(".")[0] not in {"__main__", "__mp_main__"}]


def serve(scene: str, root: str, action: str = "run") -> None:
    """Set up a scene, tell what its run or rotation does, then carry out one trial for each line."""
    with _shop(scene, root) as shop:
        old = read_old(shop.root / "old.json")
        print(json.dumps(_trace(shop, action)), flush=True)
        for line in sys.stdin:
            print(json.dumps(_Trial(shop, old, json.loads(line), action).carry_out()), flush=True)


def read_old(path: Path) -> Counter[object] | None:
    if not path.exists():
        return None
    pairs = json.loads(path.read_text())
    return Counter({tuple(value) if isinstance(value, list) else value: count for value, count in pairs})


if __name__ == "__main__":
    serve(*sys.argv[1:])
