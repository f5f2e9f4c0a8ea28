"""Whom a reader trusts: parties, and how many of them must have signed.

Only the reader names keys. Nothing in a statement or a dataset adds one, chooses an algorithm or lowers the number.
A party is what the reader named: a key reference, a PEM file or a PEM text, with all keys and versions that it holds.
Each has one vote. Two that share a key are one party: its holder is the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self, TypeAlias

from pipecrypt.crypto.signature import PublicKey, Signature
from pipecrypt.errors import IntegrityError, NotTrustedError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.public_keys import VersionKey, parse_version_keys, read_public_file
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.service import known_schemes
from pipecrypt.keys.signers import SigningServices, read_version_keys
from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.printable import quoted

__all__ = ["MAX_SIGNATURES", "MAX_TRUSTED_KEYS", "Approval", "Party", "TrustedKeys"]

# At worst each signature is tried with each key: some seconds, of which a stranger who writes signatures decides.
MAX_SIGNATURES: Final = 64
MAX_TRUSTED_KEYS: Final = 1024
_SHOWN_CHARACTERS: Final = 64
_SHOWN_IGNORED: Final = 4
_PEM: Final = "pem"
_MAX_PATH_CHARACTERS: Final = 4096
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+=_-][A-Za-z0-9+/=_-]{31,}")  # in base64 or hexadecimal
_logger = logging.getLogger(__name__)
# One key, or all keys that one holder has.
Party: TypeAlias = PublicKey | tuple[VersionKey, ...]


@dataclass(frozen=True, slots=True)
class Approval:
    """Who signed a message.

    Args:
        key_ids: of the trusted keys that did and count, each once, in the order of the signatures.
        ignored: the key ids that the other signatures claim; whatever they say is not authenticated.
        retired: of the trusted keys that did, and were retired by then.
    """

    key_ids: tuple[str, ...]
    ignored: tuple[str, ...]
    retired: tuple[str, ...] = ()


class TrustedKeys:
    """Parties that the reader trusts, and how many of them must have signed. Can be sent to worker processes.

    Args:
        parties: those that share a key are one.
        threshold: how many different ones must have signed.

    Raises:
        UsageError: there is no key, there are too many, or the threshold cannot be met.
    """

    __slots__ = ("_keys", "_parties", "_party_of", "threshold")

    def __init__(self, parties: Sequence[Party], *, threshold: int = 1) -> None:
        """Keep each key once, with the earliest time of its retirement."""
        named = [(VersionKey(each),) if isinstance(each, PublicKey) else each for each in parties]
        self._keys: Mapping[str, VersionKey] = MappingProxyType(_each_once(named))
        if not self._keys:
            raise UsageError("no key is trusted", hint="name a public key in PEM, or a key reference")
        if len(self._keys) > MAX_TRUSTED_KEYS:
            raise UsageError(
                f"{len(self._keys)} keys are trusted, more than {MAX_TRUSTED_KEYS}",
                hint="trust PEM files with the public keys that still count",
            )
        self._parties = _joined([[each.key.key_id for each in party] for party in named])
        self._party_of = {key_id: number for number, party in enumerate(self._parties) for key_id in party}
        if not 1 <= threshold <= len(self._parties):
            raise UsageError(
                f"{threshold} signatures are asked for, and {len(self._parties)} different parties are trusted"
                + _why_fewer(len(named), len(self._parties)),
                hint="ask for at least one, and for no more than there are parties; each key reference or PEM file is "
                "one, whatever keys it holds",
            )
        self.threshold: Final = threshold

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        *,
        credentials: Credentials,
        threshold: int = 1,
        services: SigningServices | None = None,
    ) -> Self:
        """Return the trust in what the reader named: each text is one party.

        Args:
            texts: each the path of a PEM file with one or several public keys, such a text itself, or a key reference
                (`keystore://keys.json#signing`), in all its versions. What is read from a keystore without its secret
                is only as trustworthy as who can write the file, and a warning says so.
            credentials: what may hold the secrets of keystores; nobody is asked.
            threshold: how many different parties must have signed.
            services: signing services by scheme that are asked before the built-in ones; for tests and embedders.

        Raises:
            UsageError: a text holds no public key, or a private one; or the threshold cannot be met.
            KeyReferenceError: a key reference is malformed, or has an unknown scheme.
            AccessError: a key reference names no key, or its keystore is not opened by the secret at hand.
            IntegrityError: a keystore was changed by somebody without its secret.
        """
        return cls([_read(text, services, credentials) for text in texts], threshold=threshold)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all trusted keys, in the order in which they were named."""
        return tuple(self._keys)

    @property
    def texts(self) -> tuple[str, ...]:
        """The parties as PEM texts: `TrustedKeys.of` trusts the same under them, whatever the credentials."""
        return tuple("".join(self._keys[key_id].text for key_id in party) for party in self._parties)

    def verify(
        self, message: bytes, signatures: Sequence[Signature], signed_at: Callable[[], datetime] | None = None
    ) -> tuple[str, ...]:
        """Return the ids of the trusted keys that signed `message`; otherwise as `examine`."""
        return self.examine(message, signatures, signed_at).key_ids

    def examine(
        self, message: bytes, signatures: Sequence[Signature], signed_at: Callable[[], datetime] | None = None
    ) -> Approval:
        """Return who signed `message`. The caller still owes that the message is the one it asked for.

        What holds when it returns: (1) there were no more than `MAX_SIGNATURES` signatures; (2) each key that is named
        is a trusted one; (3) it verified one of the signatures, by the algorithm that belongs to the key; (4) it is
        named once, however often it signed; (5) it was not retired when the message says that it was signed; (6) the
        keys that are named belong to at least `threshold` parties. The key id in a signature is a hint which key to try
        first. Signatures that no trusted key verifies change nothing, and are reported.

        Args:
            message: what was signed.
            signatures: of it.
            signed_at: reads from the message when it was signed, in UTC; called only after a retired key was found to
                have signed it. None for messages that do not say: then no retired key counts.

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
                _logger.info(
                    "no trusted key made the signature of %s; it is ignored",
                    quoted(signature.key_id),
                )
            else:
                signed[key_id] = None  # (4)
        retired = self._retired_by_then(signed, signed_at)  # (5)
        counting = tuple(key_id for key_id in signed if key_id not in retired)
        votes = {self._party_of[key_id] for key_id in counting}
        if len(votes) < self.threshold:  # (6)
            raise self._refusal(len(signatures), len(votes), ignored, retired)
        return Approval(counting, tuple(ignored), retired)

    def __eq__(self, other: object) -> bool:
        """Compare parties and threshold."""
        return isinstance(other, TrustedKeys) and self._compared() == other._compared()

    def __hash__(self) -> int:
        """Hash parties and threshold."""
        return hash(self._compared())

    def __repr__(self) -> str:
        """Show how many of how many."""
        return f"<TrustedKeys {self.threshold} of {len(self._parties)}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the keys: workers verify too."""
        parties = tuple(tuple(self._keys[key_id] for key_id in party) for party in self._parties)
        return partial(TrustedKeys, threshold=self.threshold), (parties,)

    def _compared(self) -> tuple[object, ...]:
        retired = frozenset((key_id, each.retired) for key_id, each in self._keys.items())
        return retired, frozenset(map(frozenset, self._parties)), self.threshold

    def _retired_by_then(self, signed: Iterable[str], signed_at: Callable[[], datetime] | None) -> tuple[str, ...]:
        ends = {key_id: end for key_id in signed if (end := self._keys[key_id].retired) is not None}
        if not ends or signed_at is None:
            return tuple(ends)
        moment = signed_at()
        return tuple(key_id for key_id, end in ends.items() if moment > end)

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
            yield first.key
        yield from (each.key for each in self._keys.values() if each is not first)

    def _refusal(self, given: int, votes: int, ignored: list[str], retired: tuple[str, ...]) -> NotTrustedError:
        if not given:
            return NotTrustedError("there is no signature")
        if retired and (since := self._keys[retired[0]].retired) is not None:
            shown = f"{quoted(retired[0])} signed it, and is retired since {utc_text(since)}"
            return NotTrustedError(
                f"{votes} of {self.threshold} trusted parties signed; {shown}",
                hint="what it signed before counts, where it says so: take the newest version from its writer",
            )
        shown = ", ".join(quoted(key_id, most=_SHOWN_CHARACTERS) for key_id in ignored[:_SHOWN_IGNORED])
        more = ", ..." if len(ignored) > _SHOWN_IGNORED else ""
        others = f"; no trusted key made those that claim to be of {shown}{more}" if ignored else ""
        return NotTrustedError(f"{votes} of {self.threshold} trusted parties signed{others}")


