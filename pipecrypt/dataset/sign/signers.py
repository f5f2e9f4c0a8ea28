"""The signing keys of one run: opened before the first file, wiped at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.sign.records import SigningOptions
from pipecrypt.dataset.statement.envelope import PAYLOAD_TYPE, encode_envelope, message_to_sign, parse_envelope
from pipecrypt.dataset.statement.manifest import Manifest, encode_statement
from pipecrypt.errors import ExpiredError, FutureStatementError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.public_keys import VersionKey
from pipecrypt.keys.service import Wipeable
from pipecrypt.keys.signers import LocalSigner, Signer, make_signatures, open_signer, read_version_keys
from pipecrypt.keys.trust import Party, TrustedKeys
from pipecrypt.vocabulary.clock import utc_now
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["OpenSigners"]


class OpenSigners:
    """Opened signing keys; a context manager that wipes them.

    Args:
        options: which keys, and how they sign.
        credentials: what opens them.
        memory: the versions that this user accepted before; None to remember nothing.
        clock: gives the time in UTC.

    Raises:
        KeyReferenceError: a reference is none, or has an unknown scheme.
        UsageError: a key signs nothing, or two references name one key.
        AccessError: a key is missing, or the credentials do not open it.
        IntegrityError: a key was changed after it was stored.
    """

    def __init__(
        self,
        options: SigningOptions,
        credentials: Credentials,
        memory: VersionMemory | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Open all of them."""
        self.options = options
        self.memory = memory and replace(memory, accept_future_statement=options.accept_future_statement)
        self._clock = clock
        self._credentials = credentials
        self._signers: list[Signer] = []
        try:
            for reference in options.key_references:
                signer = open_signer(reference, credentials)
                # make_signatures would say so too, but only when everything is written.
                is_twice = signer.key_id in self.key_ids
                self._signers.append(signer)
                if is_twice:
                    raise UsageError(f"{reference} is to sign twice", hint="name each signing key once")
        except BaseException:
            self.close()
            raise

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the public keys, in the order of the references."""
        return tuple(signer.key_id for signer in self._signers)

    def now(self) -> datetime:
        """Return the time in UTC, in whole seconds as statements have it."""
        return self._clock().replace(microsecond=0)

    def trust(self) -> TrustedKeys:
        """Return the trust in what any of these keys signed, and any earlier version of one.

        Those of a keystore were proven when it was opened: what its file says now, or to others, widens nothing.
        """
        keys: list[Party] = []
        for signer, reference in zip(self._signers, self.options.key_references, strict=True):
            keys.append(PublicKey(signer.public_key_pem))
            keys.append(_earlier_versions(signer, reference, self._credentials))
        return TrustedKeys(keys)

    def requirements(self) -> Requirements:
        """Return what must hold of the version that the next one follows."""
        is_future_accepted = self.options.accept_future_statement
        return Requirements(
            trust=self.trust(),
            memory=self.memory,
            clock=self.now,
            tolerates=frozenset({ExpiredError, FutureStatementError} if is_future_accepted else {ExpiredError}),
        )

    def seal(self, manifest: Manifest) -> bytes:
        """Return the signed envelope of a manifest.

        Raises:
            UsageError: a statement cannot hold it.
            KeyServiceError: a service failed, refused, or returned no signature of its key.
        """
        try:
            statement = encode_statement(manifest)
        except DocumentError as error:
            raise UsageError(
                f"this cannot be signed: {error}", hint="encrypt fewer columns, or give a default"
            ) from error
        return self.seal_payload(statement, PAYLOAD_TYPE)

    def seal_payload(self, payload: bytes, payload_type: str) -> bytes:
        """Return the signed envelope of a payload.

        Raises:
            KeyServiceError: a service failed, refused, or returned no signature of its key.
        """
        signatures = make_signatures(self._signers, message_to_sign(payload, payload_type=payload_type))
        return encode_envelope(payload, signatures, payload_type=payload_type)

    def open_payload(self, envelope: bytes, payload_type: str) -> bytes:
        """Return what one of these keys, or an earlier version of one, signed.

        Raises:
            IntegrityError: no envelope, or of another type of payload.
            NotTrustedError: none of these keys signed it.
        """
        untrusted = parse_envelope(envelope, payload_type=payload_type)
        self.trust().verify(message_to_sign(untrusted.payload, payload_type=payload_type), untrusted.signatures)
        return untrusted.payload

    def close(self) -> None:
        """Wipe the keys. Safe to call twice."""
        for signer in self._signers:
            if isinstance(signer, Wipeable):
                signer.wipe()

    def __enter__(self) -> Self:
        """Return the signers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the keys."""
        self.close()


def _earlier_versions(signer: Signer, reference: str, credentials: Credentials) -> tuple[VersionKey, ...]:
    if isinstance(signer, LocalSigner):
        return signer.earlier
    try:
        return read_version_keys(reference, credentials=credentials).keys
    except UsageError:
        return ()  # a service that shows no public key without opening the private one, as of pem://
