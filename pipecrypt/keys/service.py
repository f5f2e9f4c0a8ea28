"""What a key service is, and how one is found by its scheme.

A key service is one file with one `SERVICE` object. Those of pipecrypt are the files of `schemes/`; others are named in
the entry point group `pipecrypt.key_services` under their scheme. Its master keys never leave it. More power than a
protocol asks for is a second, optional protocol; the powers to sign are in `signers`. This file is the door for authors
of plug-ins: all that they need beside `pipecrypt.errors` can be imported from it.
"""

from __future__ import annotations

import difflib
import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Final, Protocol, TypeAlias, cast, runtime_checkable

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import (
    IntegrityError,
    KeyReferenceError,
    KeyServiceError,
    MissingExtraError,
    PipecryptError,
    RetiredKeyError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference, parse_key_reference
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.once import warn_once
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = [
    "Context",
    "Credentials",
    "DataKey",
    "ExplicitKeys",
    "FindsKeys",
    "KeyReference",
    "KeyService",
    "KeyServices",
    "MasterKey",
    "SealingMasterKey",
    "Wipeable",
    "WrappingMasterKey",
    "WrapsKeys",
    "bind_to_master_key",
    "check_key_exists",
    "check_key_reference",
    "find_key_ids",
    "join_parts",
    "known_schemes",
    "list_sibling_keys",
    "load_key_service",
    "mapped_errors",
    "open_key_reference",
    "provided_key_service",
]

_GROUP: Final = "pipecrypt.key_services"
_logger = logging.getLogger(__name__)
# The schemes of pipecrypt itself, each the file of that name in `schemes/`. No plug-in takes over one of them.
_BUILT_IN: Final = frozenset(
    {"aws-kms", "azure-kv", "gcp-kms", "keystore", "pem", "pkcs11", "recipient", "static", "vault"}
)

_PROVIDED: Final[dict[str, object]] = {}  # by scheme, for as long as a test provides it


@runtime_checkable
class MasterKey(Protocol):
    """A key that wraps key encryption keys and never leaves its service.

    What else a master key may have is asked for by name, and counts as absent where it is not there::

        earlier_versions() -> tuple[MasterKey, ...]    versions before it, which still unwrap, each with its own id
        opens_for(master_key_id) -> bool               the id is that of this key, or of a copy of it elsewhere
        opens_here: bool                               it opens keys in this process: asking it costs no service call
        seals_only: bool                               it is a public key: it makes keys, and `unwrap_key` refuses

    `wrap_key` and `wipe` are the protocols WrapsKeys and Wipeable.
    """

    @property
    def id(self) -> str:
        """What data files store: stable and unique, never a path of this machine."""

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form, bound to `context`; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
        """

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
            IntegrityError: `wrapped` was not made by this master key for `context`.
        """


@runtime_checkable
class Wipeable(Protocol):
    """A second power of a MasterKey or ExplicitKeys: it holds key bytes in this process."""

    def wipe(self) -> None:
        """Wipe them; the session calls it when it closes."""


@runtime_checkable
class WrapsKeys(Protocol):
    """A second power of a MasterKey: it wraps keys that exist, so that a KEK can have several master keys."""

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the form of a 256-bit key that `unwrap_key` opens for the same context; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
        """


@runtime_checkable
class ExplicitKeys(Protocol):
    """Keys that the user lists for files of other writers. It only opens files."""

    def find_key(self, key_metadata: bytes, context: Context) -> DataKey | None:
        """Return the data key listed for `key_metadata` (b"" where the file stores none), or None."""

    def unwrap_named(self, wrapped: str, master_key_id: str) -> DataKey | None:
        """Return the key wrapped under the listed master key, or None if that is not listed.

        Raises:
            IntegrityError: `wrapped` was not made by that master key.
        """


@runtime_checkable
class KeyService(Protocol):
    """What a scheme stands for: keys that encrypt or open files. The powers to sign are in `signers`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> MasterKey | ExplicitKeys:
        """Return the key that `reference` names; a missing key or wrong passphrase shows here.

        Raises:
            KeyReferenceError: the reference lacks a part or has one too many.
            AccessError: the key is missing, or the credentials do not open it.
        """


@runtime_checkable
class FindsKeys(Protocol):
    """A second power of a KeyService: it sees whether a key is there, without a call elsewhere and asking nobody.

    Where the secret is at hand, what it sees is authenticated; where not, it decides of nothing that a writer accepts.
    """

    def check_exists(self, reference: KeyReference, credentials: Credentials, *, signs: bool) -> str | None:
        """Pass if a key is there, and return why nothing proves that; None where all is proven that there is to prove.

        Args:
            reference: names the key.
            credentials: what may hold the secret.
            signs: whether a signing key is due; else one that encrypts.

        Raises:
            KeyReferenceError: the reference lacks a part or has one too many.
            AccessError: the key is missing; the hint names the command that makes it. Or a secret at hand is wrong.
            DamagedKeystoreError: where it lies was changed by somebody without the secret.
            UsageError: the key is for something else.
        """

    def siblings(self, reference: KeyReference, credentials: Credentials) -> tuple[KeyReference, ...]:
        """Return references to the other keys that encrypt and lie at the same place; none where nobody can tell."""

    def known_ids(self, reference: KeyReference, credentials: Credentials) -> frozenset[str] | None:
        """Return the master key ids of all versions of a key; None where that takes a secret."""


KeyServices: TypeAlias = Mapping[str, KeyService]


class WrappingMasterKey(ABC):
    """A master key whose service makes no keys: they are made in this process, and wrapped there.

    Args:
        key_id: what data files store.
    """

    __slots__ = ("_id",)

    def __init__(self, key_id: str) -> None:
        """Keep it."""
        self._id = key_id

    @property
    def id(self) -> str:
        """What data files store."""
        return self._id

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key, which the caller wipes, and its wrapped form; as many calls as `wrap_key`."""
        key = DataKey(random_bytes(DATA_KEY_BYTES))
        try:
            return key, self.wrap_key(key, context)
        except BaseException:
            key.wipe()
            raise

    @abstractmethod
    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already, bound to `context`."""

    def __repr__(self) -> str:
        """Show the id."""
        return f"<{type(self).__name__} {self.id}>"


class SealingMasterKey(WrappingMasterKey):
    """A master key that seals KEKs bound to its label, its id and the context; see `bind_to_master_key`.

    Args:
        key_id: what data files store.
        earlier: the versions before it.
        is_retired: it opens what it sealed, and seals nothing more.
    """

    __slots__ = ("_earlier", "_is_retired")

    label: ClassVar[bytes]
    opens_here: ClassVar[bool] = True

    def __init__(self, key_id: str, earlier: tuple[MasterKey, ...] = (), *, is_retired: bool = False) -> None:
        """Keep them."""
        super().__init__(key_id)
        self._earlier = earlier
        self._is_retired = is_retired

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the sealed form of a key that exists already.

        Raises:
            RetiredKeyError: this version is retired.
        """
        if self._is_retired:
            raise RetiredKeyError(f"the newest version of master key {self._id} is retired")
        return self._seal(key.expose_key_bytes(), bind_to_master_key(self.label, self._id, context))

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
        """
        try:
            return DataKey(self._open(wrapped, bind_to_master_key(self.label, self._id, context)))
        except (IntegrityError, ValueError) as error:
            raise IntegrityError(
                f"the key encryption key was not wrapped by master key {self._id} for this dataset"
            ) from error

    def earlier_versions(self) -> tuple[MasterKey, ...]:
        """Return the versions before it."""
        return self._earlier

    @abstractmethod
    def _seal(self, key_bytes: bytearray, info: bytes) -> bytes: ...

    @abstractmethod
    def _open(self, sealed: bytes, info: bytes) -> bytes: ...


def bind_to_master_key(label: bytes, master_key_id: str, context: Context) -> bytes:
    """Return what is bound to a KEK: AAD, or the info of a seal. It begins with a label of the service.

    So no two services make the same text::

        part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x
    """
    return join_parts(label, master_key_id.encode()) + context.key_binding()


def join_parts(*parts: bytes) -> bytes:
    """Return an injective encoding of byte strings: each is preceded by its length."""
    return b"".join(b"%08x" % len(part) + part for part in parts)


def open_key_reference(
    reference: str | KeyReference, credentials: Credentials, *, services: KeyServices | None = None
) -> MasterKey | ExplicitKeys:
    """Open the key that a reference names.

    Args:
        reference: the key reference, as text or parsed.
        credentials: what opens the key service.
        services: key services by scheme that are asked before the built-in ones; for tests and embedders.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
        UsageError: keys of the scheme only sign.
        AccessError: the key is missing, or the credentials do not open it.
    """
    reference = parse_key_reference(reference)
    service = load_key_service(reference, services)
    if not isinstance(service, KeyService):
        raise UsageError(
            f"keys of {reference.scheme}:// encrypt nothing: {reference.text}",
            hint="encrypt under a master key, such as keystore:///path/keys.json#name",
        )
    return service.open_key(reference, credentials)


def check_key_reference(text: str | KeyReference) -> KeyReference:
    """Parse a key reference and check that its scheme exists; nothing is opened.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
    """
    reference = parse_key_reference(text)
    if reference.scheme not in {*_BUILT_IN, *_PROVIDED} and reference.scheme not in _plugged_in():
        raise _unknown_scheme(reference)
    return reference


def check_key_exists(text: str | KeyReference, credentials: Credentials, *, signs: bool) -> None:
    """Pass if a key is there, as far as its service sees that without a call. What nothing proves is warned about.

    Args:
        text: the key reference.
        credentials: what may hold the secret; nobody is asked.
        signs: whether a signing key is due; else one that encrypts.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
        AccessError: the key is missing; the hint names the command that makes it. Or a secret at hand is wrong.
        DamagedKeystoreError: where it lies was changed by somebody without the secret.
        UsageError: the key is for something else.
    """
    reference = parse_key_reference(text)
    service = load_key_service(reference)
    doubt = service.check_exists(reference, credentials, signs=signs) if isinstance(service, FindsKeys) else None
    if doubt is not None:
        warn_once(_logger, "nothing proves what was found of keys: %s", doubt)


def list_sibling_keys(text: str | KeyReference, credentials: Credentials) -> tuple[str, ...]:
    """Return references to the other keys that encrypt and lie at the same place, spelled as this one is.

    Nobody is asked for a secret; what is at hand authenticates them. Where a key service cannot tell, there are none.
    """
    reference = parse_key_reference(text)
    service = load_key_service(reference)
    if not isinstance(service, FindsKeys):
        return ()
    return tuple(each.text for each in service.siblings(reference, credentials))


def find_key_ids(text: str | KeyReference, credentials: Credentials) -> frozenset[str] | None:
    """Return the master key ids of all versions of a key, as `list_sibling_keys`; None where that takes a secret."""
    reference = parse_key_reference(text)
    service = load_key_service(reference)
    return service.known_ids(reference, credentials) if isinstance(service, FindsKeys) else None


def known_schemes() -> tuple[str, ...]:
    """Return the schemes of all key services installed here."""
    return tuple(sorted({*_BUILT_IN, *_PROVIDED, *_plugged_in()}))


def load_key_service(reference: KeyReference, services: Mapping[str, object] | None = None) -> object:
    """Return what stands for a reference's scheme; the caller asks for the power it needs.

    Args:
        reference: names the scheme.
        services: by scheme; they are asked before those installed.

    Raises:
        KeyReferenceError: an unknown scheme.
        MissingExtraError: its plug-in cannot be loaded.
    """
    given = (services or {}).get(reference.scheme)
    if given is not None:
        return given
    if reference.scheme in _BUILT_IN:
        module = importlib.import_module(f"pipecrypt.keys.schemes.{reference.scheme.replace('-', '_')}")
        return cast(object, module.SERVICE)
    if reference.scheme in _PROVIDED:
        return _PROVIDED[reference.scheme]
    entry_point = _plugged_in().get(reference.scheme)
    if entry_point is None:
        raise _unknown_scheme(reference)
    try:
        return cast(object, entry_point.load())
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"the key service for {reference.text} cannot be loaded: {entry_point.value}",
            hint="reinstall the package that brings it, with its extra",
        ) from error


@contextmanager
def provided_key_service(scheme: str, service: object) -> Iterator[None]:
    """Let a scheme of no plug-in stand for a service, in this process and until the block ends; for tests."""
    before = dict(_PROVIDED)
    _PROVIDED[scheme] = service
    try:
        yield
    finally:
        _PROVIDED.clear()
        _PROVIDED.update(before)


@contextmanager
def mapped_errors(what: str) -> Iterator[None]:
    """Let only errors of our own leave a call to a key service; `what` is its key.

    Raises:
        KeyServiceError: in the place of an exception that a plug-in should have mapped. Its text may hold anything, so
            it is not repeated.
    """
    try:
        yield
    except PipecryptError:
        raise
    except Exception as error:
        raise KeyServiceError(f"the key service of {what} failed: {type(error).__name__}") from error


def _plugged_in() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=_GROUP)}


def _unknown_scheme(reference: KeyReference) -> KeyReferenceError:
    schemes = known_schemes()
    close = difflib.get_close_matches(reference.scheme, schemes, n=1)
    hint = f"did you mean {close[0]}://?" if close else f"known schemes: {', '.join(schemes)}"
    return KeyReferenceError(f"key reference {reference.text} has an unknown scheme {reference.scheme!r}", hint=hint)
