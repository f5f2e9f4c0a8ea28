"""Secrets of the user: passphrases, PINs and key files, from the environment, from files or by asking.

Small files that only their owner should see are read here too: keystores, PEM files, tokens.

Where they come from, first found counts:

1. passphrase: PIPECRYPT_PASSPHRASE, the file named by PIPECRYPT_PASSPHRASE_FILE, the prompt. Never argv.
2. key file: PIPECRYPT_KEY_FILE, 32 random bytes, raw or in base64.
3. PIN of a token: PIPECRYPT_PKCS11_PIN, the file that a key reference names, the prompt. Never what is a passphrase:
   tokens lock after some wrong tries.

What was derived from a passphrase is remembered in this process for PIPECRYPT_UNLOCKED_SECONDS after it was used last:
60 by default, up to 3600, and not at all where that is 0.

Where a keystore gets another secret, that comes from PIPECRYPT_NEW_PASSPHRASE, PIPECRYPT_NEW_PASSPHRASE_FILE,
PIPECRYPT_NEW_KEY_FILE or the prompt, likewise. A passphrase for something new has at least 8 characters, the least that
NIST SP 800-63B asks of secrets that people choose; what exists opens with whatever it was made with.
"""

from __future__ import annotations

import errno
import hmac
import logging
import math
import os
import stat
import threading
import unicodedata
import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from pipecrypt.errors import KeystoreError, PassphraseError, StorageError, UsageError
from pipecrypt.keys.derived_keys import DERIVED_KEYS
from pipecrypt.vocabulary.documents import decode_base64
from pipecrypt.vocabulary.once import warn_once
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = [
    "ACTIVE",
    "MAX_PRIVATE_FILE_BYTES",
    "PASSPHRASE_VARIABLE",
    "PIN_VARIABLE",
    "UNLOCKED_SECONDS_VARIABLE",
    "Credentials",
    "file_failure",
    "given_credentials",
    "read_private_file",
]

PASSPHRASE_VARIABLE: Final = "PIPECRYPT_PASSPHRASE"  # noqa: S105 - a name, no secret
PASSPHRASE_FILE_VARIABLE: Final = "PIPECRYPT_PASSPHRASE_FILE"  # noqa: S105 - a name, no secret
KEY_FILE_VARIABLE: Final = "PIPECRYPT_KEY_FILE"
PIN_VARIABLE: Final = "PIPECRYPT_PKCS11_PIN"
UNLOCKED_SECONDS_VARIABLE: Final = "PIPECRYPT_UNLOCKED_SECONDS"
_UNLOCKED_SECONDS: Final = 60.0
_MOST_UNLOCKED_SECONDS: Final = 3600.0
_NEW: Final = MappingProxyType(
    {
        name: name.replace("PIPECRYPT_", "PIPECRYPT_NEW_")
        for name in (PASSPHRASE_VARIABLE, PASSPHRASE_FILE_VARIABLE, KEY_FILE_VARIABLE)
    }
)
MIN_PASSPHRASE_CHARACTERS: Final = 8
_ADVISED_CHARACTERS: Final = 12
_MAX_SECRET_BYTES: Final = 4096
MAX_PRIVATE_FILE_BYTES: Final = 16 * 1024 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_logger = logging.getLogger(__name__)


