"""A program that does several things to one sink at once, each in a fork, as soon as all are ready; what comes of each.

Requests come as lines of JSON on standard input: the sink, and for each fork what it does and how long it waits first.
The answer is, for each, its exit code and the class of its error. What must hold is left to the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipecrypt as pc
from pipecrypt.errors import PipecryptError
from pipecrypt.runs import directory_run
from tests.faults.scenes import SCENES, Shop

__all__ = ["serve"]

_START_SECONDS = 0.03  # a fork is ready by then


@dataclass(frozen=True)
class _Fork:
    pid: int
    answers: int


def _act(shop: Shop, action: str) -> None:
    if action == "clean":
        shop.clean()
    elif action == "rotate":
        pc.rotate(
            shop.sink,
            shop.key("pii"),
            shop.key("other"),
            deep=True,
            sign=[shop.key("signing")],
            credentials=shop.credentials,
        )
    else:
        shop.run(resumes=action == "resume")


class _NoLock:
    """A lock that keeps nobody out."""

    is_lost = False
    held = None

    def check(self) -> None:
        """Pass."""


def _begin(shop: Shop, action: str, when: float) -> _Fork:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return _Fork(pid, ours)
    code, name = 0, ""
    time.sleep(max(when - time.monotonic(), 0))
    try:
        _act(shop, action)
    except PipecryptError as error:
        code, name = error.exit_code, f"{type(error).__name__}: {error}"
    except BaseException:
        code, name = 70, traceback.format_exc()
    os.write(theirs, json.dumps([code, name]).encode())
    os._exit(0)


def _race(shop: Shop, actions: list[list[Any]]) -> list[Any]:
    start, answers = time.monotonic() + _START_SECONDS, []
    for fork in [_begin(shop, action, start + wait_seconds) for action, wait_seconds in actions]:
        with os.fdopen(fork.answers, "rb") as answer:
            answers.append(json.loads(answer.read() or b'[70, "it died"]'))
        os.waitpid(fork.pid, 0)
    return answers


def serve(scene: str, root: str) -> None:
    """Answer requests about sinks of a scene that is set up."""
    for line in sys.stdin:
        request = json.loads(line)
        shop = Shop(SCENES[scene], Path(root), request["sink"], request["options"])
        if request["is_unlocked"]:
            directory_run.locked_sink = lambda *_: contextlib.nullcontext(_NoLock())  # type: ignore[attr-defined]
        print(json.dumps(_race(shop, request["actions"])), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
