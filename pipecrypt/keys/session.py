"""Make and open data keys with the master keys that a caller configured.

A session lives in one worker process. Writing, it makes one KEK per master key with one service call, and wraps any
number of data keys under it. Reading, it unwraps each KEK once. What a file says about keys is a hint: only master
keys of the session's own references are ever asked (GHSA-wqgp-vphw-hphf).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self, TypeAlias

from pipecrypt.crypto.aead import open_sealed, random_bytes
from pipecrypt.crypto.mac import check_commitment
from pipecrypt.errors import (
    AccessError,
    DamagedKeystoreError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import MAX_TRIED, Grant, check_strengths
from pipecrypt.keys.held_keys import HeldKeys, held_keys_of
from pipecrypt.keys.keyring import KEKCache, KEKLimits, Keyring, RequestOrigin, WritingKEKs, WrongKEKs
from pipecrypt.keys.material import (
    MAX_KEY_METADATA_BYTES,
    ExternalMaterial,
    KeyMaterial,
    MaterialReader,
    WrappedKEK,
    dataset_of_kek_text,
    kek_text,
)
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import KeyServices
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import decode_base64, encode_base64
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["FileKeys", "FindGrants", "KeySession"]

# The text of "keyEncryptionKeyID" -> grants of that KEK, whoever wrote them.
FindGrants: TypeAlias = Callable[[str], Iterable[Grant]]


ExternalEntries: TypeAlias = Callable[[], Mapping[str, KeyMaterial] | None]
# KEK, which stays the session's, and data key -> what is asked for.
_Take: TypeAlias = Callable[[DataKey, DataKey], DataKey]

_MAX_REMEMBERED: Final = 1024


class KeySession:
    """The keys of one worker process. Safe to use from several threads; closing it wipes all keys.

    Args:
        references: the key references that this session may use.
        credentials: what opens the key services; used here only, so wrong ones show before the first byte.
        dataset_id: of the dataset that is written, bound into its KEKs. None for a session that reads, or one that
            takes it from each context.
        also: key references of further master keys that each new KEK is wrapped for; see `take_grants`.
        services: key services by scheme that are asked before the built-in ones; for tests and embedders.
        limits: how long a KEK is used before its key service is called again, and how many are kept, or may be wrong.
        clock: a clock that never goes back, in seconds.

    Raises:
        KeyReferenceError: a reference is malformed, or has an unknown scheme.
        AccessError: a key is missing, or the credentials do not open it.
        UsageError: a session with `dataset_id` names a key that only opens files.
    """

    __slots__ = (
        "__weakref__",
        "_calls_taken",
        "_dataset_id",
        "_granted",
        "_keeps_alive",
        "_keyring",
        "_lender",
        "_origin",
        "_own_lock",
        "_reader",
        "_shared_by",
        "_unwrapped",
        "_writing",
    )

    def __init__(
        self,
        references: Sequence[str | KeyReference],
        *,
        credentials: Credentials,
        dataset_id: str | None = None,
        also: Sequence[str | KeyReference] = (),
        services: KeyServices | None = None,
        limits: KEKLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open all references."""
        lender: HeldKeys | None = held_keys_of(credentials) if services is None else None
        self._lender = lender
        self._keeps_alive = credentials if lender is not None else None  # a Session wipes its keys when it is collected
        self._own_lock = threading.RLock()  # as that of a Session
        self._dataset_id = dataset_id
        self._reader = MaterialReader()
        only_reads = limits is None and dataset_id is None and not also
        limits = limits or KEKLimits()
        shared = lender.lend_keks(references) if lender is not None and only_reads else None
        self._unwrapped, wrong = shared or (KEKCache(limits, clock), WrongKEKs(limits, clock))
        # Who finds in a shared cache what this session put there; None where the cache is its own.
        self._shared_by = frozenset(map(str, references)) if shared is not None else None
        self._origin = RequestOrigin()  # of all that comes without a file
        # Master key and wrapped KEK as files name them -> those of the grant that opened it in their place.
        self._granted: dict[tuple[str, str], tuple[str, str]] = {}
        self._keyring = Keyring([*references, *also], credentials, services, wrong, lender)
        self._writing = WritingKEKs(self._keyring, limits, clock, also)
        try:
            if dataset_id is not None or also:  # all of them are to wrap new keys
                ids = [self._keyring.master_key(each).id for each in (*references, *also)]
                check_strengths(ids if also else ())
            if lender is not None:
                lender.add_borrower(self)
        except BaseException:
            self.close()
            raise
        self._calls_taken = self._keyring.service_calls

    @property
    def service_calls(self) -> int:
        """How many calls to key services this session made, failed ones included."""
        return self._keyring.service_calls

    def take_service_calls(self) -> int:
        """Return how many calls were made since the last time, or since the session was opened.

        Of several files that are at work at once, one takes those of all, so that they add up.
        """
        with self._lock:
            before, self._calls_taken = self._calls_taken, self._keyring.service_calls
            return self._calls_taken - before

    @property
    def is_usable(self) -> bool:
        """Whether its keys are there: not where they were lent by a `Session` that was closed meanwhile."""
        return self._keyring.is_usable

    def master_key_id(self, key_reference: str | KeyReference) -> str:
        """Return what data files store of the master key that a reference names.

        Raises:
            UsageError: the reference names keys that only open files.
        """
        with self._lock:
            return self._keyring.master_key(key_reference).id

    def master_key_ids(self) -> tuple[str, ...]:
        """Return the ids of all master keys of this session, earlier versions included."""
        with self._lock:
            return self._keyring.master_key_ids()

    def new_data_key(self, key_reference: str | KeyReference, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit data key and its `key_metadata`; the caller wipes the key.

        Raises:
            KeyServiceError: the key service failed or refused to make a KEK.
            UsageError: the reference names keys that only open files.
        """
        key = DataKey(random_bytes(DATA_KEY_BYTES))
        try:
            with self._lock:
                if self._dataset_id is not None and context.dataset_id not in ("", self._dataset_id):
                    raise RuntimeError("this session writes another dataset")
                key_metadata = self._writing.wrap(key_reference, key, context, self._dataset_id)
        except BaseException:
            key.wipe()
            raise
        return key, key_metadata

    def adopt_data_key(
        self, key_reference: str | KeyReference, key: DataKey, context: Context, dataset_id: str
    ) -> bytes:
        """Return the `key_metadata` of a data key that exists, under a new KEK of this session.

        Args:
            key_reference: of the master key.
            key: the data key.
            context: where it is used; its commitment is made from that, as before.
            dataset_id: that its KEK is bound to; a context without a prefix of ours does not say.

        Raises:
            PipecryptError: as `new_data_key`.
        """
        with self._lock:
            return self._writing.wrap(key_reference, key, context, dataset_id)

    def open_data_key(
        self,
        key_metadata: bytes,
        context: Context,
        *,
        external: ExternalEntries | None = None,
        grants: FindGrants | None = None,
        origin: RequestOrigin | None = None,
    ) -> DataKey:
        """Return the data key that `key_metadata` stands for; the caller wipes it.

        Args:
            key_metadata: as the file has it; b"" where it has none.
            context: what the reader opened.
            external: returns the entries of the file's external key material; see `FileKeys`.
            grants: finds grants of a KEK; asked only where the master key that the file names does not open it.
            origin: the file or message, whose wrong KEKs count against it; None for all that the session is asked
                without one. See `FileKeys`.

        Raises:
            KeyNotFoundError: none of the configured keys fits.
            KeyServiceError: the service knew the key and refused or failed.
            IntegrityError: something does not belong together: KEK, data key, commitment or context.
            DamagedKeystoreError: a keystore of the caller's was changed; no other key is tried instead.
            FormatError: the key metadata is malformed.
        """
        material = self._reader.parse(key_metadata)
        if isinstance(material, ExternalMaterial):
            material = _external_entry(material, external() if external is not None else None)
        if material is None:
            with self._lock:
                return self._keyring.find(key_metadata, context)
        return self._open_material(material, context, grants, origin or self._origin, lambda _, key: key)

    def open_kek(
        self,
        material: KeyMaterial,
        context: Context,
        grants: FindGrants | None = None,
        *,
        origin: RequestOrigin | None = None,
    ) -> DataKey:
        """Return the KEK of a data key, proven by opening that key; the caller wipes it. Else as `open_data_key`."""
        if material.kek is None:
            raise FormatError("the data key has no key encryption key: its master key wrapped it")

        def take(kek: DataKey, key: DataKey) -> DataKey:
            key.wipe()
            return DataKey(kek.expose_key_bytes())

        return self._open_material(material, context, grants, origin or self._origin, take)

    def wrap_kek(self, key_reference: str | KeyReference, kek: DataKey, dataset_id: str) -> str:
        """Return the text of "wrappedKEK" of a KEK that exists, for the master key of one of the references.

        Raises:
            KeyServiceError: the service failed or refused.
            UsageError: the reference names keys that wrap no key that exists.
        """
        with self._lock:
            context = Context(dataset_id=dataset_id, path="")
            return kek_text(dataset_id, self._keyring.wrap(key_reference, kek, context))

    @property
    def grants(self) -> tuple[Grant, ...]:
        """All KEKs made so far, wrapped for the further master keys: one of another file may be in use by this one."""
        with self._lock:
            return self._writing.grants

    def take_grants(self) -> tuple[Grant, ...]:
        """Return the KEKs made since the last call, wrapped for the further master keys; the caller stores them."""
        with self._lock:
            return self._writing.take_grants()

    def unwrap_kek_text(self, wrapped_kek: str, master_key_id: str, origin: RequestOrigin | None = None) -> DataKey:
        """Return the key in a text of "wrappedKEK", or of a singly wrapped "wrappedDEK"; the caller wipes it.

        This is all that a KmsClient of pyarrow sees, so no commitment is checked here.

        Args:
            wrapped_kek: the text.
            master_key_id: as the file names it.
            origin: as for `open_data_key`.

        Raises:
            KeyNotFoundError: the master key is not one of the configured ones.
            KeyServiceError: the service knew the key and refused or failed.
            IntegrityError: the text was not made by that master key.
        """
        if len(wrapped_kek) > MAX_KEY_METADATA_BYTES:
            raise FormatError(f"a wrapped key is longer than {MAX_KEY_METADATA_BYTES} characters")
        with self._lock:
            return DataKey(self._unwrap_cached(wrapped_kek, master_key_id, origin or self._origin).expose_key_bytes())

    def close(self) -> None:
        """Wipe all keys; those of a `Session` stay its own. Safe to call twice."""
        with self._lock:
            self._writing.wipe()
            if self._shared_by is None:
                self._unwrapped.wipe()
            self._keyring.wipe()

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()

    @property
    def _lock(self) -> AbstractContextManager[bool]:
        """The session's own lock, or that of all who borrow from one `Session`, which is another after a fork.

        Held during service calls too: two threads that meet the same new KEK make one call, and no KEK is wiped while
        another thread uses it.
        """
        return self._own_lock if self._lender is None else self._lender.turn

    def _open_material(
        self, material: KeyMaterial, context: Context, grants: FindGrants | None, origin: RequestOrigin, take: _Take
    ) -> DataKey:
        """Open PKMT1 material, by a grant where its own master key does not.

        What holds when it returns: (1) the master key is a configured one; (2) it unwrapped the KEK for the dataset
        that the KEK names; (3) the KEK unwrapped the data key; (4) that dataset is the one the reader opened; (5) the
        data key matches its commitment at this path, column and batch. Files of other writers have no dataset and
        no commitment, so (4) and (5) say nothing about them.
        """
        kek = material.kek
        if kek is None:
            return self._open_singly(material, context, origin)

        def open_by(master_key_id: str, wrapped: str) -> DataKey:
            opened = self._unwrap_cached(wrapped, master_key_id, origin)  # (1), (2)
            key = _unwrap_data_key(opened, material.wrapped_data_key, kek.id)  # (3)
            return take(opened, _checked(key, material, kek.wrapped, context))

        named = (material.master_key_id, kek.wrapped)
        with self._lock:
            remembered = self._granted.get(named)
            if remembered is not None:
                try:
                    return open_by(*remembered)
                except DamagedKeystoreError:  # an error of the caller's keystore, not of the grant
                    raise
                except (AccessError, IntegrityError, FormatError):
                    del self._granted[named]
            try:
                return open_by(*named)
            except (KeyNotFoundError, KeyServiceError) as error:
                if grants is None:
                    raise
                failure: AccessError | IntegrityError | FormatError = error
        # Without the lock, because looking for grants may take requests.
        found = [grant for grant in grants(encode_base64(kek.id)) if self._is_usable(grant, kek)]
        with self._lock:
            for grant in found[:MAX_TRIED]:
                try:
                    opened = open_by(grant.master_key_id, grant.wrapped)
                except DamagedKeystoreError:  # likewise
                    raise
                except (AccessError, IntegrityError, FormatError) as error:
                    failure = error  # perhaps forged, to hide one that follows
                else:
                    self._remember(named, grant)
                    return opened
        raise failure

    def _open_singly(self, material: KeyMaterial, context: Context, origin: RequestOrigin) -> DataKey:
        wrapped = material.wrapped_data_key
        with self._lock:
            key = self._keyring.unwrap(wrapped, material.master_key_id, origin)  # (1), (2)
            return _checked(key, material, wrapped, context)

    def _is_usable(self, grant: Grant, kek: WrappedKEK) -> bool:
        dataset_id = dataset_of_kek_text(kek.wrapped) or ""
        return grant.dataset_id == dataset_id and self._keyring.can_open(grant.master_key_id)

    def _remember(self, named: tuple[str, str], grant: Grant) -> None:
        if len(self._granted) >= _MAX_REMEMBERED:
            self._granted.clear()
        self._granted[named] = (grant.master_key_id, grant.wrapped)

    def _unwrap_cached(self, wrapped: str, master_key_id: str, origin: RequestOrigin) -> DataKey:
        key = self._unwrapped.get(master_key_id, wrapped, self._shared_by)
        if key is None:
            key = self._keyring.unwrap(wrapped, master_key_id, origin)
            self._unwrapped.put(master_key_id, wrapped, key, self._shared_by)
        return key


class FileKeys:
    """The data keys of one file or message; fits `parquet.protocols.DataKeys`.

    What is forged in a file counts against this file alone: see `keyring`. What is written is read back as readers will
    find it, so a session that begins another KEK in the middle is noticed.

    Args:
        session: makes and opens the keys; it stays its owner's.
        read_external: returns the entries of `_KEY_MATERIAL_FOR_<file>.json`, or None where there is none. Called once,
            and only if a key of the file is kept there: looking may be denied to who may read the file.
        grants: finds grants of a KEK; see `KeySession.open_data_key`.
    """

    __slots__ = ("_entries", "_grants", "_kek_ids", "_origin", "_read_external", "_reader", "_session", "_was_read")

    def __init__(
        self, session: KeySession, read_external: ExternalEntries = lambda: None, grants: FindGrants | None = None
    ) -> None:
        """Read nothing yet."""
        self._session = session
        self._read_external = read_external
        self._grants = grants
        self._was_read = False
        self._origin = RequestOrigin()
        self._entries: Mapping[str, KeyMaterial] | None = None
        self._reader = MaterialReader()
        self._kek_ids: set[str] = set()

    @property
    def kek_ids(self) -> tuple[str, ...]:
        """The texts of "keyEncryptionKeyID" under which the new data keys of this file were wrapped, sorted."""
        return tuple(sorted(self._kek_ids))

    def add_kek_ids(self, kek_ids: Iterable[str]) -> None:
        """Note KEKs of other sessions, under which data keys of this file were wrapped."""
        self._kek_ids.update(kek_ids)

    def master_key_id(self, key_reference: str | KeyReference) -> str:
        """Return what data files store of a master key; see `KeySession.master_key_id`."""
        return self._session.master_key_id(key_reference)

    def new_data_key(self, key_reference: str | KeyReference, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh data key, as `KeySession.new_data_key` does; its material is stored internally."""
        key, key_metadata = self._session.new_data_key(key_reference, context)
        kek_id = self._reader.kek_id(key_metadata)
        if kek_id is not None:
            self._kek_ids.add(encode_base64(kek_id))
        return key, key_metadata

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        """Return the data key that `key_metadata` stands for, as `KeySession.open_data_key` does."""
        return self._session.open_data_key(
            key_metadata, context, external=self._external_entries, grants=self._grants, origin=self._origin
        )

    def _external_entries(self) -> Mapping[str, KeyMaterial] | None:
        if not self._was_read:
            self._entries = self._read_external()
            self._was_read = True
        return self._entries


def _external_entry(name: ExternalMaterial, entries: Mapping[str, KeyMaterial] | None) -> KeyMaterial:
    """Return the key material of a name among those kept beside a file; None where none was found.

    Raises:
        KeyNotFoundError: there is none.
    """
    if entries is None:
        raise KeyNotFoundError(
            "the file keeps its key material outside, and none was found",
            hint="put its _KEY_MATERIAL_FOR_<file name>.json beside it",
        )
    material = entries.get(name.reference)
    if material is None:
        raise KeyNotFoundError(
            f"the key material kept outside of the file has no entry {name.reference[:200]!a}",
            hint="check that the key material file belongs to this file",
        )
    return material


def _unwrap_data_key(kek: DataKey, wrapped: str, kek_id: bytes) -> DataKey:
    """Return the data key in a text of "wrappedDEK".

    Raises:
        IntegrityError: this KEK did not wrap it under this id.
        FormatError: the text is not a wrapped key.
    """
    try:
        return DataKey(open_sealed(kek, decode_base64(wrapped), kek_id))
    except IntegrityError as error:
        raise IntegrityError("the data key was not wrapped under its key encryption key") from error
    except ValueError as error:
        raise FormatError("key metadata is malformed: the wrapped data key is malformed") from error


def _checked(key: DataKey, material: KeyMaterial, wrapped: str, context: Context) -> DataKey:
    """Return a data key that belongs where it was found; else it is wiped.

    Args:
        key: the data key.
        material: has its commitment.
        wrapped: names the dataset that its KEK was wrapped for, or none where another program wrapped it.
        context: what the reader opened.

    Raises:
        IntegrityError: it does not belong there.
    """
    dataset_id = dataset_of_kek_text(wrapped)
    try:
        if context.dataset_id and dataset_id != context.dataset_id:  # (4)
            raise IntegrityError("the key encryption key was made for another dataset than the file's")
        if material.commitment is not None:  # (5)
            check_commitment(key, context.key_binding(), material.commitment)
        elif dataset_id is not None:
            # Required, else leaving it out would be all that an attacker has to do.
            raise IntegrityError("the data key has no commitment, though pipecrypt wrote it")
    except BaseException:
        key.wipe()
        raise
    return key