class Credentials:
    """What opens key services. Pickled for worker processes without the prompt, but with what the prompt answered.

    Args:
        environ: the environment; copied.
        prompt: asks a person for a passphrase, given what it is for; None where nobody can answer.
    """

    __slots__ = ("__weakref__", "_answers", "_derived", "_environ", "_from_file", "_lock", "_prompt")

    def __init__(self, environ: Mapping[str, str], prompt: Callable[[str], str] | None = None) -> None:
        """Copy the environment; nothing is read or asked yet."""
        self._environ = dict(environ)
        self._prompt = prompt
        self._answers: dict[str, str] = {}
        self._from_file: str | None = None
        self._derived: dict[tuple[Hashable, str], DataKey] = {}
        self._lock = threading.Lock()  # of what was derived
        _ALIVE.add(self)

    @classmethod
    def from_environment(cls, prompt: Callable[[str], str] | None = None) -> Self:
        """Return the credentials of this process; for the edge of the program."""
        return cls(os.environ, prompt)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment, for key services that have variables of their own."""
        return self._environ

    def passphrase(self, label: str) -> str:
        """Return the passphrase for what `label` names; a person is asked once for each label.

        Raises:
            PassphraseError: none is given, or it is empty.
        """
        given = self._given_passphrase()
        if given is None:
            given = self._answers.get(label)
        if given is None:
            given = self._ask(label)
            self._answers[label] = given
        return given

    def new_passphrase(self, label: str) -> str:
        """Return the passphrase for something that is about to be made; a person types it twice.

        Raises:
            PassphraseError: none is given, it is empty, or the two differ.
            UsageError: it is too short.
        """
        if self._given_passphrase() is None and label not in self._answers:
            answer = self._ask(f"new {label}")
            if self._ask(f"{label} again") != answer:
                raise PassphraseError("the two passphrases differ", hint="run the command again")
            self._answers[label] = answer
        passphrase = self.passphrase(label)
        if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
            self._answers.pop(label, None)
            raise UsageError(
                f"the new {label} is too short: {len(passphrase)} of at least {MIN_PASSPHRASE_CHARACTERS} characters",
                hint=f"take {_ADVISED_CHARACTERS} or more, such as some random words; or a key file of 32 random bytes",
            )
        if len(passphrase) < _ADVISED_CHARACTERS:
            _logger.warning("the new %s is short: %d characters or more are better", label, _ADVISED_CHARACTERS)
        return passphrase

    def has_passphrase(self, label: str) -> bool:
        """Return whether there is a passphrase for what `label` names without asking anybody.

        Raises:
            PassphraseError: one is given and empty, or its file cannot be read.
        """
        return self._given_passphrase() is not None or label in self._answers

    def for_new_secret(self) -> Credentials:
        """Return what holds the other secret of a keystore that gets one, under the names of an only one."""
        others = {name: value for name, value in self._environ.items() if name not in _NEW}
        others.update({name: self._environ[new] for name, new in _NEW.items() if new in self._environ})
        return Credentials(others, self._prompt)

    def fingerprint(self, label: str | None, key: bytes) -> bytes:
        """Return what differs between two secrets, to tell them apart in this process and nowhere else.

        Args:
            label: what the passphrase is for; None for the key file.
            key: random, of this process.

        Raises:
            PassphraseError: there is none, or it cannot be read.
        """
        if label is not None:
            return hmac.digest(key, b"passphrase" + self.passphrase(label).encode(errors="surrogateescape"), "sha256")
        with self.key_file() as key_file:
            return hmac.digest(key, b"key file" + bytes(key_file.expose_key_bytes()), "sha256")

    def pin(self, label: str, source: str | None) -> str:
        """Return the PIN of a token.

        Args:
            label: what it is for; a person is asked once for each.
            source: path of a file that holds the PIN, or None. It is read once: it may be a pipe.

        Raises:
            PassphraseError: none is given, it is empty, or the file cannot be read.
        """
        if PIN_VARIABLE in self._environ:
            return _checked(self._environ[PIN_VARIABLE], PIN_VARIABLE)
        if label not in self._answers:
            self._answers[label] = self._ask(label) if source is None else _read_passphrase(source, "PIN file")
        return self._answers[label]

    def has_key_file(self) -> bool:
        """Return whether a key file is named, so that new keystores are wrapped under it."""
        return bool(self._environ.get(KEY_FILE_VARIABLE))

    def key_file(self) -> DataKey:
        """Return the 256-bit key in the key file; the caller wipes it.

        Raises:
            PassphraseError: none is named, or it cannot be read or is not a key.
        """
        path = self._environ.get(KEY_FILE_VARIABLE)
        if not path:
            raise PassphraseError("no key file is given", hint=f"set {KEY_FILE_VARIABLE} to the path of the key file")
        data = _read_secret(path, "key file", may_be_pipe=False)
        try:
            return DataKey(data if len(data) == DATA_KEY_BYTES else _decode_key(data))
        except ValueError:  # which may hold the key
            raise PassphraseError(
                f"key file {path} holds no 256-bit key", hint="make one with: head -c 32 /dev/urandom > FILE"
            ) from None

    def derive_once(self, name: Hashable, secret: str, derive: Callable[[], DataKey]) -> DataKey:
        """Return a copy of what `derive` made, deriving on the first call only.

        Key services use it for slow derivations, so that ten keys of one keystore cost one. `forget` ends it here; this
        process remembers it for a while: see `derived_keys`.

        Args:
            name: tells apart what is derived from one secret; not secret itself.
            secret: what the key is derived from.
            derive: derives it.

        Raises:
            UsageError: PIPECRYPT_UNLOCKED_SECONDS is not a number of seconds.
        """
        with self._lock:
            if (name, secret) not in self._derived:
                seconds = self._unlocked_seconds()
                made = DERIVED_KEYS.get(name, secret, derive, seconds) if seconds else derive()
                self._derived[name, secret] = made
            return DataKey(self._derived[name, secret].expose_key_bytes())

    def forget(self) -> None:
        """Wipe what was derived; passphrases stay."""
        self._wipe_derived()

    def __repr__(self) -> str:
        """Show nothing."""
        return "<Credentials>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the environment and what was answered or read, not the prompt and not what was derived."""
        return _rebuild, (self._environ, self._answers, self._from_file)

    @property
    def _is_closed(self) -> bool:
        """Whether they open nothing any more, as those of a `Session` that was closed."""
        return False

    def _adopt_answers(self, others: Credentials) -> None:
        """Ask whom the others ask, and not for what they know."""
        self._prompt = others._prompt
        self._answers.update(others._answers)
        self._from_file = others._from_file

    def _begin_anew(self) -> None:
        """Forget all keys in a process that was forked: a thread that is not there may have held a lock."""
        self._lock = threading.Lock()
        self._wipe_derived()

    def _wipe_derived(self) -> None:
        with self._lock:
            while self._derived:
                self._derived.popitem()[1].wipe()

    def _given_passphrase(self) -> str | None:
        if PASSPHRASE_VARIABLE in self._environ:
            return _checked(self._environ[PASSPHRASE_VARIABLE], PASSPHRASE_VARIABLE)
        path = self._environ.get(PASSPHRASE_FILE_VARIABLE)
        if path is None:
            return None
        # Read once: it may be a pipe, as in `PIPECRYPT_PASSPHRASE_FILE=<(pass show pipecrypt)`.
        if self._from_file is None:
            self._from_file = _read_passphrase(path)
        return self._from_file

    def _unlocked_seconds(self) -> float:
        text = self._environ.get(UNLOCKED_SECONDS_VARIABLE, "")
        try:
            seconds = float(text) if text else _UNLOCKED_SECONDS
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= _MOST_UNLOCKED_SECONDS:
            raise UsageError(
                f"{UNLOCKED_SECONDS_VARIABLE} is {text!a}",
                hint=f"give a number of seconds from 0, which remembers nothing, to {_MOST_UNLOCKED_SECONDS:.0f}",
            )
        return seconds

    def _ask(self, label: str) -> str:
        if self._prompt is None:
            raise PassphraseError(f"no {label} is given")
        return _checked(self._prompt(label), label)


