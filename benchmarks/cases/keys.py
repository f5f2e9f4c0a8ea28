"""What keys and starts cost, before a byte is encrypted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.inputs import new_keys
from benchmarks.suite import Case, Contender, LeftOutError, Place, Ready, Work

__all__ = ["CASES"]

_CALLS = 50
_PASSPHRASE = "of-a-benchmark"  # noqa: S105 - of keys that are thrown away
_MESSAGE_ROWS = 100


@contextmanager
def _prepare(place: Place) -> Iterator[Ready]:
    environment = dict(new_keys(place.root))
    command = [sys.executable, "-m", "pipecrypt", "keys", "new", f"keystore://{place.root}/phrase.json#pii"]
    given = {**os.environ, "PIPECRYPT_PASSPHRASE": _PASSPHRASE}
    given.pop("PIPECRYPT_KEY_FILE")
    subprocess.run(command, check=True, capture_output=True, env=given)
    yield Ready(0, environment)


def _messages(*, phrase: bool, session: bool) -> Contender:
    """Encrypt many small messages, each by a call of its own."""

    def start(place: Place) -> Work:
        import pyarrow as pa

        import pipecrypt as pc

        if phrase:
            os.environ.pop("PIPECRYPT_KEY_FILE", None)
            os.environ["PIPECRYPT_PASSPHRASE"] = _PASSPHRASE
        key = f"keystore://{place.root}/phrase.json#pii" if phrase else place.key()
        if session and not hasattr(pc, "Session"):
            raise LeftOutError("this tree has no sessions")
        rows = pa.table({"id": range(_MESSAGE_ROWS), "email": [f"{row}@example.org" for row in range(_MESSAGE_ROWS)]})
        policy = pc.Policy(default=key)

        def run() -> dict[str, float]:
            made = [pc.encrypt_bytes(rows, policy) for _ in range(_CALLS)]
            assert len(set(made)) == _CALLS  # noqa: S101
            return {"calls": _CALLS}

        def run_in_session() -> dict[str, float]:
            with pc.Session(keys=[key]):
                return run()

        return run_in_session if session else run

    return Contender(start, is_ours=True)


def _python(*arguments: str) -> Contender:
    return Contender(lambda place: [sys.executable, *arguments], is_ours="pipecrypt" in " ".join(arguments))


CASES = (
    Case(
        "keys: messages",
        f"What do {_CALLS} calls of encrypt_bytes cost, and what a session saves?",
        "A passphrase costs a tenth of a second on purpose, each time that a keystore is unlocked; a key file does "
        "not.",
        _prepare,
        {
            "key file": _messages(phrase=False, session=False),
            "key file, in a Session": _messages(phrase=False, session=True),
            "passphrase": _messages(phrase=True, session=False),
            "passphrase, in a Session": _messages(phrase=True, session=True),
        },
        "key file",
    ),
    Case(
        "keys: start",
        "How long does a command take that does nothing?",
        "Python and its imports.",
        _prepare,
        {
            "python": _python("-c", "pass"),
            "import pyarrow": _python("-c", "import pyarrow.parquet"),
            "import pipecrypt": _python("-c", "import pipecrypt"),
            "pipecrypt --help": _python("-m", "pipecrypt", "--help"),
        },
        "python",
        rounds=11,
    ),
)
