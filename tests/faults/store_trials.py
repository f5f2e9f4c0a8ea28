"""A program that runs trials on an object store: a process is killed before a request that changes something there.

As in kill_trials, all is imported once and each process is a fork; this one itself never talks to the store, because
clients do not survive a fork. Requests are counted where all clients meet, in aiohttp. A trial is a line of JSON on
standard input, its problems are a line on standard output.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import fsspec

from pipecrypt.errors import IntegrityError, SourceNotFoundError
from pipecrypt.runs.journal import journal
from tests.faults.kill_trials import SABOTAGE, forked, import_all, read_old
from tests.faults.other_machine import act
from tests.faults.scenes import SCENES, Shop, commitments, prepare, repeated_keys

__all__ = ["serve"]

_CHANGES = frozenset({"PUT", "POST", "DELETE", "PATCH"})


@dataclass
class _Requests:
    """Counts requests that change something, and ends the process before one of them.

    Args:
        last: number of the request that is not sent any more, from 1; 0 for none.
    """

    last: int = 0
    log: list[str] = field(default_factory=list)

    def install(self) -> None:
        real = aiohttp.ClientSession._request

        async def request(session: Any, method: str, url: Any, **options: Any) -> Any:
            if method in _CHANGES:
                self.log.append(f"{method} {url}")
                if len(self.log) == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)
            return await real(session, method, url, **options)

        aiohttp.ClientSession._request = request  # type: ignore[method-assign]


class _Trial:
    """One sink, through all that happens to it."""

    def __init__(self, shop: Shop, request: dict[str, Any]) -> None:
        self.shop = shop
        self.request = request
        self.problems: list[str] = []
        self.old: Counter[object] | None = None

    def carry_out(self) -> dict[str, Any]:
        self._in_fork(self._set_up)
        sent = self._in_fork(self._act, self.request["last"])
        self._in_fork(self._look)
        self._in_fork(self._finish)
        return {"sent": sent, "problems": self.problems}

    def _in_fork(self, step: Callable[[], Any], last: int | None = None) -> Any:
        requests = _Requests(last or 0)

        def action() -> Any:
            os.environ["PIPECRYPT_STATE_DIR"] = str(self.shop.root / "states" / self.request["name"])
            journal._FLUSH_SECONDS = 0.0  # type: ignore[misc]
            if last is not None:
                SABOTAGE[self.request.get("sabotage", "")]()
                requests.install()
            answer = step()
            return requests.log if last is not None else answer

        status, answer = forked(action)
        if isinstance(answer, dict):
            self.problems.append(f"{step.__name__}: {answer['error']}")
        elif status not in {0, signal.SIGKILL if last else 0}:
            self.problems.append(f"{step.__name__}: ended with {status}")
        elif last is None:
            self.problems += answer or []
        return answer

    def _set_up(self) -> None:
        """Put the version before where the trial is."""
        fs, root = fsspec.core.url_to_fs(self.shop.sink, **self.shop.options)
        template = self.shop.template
        for path in template.rglob("*") if template.exists() else ():
            if path.is_file():
                fs.pipe_file(f"{root}/{path.relative_to(template).as_posix()}", path.read_bytes())

    def _act(self) -> None:
        act(self.shop, self.request["action"])

    def _look(self) -> list[str]:
        """Whoever reads now is given the old version or the new one, or in the middle of a rotation an error."""
        shop, is_rotated = self.shop, self.request["action"] == "rotate"
        if not shop.scene.is_signed:
            return []
        try:
            seen = shop.seen()
        except SourceNotFoundError:
            seen = None
        except IntegrityError as error:
            return [] if is_rotated else [f"neither version is there: {error}"]
        old = read_old(shop.root / "old.json")
        if seen is None:
            return [] if old is None else ["the version before is gone"]
        return [] if seen in (old, shop.expected()) else ["what is read is neither the old version nor the new one"]

    def _finish(self) -> list[str]:
        """Continue, read, repeat, clean, read again."""
        shop, problems, before = self.shop, [], commitments(self.shop.files())
        is_rotated = self.request["action"] == "rotate"
        wanted = read_old(shop.root / "old.json") if is_rotated else shop.expected()
        act(shop, "rotate" if is_rotated else "resume")
        if shop.plaintext() != wanted:
            problems.append("what is there when it was continued is something else")
        if is_rotated:
            act(shop, "rotate")
        else:
            again = shop.run()
            if again.files or again.removed or again.signed:
                problems.append(f"a further run did something: {again}")
            if repeated_keys(before, commitments(shop.files())):
                problems.append("a data key was used twice")
        shop.clean()
        if left := shop.leftovers():
            problems.append(f"left over: {left}")
        if shop.scene.is_signed:
            shop.verify()
        if shop.plaintext() != wanted:
            problems.append("cleaning removed what was needed")
        return problems


def _prepared(shop: Shop, rehearsal: Shop) -> list[str]:
    """Set a scene up, do once all that trials do, and return the modules that this took."""
    prepare(shop.scene, shop.root)
    if shop.scene.is_second:
        (shop.root / "old.json").write_text(json.dumps(list(shop.at(shop.template).plaintext().items())))
    rehearsal.run()
    act(rehearsal, "rotate")
    rehearsal.seen()
    rehearsal.clean()
    return [name for name in sys.modules if name.partition(".")[0] not in {"__main__", "__mp_main__"}]


def serve(scene: str, root: str, base: str, options: dict[str, object]) -> None:
    """Set up a scene, then carry out one trial for each line."""
    shop = Shop(SCENES[scene], Path(root), str(Path(root) / "template"))
    status, answer = forked(lambda: _prepared(shop, shop.at(f"{base}/rehearsal", options=options)))
    if status:
        raise RuntimeError(f"the scene cannot be set up: {answer}")
    import_all(answer)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        trial = _Trial(shop.at(f"{base}/{request['name']}", options=options), request)
        print(json.dumps(trial.carry_out()), flush=True)
        shutil.rmtree(shop.root / "states", ignore_errors=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
