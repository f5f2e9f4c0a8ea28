"""Whom a reader trusts: public keys, and how many of them must have signed. What they signed is left to manifest.

Only the reader names keys. Nothing in a statement or a dataset adds one, chooses an algorithm or lowers the number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.crypto.signed import Signature
from pipecrypt.errors import IntegrityError, NotTrustedError, UsageError
from pipecrypt.keys.public_keys import parse_public_keys, read_public_key_file
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.service import known_schemes
from pipecrypt.keys.signers import SigningServices, read_public_keys

__all__ = ["MAX_SIGNATURES", "Approval", "Trust"]

MAX_SIGNATURES: Final = 64
_SHOWN_CHARACTERS: Final = 64
_SHOWN_IGNORED: Final = 4
_PEM: Final = "pem"
_MAX_PATH_CHARACTERS: Final = 4096
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+=_-][A-Za-z0-9+/=_-]{31,}")  # in base64 or hexadecimal
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Approval:
    """Who signed a message.

    Args:
        key_ids: of the trusted keys that did, each once, in the order of the signatures.
        ignored: the key ids that the other signatures claim; whatever they say is not authenticated.
    """

    key_ids: tuple[str, ...]
    ignored: tuple[str, ...]


class Trust:
    """Public keys that the reader trusts, and how many of them must have signed. Can be sent to worker processes.

    Args:
        keys: one key given twice counts once.
        threshold: how many different ones must have signed.

    Raises:
        UsageError: there is no key, or the threshold cannot be met.
    """

    __slots__ = ("_keys", "threshold")

    def __init__(self, keys: Sequence[PublicKey], *, threshold: int = 1) -> None:
        """Keep each key once."""
        self._keys: Mapping[str, PublicKey] = MappingProxyType({key.key_id: key for key in keys})
        if not self._keys:
            raise UsageError("no key is trusted", hint="name a public key in PEM, or a key reference")
        if not 1 <= threshold <= len(self._keys):
            raise UsageError(
                f"{threshold} signatures are asked for, and {len(self._keys)} different keys are trusted",
                hint="ask for at least one, and for no more than there are keys",
            )
        self.threshold: Final = threshold

    @classmethod
    def of(cls, texts: Sequence[str], *, threshold: int = 1, services: SigningServices | None = None) -> Self:
        """Return the trust in what the reader named.

        Args:
            texts: each the path of a PEM file with one or several public keys, such a text itself, or a key reference
                whose public half is read without a secret, in all its versions (`keystore://keys.json#signing`). What
                is read from a keystore is only as trustworthy as who can write the file.
            threshold: how many different keys must have signed.
            services: signing services by scheme that are asked before the built-in ones; for tests and embedders.

        Raises:
            UsageError: a text holds no public key, or a private one; or the threshold cannot be met.
            KeyReferenceError: a key reference is malformed, or has an unknown scheme.
            AccessError: a key reference names no key.
        """
        return cls([key for text in texts for key in _read(text, services)], threshold=threshold)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the trusted keys, in the order in which they were named."""
        return tuple(self._keys)

    @property
    def pems(self) -> tuple[str, ...]:
        """The trusted keys as PEM, in that order: `Trust.of(pems)` trusts the same."""
        return tuple(key.pem for key in self._keys.values())

    def verify(self, message: bytes, signatures: Sequence[Signature]) -> tuple[str, ...]:
        """Return the ids of the trusted keys that signed `message`; otherwise as `examine`."""
        return self.examine(message, signatures).key_ids

    def examine(self, message: bytes, signatures: Sequence[Signature]) -> Approval:
        """Return who signed `message`. The caller still owes that the message is the one it asked for.

        What holds when it returns: (1) there were no more than `MAX_SIGNATURES` signatures; (2) each key that is named
        is a trusted one; (3) it verified one of the signatures, by the algorithm that belongs to the key; (4) it is
        named once, however often it signed; (5) at least `threshold` keys are named. The key id in a signature is a
        hint which key to try first. Signatures that no trusted key verifies change nothing, and are reported.

        Raises:
            NotTrustedError: one of these does not hold.
        """
        if len(signatures) > MAX_SIGNATURES:  # (1) each costs a verification by each key
            raise NotTrustedError(
                f"there are {len(signatures)} signatures, more than {MAX_SIGNATURES}",
                hint="take the statement from its origin again",
            )
        signed: dict[str, None] = {}
        ignored: list[str] = []
        for signature in signatures:
            key_id = self._signer_of(message, signature)  # (2), (3)
            if key_id is None:
                ignored.append(signature.key_id)
                _logger.info("no trusted key made the signature of %s; it is ignored", _shown(signature.key_id))
            else:
                signed[key_id] = None  # (4)
        if len(signed) < self.threshold:  # (5)
            raise self._refusal(len(signatures), len(signed), ignored)
        return Approval(tuple(signed), tuple(ignored))

    def __eq__(self, other: object) -> bool:
        """Compare keys and threshold."""
        return (
            isinstance(other, Trust) and self._keys.keys() == other._keys.keys() and self.threshold == other.threshold
        )

    def __hash__(self) -> int:
        """Hash keys and threshold."""
        return hash((frozenset(self._keys), self.threshold))

    def __repr__(self) -> str:
        """Show how many of how many."""
        return f"<Trust {self.threshold} of {len(self._keys)}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the keys: workers verify too."""
        return _rebuild, (tuple(self._keys.values()), self.threshold)

    def _signer_of(self, message: bytes, signature: Signature) -> str | None:
        for key in self._by_hint(signature.key_id):
            try:
                key.verify(message, signature.value)
            except IntegrityError:
                continue
            return key.key_id
        return None

    def _by_hint(self, hint: str) -> Iterator[PublicKey]:
        first = self._keys.get(hint)
        if first is not None:
            yield first
        yield from (key for key in self._keys.values() if key is not first)

    def _refusal(self, given: int, signed: int, ignored: list[str]) -> NotTrustedError:
        if not given:
            return NotTrustedError("there is no signature")
        shown = ", ".join(_shown(key_id) for key_id in ignored[:_SHOWN_IGNORED])
        more = ", ..." if len(ignored) > _SHOWN_IGNORED else ""
        others = f"; no trusted key made those that claim to be of {shown}{more}" if ignored else ""
        return NotTrustedError(f"{signed} of {self.threshold} trusted keys signed{others}")


