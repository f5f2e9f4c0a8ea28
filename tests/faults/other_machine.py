"""A program that does one thing to a sink as a process of another machine would: nobody can ask whether it lives.

The request is one argument in JSON, the answer one line: the exit code, and the class and text of the error. Beats come
every second. A protection may be switched off, to see that a suite notices. What must hold is left to the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipecrypt as pc
from pipecrypt.errors import PipecryptError
from pipecrypt.runs import directory_run
from pipecrypt.runs.journal import journal, sink_locking
from pipecrypt.store import lease, s3_object
from pipecrypt.store.process_identity import ProcessIdentity, this_process
from tests.faults.scenes import SCENES, Shop

__all__ = ["BEAT_SECONDS", "OtherMachine", "act", "beat_each_second"]

BEAT_SECONDS = 1
_TIMEOUT_SECONDS = 120


class OtherMachine:
    """A process that acts on a sink, begun at once.

    Args:
        shop: with the sink, as that process sees it.
        action: what it does; see `act`.
        sabotage: the protection that it does without.
    """

    def __init__(self, shop: Shop, action: str, *, sabotage: str = "") -> None:
        request = {
            "scene": shop.scene.name,
            "root": str(shop.root),
            "sink": shop.sink,
            "options": shop.options,
            "action": action,
            "sabotage": sabotage,
        }
        command = [sys.executable, "-m", "tests.faults.other_machine", json.dumps(request)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def outcome(self) -> tuple[int, str]:
        """Wait for its end; return the exit code, and what it says about it."""
        answer, _ = self.process.communicate(timeout=_TIMEOUT_SECONDS)
        code, text = json.loads(answer)
        return code, text

    def end(self) -> None:
        """Kill it if it is there still."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


def act(shop: Shop, action: str) -> None:
    """Run, resume, run with --overwrite, rotate or clean."""
    if action == "clean":
        shop.clean()
    elif action == "rotate":
        _rotate(shop)
    else:
        shop.run(resumes=action == "resume", overwrite=action == "overwrite")


def _rotate(shop: Shop) -> None:
    pc.rotate(
        shop.sink,
        shop.key("pii"),
        shop.key("other"),
        deep=True,
        sign=[shop.key("signing")] if shop.scene.is_signed else (),
        options=shop.options,
        credentials=shop.credentials,
    )


def beat_each_second() -> None:
    """Let locks that are taken from now on beat fast, so that whoever waits for them waits for seconds."""
    real = sink_locking.Lease

    def lock(directory: Any, who: str, **given: Any) -> lease.Lease:
        return real(directory, who, timing=lease.LeaseTiming(BEAT_SECONDS), **given)

    sink_locking.Lease = lock  # type: ignore[assignment,misc]


def _elsewhere() -> ProcessIdentity:
    return replace(this_process(), place="another machine")


def _no_conditions() -> None:
    """Let no request say what it has seen, and let nobody try whether that would matter."""
    directory_run.check_writers = lambda *_, **__: None  # type: ignore[attr-defined,assignment]
    real = s3_object.S3Object._call

    def call(self: Any, method: str, **arguments: Any) -> Any:
        return real(self, method, **{name: each for name, each in arguments.items() if not name.endswith("Match")})

    s3_object.S3Object._call = call  # type: ignore[method-assign]


_SABOTAGE: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "no conditions": _no_conditions,
}


def _main(request: dict[str, Any]) -> tuple[int, str]:
    lease.this_process = _elsewhere  # type: ignore[attr-defined]
    journal._FLUSH_SECONDS = 0.0  # type: ignore[misc]
    beat_each_second()
    _SABOTAGE[request["sabotage"]]()
    try:
        act(
            Shop(SCENES[request["scene"]], Path(request["root"]), request["sink"], request["options"]),
            request["action"],
        )
    except PipecryptError as error:
        return error.exit_code, f"{type(error).__name__}: {error.message} | {error.hint}"
    except BaseException:
        return 70, traceback.format_exc()
    return 0, ""


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))), flush=True)
