"""What a reader's trust comes to once its keys were read: what must hold of a statement, and how much is compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.trust import TRUST_HINT, Trust, VerifyMode
from pipecrypt.errors import IntegrityError, UncheckedWarning, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.vocabulary.clock import utc_now
from pipecrypt.vocabulary.once import mark_given, was_given

__all__ = ["NO_CHECKS", "UNCHECKED", "Checks", "Requirements", "checks_of", "requirements_of", "warn_unchecked"]

UNCHECKED: Final = "authenticity was not checked: no public key to trust was given"
_UNCHECKED_HINT: Final = 'pass trust=[...] or set PIPECRYPT_TRUST; trust=Trust(verify="off") silences this'


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What must hold of a statement; can be sent to worker processes.

    Args:
        trust: whose signatures count, and how many.
        min_version: lowest version that is accepted.
        dataset_id: of the dataset that the reader means; None for whichever is there.
        memory: what was accepted here before; None to remember nothing.
        clock: the time in UTC.
        tolerates: errors about the statement's times that do not count; all else must hold all the same.
    """

    trust: TrustedKeys
    min_version: int = 1
    dataset_id: str | None = None
    memory: VersionMemory | None = None
    clock: Callable[[], datetime] = utc_now
    tolerates: frozenset[type[IntegrityError]] = frozenset()


@dataclass(frozen=True, slots=True)
class Checks:
    """What a reader checks; can be sent to worker processes.

    Args:
        requirements: what must hold of a statement; None where none is looked for.
        mode: how much of each file is compared.
    """

    requirements: Requirements | None = None
    mode: VerifyMode = VerifyMode.READ

    @property
    def warns(self) -> bool:
        """Whether a person should hear that nothing shows who wrote the data."""
        return self.requirements is None and self.mode is not VerifyMode.OFF


NO_CHECKS: Final = Checks()


def checks_of(trust: Trust, environ: Mapping[str, str], credentials: Credentials) -> Checks:
    """Read the trusted keys, and return what is checked.

    Args:
        trust: as the caller said it.
        environ: names trusted keys, where the caller did not, and where accepted versions are remembered.
        credentials: what may hold the secrets of keystores, to prove the public keys in them; nobody is asked.

    Raises:
        UsageError: a text holds no public key, or something is demanded of signatures and no key is trusted.
        KeyReferenceError: a key reference is malformed, or has an unknown scheme.
        AccessError: a key reference names no key, or its keystore is not opened by the secret at hand.
        IntegrityError: a keystore was changed by somebody without its secret.
    """
    completed = trust.completed(environ)
    if trust.mode is VerifyMode.OFF or not completed.keys:
        return Checks(mode=trust.mode)
    return Checks(requirements_of(completed, VersionMemory.of_user(environ), credentials), trust.mode)


def requirements_of(trust: Trust, memory: VersionMemory | None, credentials: Credentials) -> Requirements:
    """Read the trusted keys, and return what must hold of a statement.

    Args:
        trust: with its keys, see `Trust.completed`.
        memory: what was accepted before; None to remember nothing.
        credentials: as for `checks_of`.

    Raises:
        UsageError: no key is trusted, or a text holds no public key; the rest as `checks_of`.
    """
    if not trust.keys:
        raise UsageError("no key is trusted, so nothing can be verified", hint=TRUST_HINT)
    return Requirements(
        trust=TrustedKeys.of(trust.keys, threshold=trust.threshold, credentials=credentials),
        min_version=trust.min_version,
        dataset_id=trust.dataset_id,
        memory=memory,
    )


def warn_unchecked() -> None:
    """Warn once per process that encrypted data is used and nobody asked who signed it."""
    if was_given(UNCHECKED):
        return
    # Remembered behind the warning: where warnings are errors, every read fails, not only the first.
    warnings.warn(f"{UNCHECKED}: {_UNCHECKED_HINT}", UncheckedWarning, stacklevel=3)
    mark_given([UNCHECKED])
