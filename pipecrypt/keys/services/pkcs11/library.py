"""Load the library that speaks to tokens, and map its errors: the one door to python-pkcs11. Tokens: token.

Libraries are initialized for calls from one thread at a time (PKCS #11 v2.40 5.4), so `LOCK` is held around all calls.
A process that was forked has to initialize them again (the same section).
SoftHSM2 writes the file of a token when somebody logs in, and who initializes the library just then misses the token.
So processes take turns at both, as far as they know of each other: each locks the module's own file meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from pipecrypt.errors import (
    KeyNotFoundError,
    KeyServiceError,
    MissingExtraError,
    PassphraseError,
    PipecryptError,
    UsageError,
)

__all__ = ["LOCK", "load_library", "mapped", "package", "take_turns", "wrong_pin"]

LOCK: Final = threading.RLock()
_LOADED: Final[dict[str, int]] = {}  # module -> the process that initialized it
_TURN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.01
_logger = logging.getLogger(__name__)
_PIN_HINT: Final = "set PIPECRYPT_PKCS11_PIN, or name a file with pin-source; tokens lock after some wrong tries"


def package() -> ModuleType:
    """Return python-pkcs11.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise MissingExtraError(
            "keys in tokens need the package python-pkcs11", hint="pip install pipecrypt[pkcs11]"
        ) from error


def load_library(path: str, name: str) -> Any:
    """Load and initialize a PKCS #11 module, once in each process. The caller holds `LOCK`.

    Args:
        path: of the module; its code runs in this process.
        name: the key reference, for errors.

    Raises:
        MissingExtraError: python-pkcs11 is not installed.
        KeyServiceError: the module cannot be loaded.
    """
    p11 = package()
    try:
        library = p11.lib(path)
        if _LOADED.setdefault(path, os.getpid()) != os.getpid():
            library.reinitialize()
            _LOADED[path] = os.getpid()
    except p11.PKCS11Error as error:
        raise KeyServiceError(
            f"{name}: the PKCS#11 module {path} cannot be loaded",
            hint="check its path, and the module's own configuration",
        ) from error
    return library


@contextmanager
def take_turns(path: str) -> Iterator[None]:
    """Wait until no other process of ours logs in by the module `path`, and let them wait meanwhile.

    Nothing but SoftHSM2's races depends on it, so a lock that cannot be had, or is held too long, is done without.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield  # who loads it tells why
        return
    try:
        _wait_for_turn(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # drops the lock


@contextmanager
def mapped(name: str) -> Iterator[None]:
    """Turn errors of the token into ours. `name`: the key reference.

    Raises:
        PassphraseError: the PIN is wrong, locked or expired.
        KeyNotFoundError: token or key are not there.
        UsageError: several tokens fit.
        KeyServiceError: anything else.
    """
    p11 = package()
    try:
        yield
    except p11.PKCS11Error as error:
        raise _ours(p11, error, name) from error


def wrong_pin(name: str) -> PassphraseError:
    """Return the error for a PIN that does not open the token."""
    return PassphraseError(f"{name}: the PIN does not open the token", hint=_PIN_HINT)


def _wait_for_turn(descriptor: int, path: str) -> None:
    deadline = time.monotonic() + _TURN_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks
        time.sleep(_LOOK_SECONDS)
    _logger.info("another process has locked %s for %.0f s; going on without", path, _TURN_SECONDS)


def _ours(p11: ModuleType, error: Exception, name: str) -> PipecryptError:
    if isinstance(error, p11.PinIncorrect | p11.PinInvalid | p11.PinLenRange):
        return wrong_pin(name)
    if isinstance(error, p11.PinLocked | p11.PinExpired):
        return PassphraseError(f"{name}: the PIN of the token is locked or expired", hint="ask its security officer")
    if isinstance(error, p11.NoSuchToken | p11.TokenNotPresent | p11.TokenNotRecognised | p11.DeviceRemoved):
        return KeyNotFoundError(
            f"{name}: there is no such token", hint="check token and serial, and that it is plugged in"
        )
    if isinstance(error, p11.MultipleTokensReturned):
        return UsageError(f"{name}: several tokens fit", hint="add serial= to the reference")
    # The text of the library's errors may hold anything; its class is one of a closed list.
    return KeyServiceError(
        f"{name}: the token failed or refused: {type(error).__name__}",
        hint="check that the key allows the operation (CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN), and the token itself",
    )