_ALIVE: Final[weakref.WeakSet[Credentials]] = weakref.WeakSet()


def _begin_all_anew() -> None:
    with ExitStack() as stack:  # which calls all of them, whatever one raises
        for credentials in tuple(_ALIVE):
            stack.callback(credentials._begin_anew)


os.register_at_fork(after_in_child=_begin_all_anew)

# The credentials of the innermost `with` block of a Session, on this thread.
ACTIVE: Final[ContextVar[Credentials | None]] = ContextVar("pipecrypt.keys.active", default=None)


def given_credentials(credentials: Credentials | None) -> Credentials:
    """Return what a caller gave; else the Session in whose `with` block this is; else those of this process."""
    active = ACTIVE.get()
    if credentials is None and active is not None and not active._is_closed:
        return active
    return Credentials.from_environment() if credentials is None else credentials


def _rebuild(environ: dict[str, str], answers: dict[str, str], from_file: str | None) -> Credentials:
    credentials = Credentials(environ)
    credentials._from_file = from_file
    credentials._answers.update(answers)
    return credentials


def _read_passphrase(path: str, what: str = "passphrase file") -> str:
    data = _read_secret(path, what)
    try:
        # One line end is what editors and `echo` add; any other white space belongs to the passphrase.
        return _checked(data.decode().removesuffix("\n").removesuffix("\r"), f"{what} {path}")
    except UnicodeDecodeError:  # which holds the secret
        raise PassphraseError(f"{what} {path} is not in UTF-8") from None


