"""What a reader says about signatures: whom to trust, how much to check. Checking: signed_dataset, file_check.

`PIPECRYPT_TRUST` holds what `trust` would, separated by white space. It stands for a whole process, so it is looked at
again whenever something is opened: a reader that was made before it was set must not go on unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from pipecrypt.dataset.opening.accepted_versions import VersionMemory
from pipecrypt.dataset.opening.requirements import Requirements, VerifyMode, parse_mode
from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.trust import TrustedKeys

__all__ = ["NO_CHECKS", "TRUST_VARIABLE", "Checks", "TrustOptions", "trust_options"]

TRUST_VARIABLE: Final = "PIPECRYPT_TRUST"
_HINT: Final = f"name the public keys of who signs: trust, --trust or {TRUST_VARIABLE}"
_DATASET_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustOptions:
    """What a caller gave, as texts.

    Args:
        trust: PEM files, PEM texts or key references; None: those of the environment.
        threshold: how many different parties must have signed: each text is one.
        mode: how much is checked.
        min_version: lowest version that is accepted.
        dataset_id: of the dataset that is meant; None for whichever is there.
    """

    trust: tuple[str, ...] | None = None
    threshold: int = 1
    mode: VerifyMode = VerifyMode.READ
    min_version: int = 1
    dataset_id: str | None = None

    def completed(self, environ: Mapping[str, str]) -> Self:
        """Return the options with the keys of the environment, where the caller named none.

        Raises:
            UsageError: something is demanded of signatures, and no key is trusted.
        """
        if self.trust is not None:
            return self
        texts = tuple(environ.get(TRUST_VARIABLE, "").split())
        demanded = self.threshold != 1 or self.min_version != 1 or self.dataset_id is not None
        if not texts and (demanded or self.mode is VerifyMode.FULL):
            what = 'verify="full"' if self.mode is VerifyMode.FULL else "what a statement must say"
            raise UsageError(f"{what} is asked for, and no key is trusted", hint=_HINT)
        return replace(self, trust=texts)

    def checks(self, environ: Mapping[str, str], credentials: Credentials) -> Checks:
        """Read the trusted keys, and return what is checked.

        Args:
            environ: names trusted keys, where the caller did not, and where accepted versions are remembered.
            credentials: what may hold the secrets of keystores, to prove the public keys in them; nobody is asked.

        Raises:
            UsageError: a text holds no public key, or the options contradict each other.
            KeyReferenceError: a key reference is malformed, or has an unknown scheme.
            AccessError: a key reference names no key, or its keystore is not opened by the secret at hand.
            IntegrityError: a keystore was changed by somebody without its secret.
        """
        completed = self.completed(environ)
        if self.mode is VerifyMode.OFF or not completed.trust:
            return Checks(mode=self.mode)
        return Checks(completed.requirements(VersionMemory.of_user(environ), credentials), self.mode)

    def requirements(self, memory: VersionMemory | None, credentials: Credentials) -> Requirements:
        """Read the trusted keys, and return what must hold of a statement.

        Args:
            memory: what was accepted before; None to remember nothing.
            credentials: as for `checks`.

        Raises:
            UsageError: no key is trusted, or a text holds no public key; the rest as `checks`.
        """
        if not self.trust:
            raise UsageError("no key is trusted, so nothing can be verified", hint=_HINT)
        return Requirements(
            trust=TrustedKeys.of(self.trust, threshold=self.threshold, credentials=credentials),
            min_version=self.min_version,
            dataset_id=self.dataset_id,
            memory=memory,
        )


def trust_options(
    trust: Sequence[str] | None = None,
    *,
    threshold: int = 1,
    verify: str = VerifyMode.READ.value,
    min_version: int = 1,
    dataset_id: str | None = None,
) -> TrustOptions:
    """Check what a caller gave; no key is read.

    Raises:
        UsageError: an option is malformed.
    """
    if trust is not None:
        _check_trust(trust)
    for what, number in (("the threshold", threshold), ("the lowest version", min_version)):
        if type(number) is not int or number < 1:
            raise UsageError(f"{what} is {number!r}", hint="give a whole number from 1")
    return TrustOptions(
        trust=None if trust is None else tuple(trust),
        threshold=threshold,
        mode=parse_mode(verify),
        min_version=min_version,
        dataset_id=None if dataset_id is None else _checked_id(dataset_id),
    )


def _checked_id(dataset_id: object) -> str:
    text = dataset_id.lower() if isinstance(dataset_id, str) else ""
    if _DATASET_ID.fullmatch(text) is None:
        raise UsageError(f"{dataset_id!r} is not a dataset id", hint="it has 32 hex digits, as in the report of verify")
    return text


def _check_trust(trust: object) -> None:
    is_list = isinstance(trust, Iterable) and not isinstance(trust, str | bytes)
    if not is_list or not all(isinstance(each, str) for each in trust):  # type: ignore[attr-defined]
        raise UsageError("trust is a list of public keys", hint='write trust=["signing.pub"]')
    if not trust:
        # A list that a program filled with nothing must not turn the checks off.
        raise UsageError("trust names no public key", hint='leave it out, or write verify="off"')