def _each_once(parties: Iterable[Iterable[VersionKey]]) -> dict[str, VersionKey]:
    keys: dict[str, VersionKey] = {}
    for each in (each for party in parties for each in party):
        known = keys.setdefault(each.key.key_id, each)
        if each.retired is not None and (known.retired is None or each.retired < known.retired):
            keys[each.key.key_id] = each  # wherever it was said: a copy without the line brings no key back
    return keys


def _joined(named: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the parties as key ids, those that share one as one."""
    parties: list[dict[str, None]] = []
    for key_ids in named:
        party = dict.fromkeys(key_ids)
        for other in [each for each in parties if not each.keys().isdisjoint(party)]:
            parties.remove(other)
            party = {**other, **party}
        if party:
            parties.append(party)
    return tuple(map(tuple, parties))


def _why_fewer(named: int, parties: int) -> str:
    return f": {named} were named, and some of them share a key" if parties < named else ""


def _read(text: str, services: SigningServices | None, credentials: Credentials) -> tuple[VersionKey, ...]:
    if "-----BEGIN" in text:
        return parse_version_keys(text, "the text given as trusted key")
    if not _is_reference(text):
        return _read_file(Path(text), _path_name(text))
    reference = parse_key_reference(text)
    if reference.scheme == _PEM:  # names a file as its path does; a private key in it is refused
        reference.check_options()
        return _read_file(reference.local_path, f"public key file {text}")
    return read_version_keys(reference, credentials=credentials, services=services).keys


def _read_file(path: Path, name: str) -> tuple[VersionKey, ...]:
    return parse_version_keys(read_public_file(path, name), name)


def _is_reference(text: str) -> bool:
    # `pkcs11:object=a` is a reference; a file may have a colon in its name.
    return "://" in text or text.partition(":")[0].lower() in known_schemes()


def _path_name(text: str) -> str:
    # Somebody may have passed a private key, or its body alone, which no error may repeat.
    if not text.isprintable() or len(text) > _MAX_PATH_CHARACTERS or _LIKE_A_KEY.fullmatch(text):
        return f"the text of {len(text)} characters given as public key file"
    return f"public key file {text or '(no name)'}"