def _checked(passphrase: str, origin: str) -> str:
    if not passphrase:
        raise PassphraseError(f"{origin} is empty")
    # Two keyboards may compose one letter differently (RFC 8265 4.2.2).
    return unicodedata.normalize("NFC", passphrase)


def _decode_key(data: bytes) -> bytes:
    key_bytes = decode_base64(data.decode("ascii").strip())
    if len(key_bytes) != DATA_KEY_BYTES:
        raise ValueError("wrong size")
    return key_bytes


def _read_secret(path: str, what: str, *, may_be_pipe: bool = True) -> bytes:
    try:
        # Of a file that is read more than once, a pipe would hang until somebody writes.
        flags = os.O_RDONLY | os.O_CLOEXEC | (0 if may_be_pipe else os.O_NONBLOCK)
        with open(os.open(Path(path).expanduser(), flags), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not may_be_pipe and not stat.S_ISREG(mode):
                raise PassphraseError(f"{what} {path} is not a regular file", hint="name a file that holds the key")
            data = file.read(_MAX_SECRET_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such path"
        raise PassphraseError(f"{what} {path} cannot be read: {str(reason).lower()}") from error
    if len(data) > _MAX_SECRET_BYTES:
        raise PassphraseError(f"{what} {path} is longer than {_MAX_SECRET_BYTES} bytes")
    if stat.S_ISREG(mode) and mode & _OTHERS:
        warn_once(_logger, "%s %s is open to other users; chmod 600 it", what, path)
    return data


def read_private_file(path: Path, what: str) -> bytes | None:
    """Return the content of a file that only its owner should see, or None if it does not exist.

    Args:
        path: of the file.
        what: it is, for errors and warnings, such as "private key".

    Raises:
        KeystoreError: it cannot be read, is not a regular file, or is longer than `MAX_PRIVATE_FILE_BYTES`.
    """
    try:
        # Without O_NONBLOCK a named pipe would hang here until somebody writes.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeystoreError(f"{what} {path} is not a regular file")
            data = file.read(MAX_PRIVATE_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise file_failure(error, what, path, "read") from error
    if len(data) > MAX_PRIVATE_FILE_BYTES:
        raise KeystoreError(f"{what} {path} is longer than {MAX_PRIVATE_FILE_BYTES} bytes")
    if mode & _OTHERS:
        warn_once(_logger, "%s %s is open to other users; chmod 600 it", what, path)
    return data


def file_failure(error: Exception, what: str, path: Path, verb: str) -> KeystoreError | StorageError:
    """Return the error to raise where the file system failed or refused.

    Args:
        error: of the file system, or of a malformed path.
        what: the file is.
        path: of the file.
        verb: what could not be done, "read" or "written".
    """
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number).lower() if number else "no valid path"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what} {path} cannot be {verb}: {reason}", hint="free some space; nothing was changed")
    hint = "check the permissions of the directory" if number in (errno.EACCES, errno.EPERM, errno.EROFS) else None
    return KeystoreError(f"{what} {path} cannot be {verb}: {reason}", hint=hint)