def _rebuild(keys: tuple[PublicKey, ...], threshold: int) -> Trust:
    return Trust(keys, threshold=threshold)


def _read(text: str, services: SigningServices | None) -> tuple[PublicKey, ...]:
    if "-----BEGIN" in text:
        return parse_public_keys(text, "the text given as trusted key")
    if not _is_reference(text):
        return read_public_key_file(Path(text), _path_name(text))
    reference = parse_key_reference(text)
    if reference.scheme == _PEM:  # names a file as its path does; a private key in it is refused
        reference.check_options()
        return read_public_key_file(reference.local_path, f"public key file {text}")
    return read_public_keys(text, services=services)


def _is_reference(text: str) -> bool:
    # `pkcs11:object=a` is a reference; a file may have a colon in its name.
    return "://" in text or text.partition(":")[0].lower() in known_schemes()


def _path_name(text: str) -> str:
    # Somebody may have passed a private key, or its body alone, which no error may repeat.
    if not text.isprintable() or len(text) > _MAX_PATH_CHARACTERS or _LIKE_A_KEY.fullmatch(text):
        return f"the text of {len(text)} characters given as public key file"
    return f"public key file {text or '(no name)'}"


def _shown(key_id: str) -> str:
    # Escaped, because the text comes from a file and may hold control sequences of a terminal.
    return ascii(key_id if len(key_id) <= _SHOWN_CHARACTERS else key_id[:_SHOWN_CHARACTERS] + "...")
