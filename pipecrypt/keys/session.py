"""Make and open data keys with the master keys that a caller configured. Asking key services is left to keyring.

A session lives in one worker process. Writing, it makes one KEK per master key with one service call, and wraps any
number of data keys under it. Reading, it unwraps each KEK once. What a file says about keys is a hint: only master
keys of the session's own references are ever asked (GHSA-wqgp-vphw-hphf).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from pipecrypt.context import Context
from pipecrypt.crypto.aead import MessageCipher, open_sealed, random_bytes
from pipecrypt.crypto.commitment import check_commitment, commit
from pipecrypt.documents import decode_base64
from pipecrypt.errors import FormatError, IntegrityError, KeyNotFoundError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.kek_cache import KEKCache, KEKLimits
from pipecrypt.keys.keyring import Keyring
from pipecrypt.keys.material import (
    KEK_ID_BYTES,
    MAX_KEY_METADATA_BYTES,
    ExternalMaterial,
    KeyMaterial,
    MaterialReader,
    MaterialWriter,
    dataset_of_kek_text,
    kek_text,
)
from pipecrypt.keys.service import KeyServices
from pipecrypt.secret import DATA_KEY_BYTES, DataKey

__all__ = ["FileKeys", "KeySession"]

ExternalEntries: TypeAlias = Callable[[], Mapping[str, KeyMaterial] | None]


@dataclass(slots=True)
class _WritingKEK:
    key: DataKey
    cipher: MessageCipher
    id: bytes
    writer: MaterialWriter
    made_at: float
    wraps: int = 0


class KeySession:
    """The keys of one worker process. Safe to use from several threads; closing it wipes all keys.

    Args:
        references: the key references that this session may use.
        credentials: what opens the key services; used here only, so wrong ones show before the first byte.
        dataset_id: of the dataset that is written, bound into its KEKs. None for a session that reads, or one that
            takes it from each context.
        services: key services by scheme that are asked before the built-in ones; for tests and embedders.
        limits: how long a KEK is used before its key service is called again, and how many are kept.
        clock: a clock that never goes back, in seconds.

    Raises:
        KeyReferenceError: a reference is none, or has an unknown scheme.
        AccessError: a key is missing, or the credentials do not open it.
        UsageError: a session with `dataset_id` names a key that only opens files.
    """

    __slots__ = (
        "_clock",
        "_dataset_id",
        "_keyring",
        "_limits",
        "_lock",
        "_reader",
        "_unwrapped",
        "_writing",
        "data_keys_made",
    )

    def __init__(
        self,
        references: Sequence[str],
        *,
        credentials: Credentials,
        dataset_id: str | None = None,
        services: KeyServices | None = None,
        limits: KEKLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open all references."""
        self._limits = limits or KEKLimits()
        self._clock = clock
        self.data_keys_made = 0
        self._dataset_id = dataset_id
        self._reader = MaterialReader()
        # Held during service calls too: two threads that meet the same new KEK make one call, and no KEK is wiped
        # while another thread uses it.
        self._lock = threading.Lock()
        self._writing: dict[tuple[str, str], _WritingKEK] = {}
        self._unwrapped = KEKCache(self._limits, clock)
        self._keyring = Keyring(references, credentials, services)
        if dataset_id is not None:
            try:
                self._keyring.check_makes_keys()
            except BaseException:
                self.close()
                raise

    @property
    def service_calls(self) -> int:
        """How many calls to key services this session made, failed ones included."""
        return self._keyring.service_calls

    def master_key_id(self, key_reference: str) -> str:
        """Return what data files store of the master key that a reference names.

        Raises:
            UsageError: the reference names keys that only open files.
        """
        with self._lock:
            return self._keyring.master_key(key_reference).id

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit data key and its `key_metadata`; the caller wipes the key.

        Raises:
            KeyServiceError: the key service failed or refused to make a KEK.
            UsageError: the reference names keys that only open files.
        """
        with self._lock:
            kek = self._writing_kek(key_reference, context)
            key = DataKey(random_bytes(DATA_KEY_BYTES))
            # The AAD is the KEK's id, because parquet-java and parquet-cpp unwrap data keys so.
            wrapped = kek.cipher.seal(key.expose_key_bytes(), kek.id)
            kek.wraps += 1
            self.data_keys_made += 1
        commitment = commit(key, context.key_binding())
        return key, kek.writer.encode(wrapped, commitment, is_footer_key=context.column is None)

    def open_data_key(
        self,
        key_metadata: bytes,
        context: Context,
        *,
        external: ExternalEntries | None = None,
    ) -> DataKey:
        """Return the data key that `key_metadata` stands for; the caller wipes it.

        Args:
            key_metadata: as the file has it; b"" where it has none.
            context: what the reader opened.
            external: returns the entries of the file's external key material; see `for_file`.

        Raises:
            KeyNotFoundError: none of the configured keys fits.
            KeyServiceError: the service knew the key and refused or failed.
            IntegrityError: something does not belong together: KEK, data key, commitment or context.
            FormatError: the key metadata is malformed.
        """
        material = self._reader.parse(key_metadata)
        if isinstance(material, ExternalMaterial):
            material = _external_entry(material, external() if external is not None else None)
        with self._lock:
            if material is None:
                return self._keyring.find(key_metadata, context)
            return self._open_material(material, context)

    def for_file(self, read_external: ExternalEntries) -> FileKeys:
        """Return the keys of one file.

        Args:
            read_external: returns the entries of `_KEY_MATERIAL_FOR_<file>.json`, or None where there is none. Called
                once, and only if a key of the file is kept there: looking may be denied to who may read the file.
        """
        return FileKeys(self, read_external)

    def unwrap_kek_text(self, wrapped_kek: str, master_key_id: str) -> DataKey:
        """Return the key in a text of "wrappedKEK", or of a singly wrapped "wrappedDEK"; the caller wipes it.

        This is all that a KmsClient of pyarrow sees, so no commitment is checked here.

        Raises:
            KeyNotFoundError: the master key is none of the configured ones.
            KeyServiceError: the service knew the key and refused or failed.
            IntegrityError: the text was not made by that master key.
        """
        if len(wrapped_kek) > MAX_KEY_METADATA_BYTES:
            raise FormatError(f"a wrapped key is longer than {MAX_KEY_METADATA_BYTES} characters")
        with self._lock:
            return DataKey(self._unwrap_cached(wrapped_kek, master_key_id).expose_key_bytes())

    def close(self) -> None:
        """Wipe all keys. Safe to call twice."""
        with self._lock:
            for kek in self._writing.values():
                kek.key.wipe()
            self._writing.clear()
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

    def _writing_kek(self, key_reference: str, context: Context) -> _WritingKEK:
        if self._dataset_id is not None and context.dataset_id not in ("", self._dataset_id):
            raise RuntimeError("this session writes another dataset")
        dataset_id = context.dataset_id if self._dataset_id is None else self._dataset_id
        master_key_id = self._keyring.master_key(key_reference).id
        kek = self._writing.get((master_key_id, dataset_id))
        if kek is None or self._limits.is_used_up(kek.made_at, kek.wraps, self._clock()):  # SP 800-38D 8.3
            key, wrapped = self._keyring.generate(key_reference, Context(dataset_id=dataset_id, path=""))
            if kek is not None:
                kek.key.wipe()
            kek_id = random_bytes(KEK_ID_BYTES)
            writer = MaterialWriter(master_key_id, kek_id, kek_text(dataset_id, wrapped))
            kek = _WritingKEK(key, MessageCipher(key), kek_id, writer, self._clock())
            self._writing[master_key_id, dataset_id] = kek
        return kek

    def _open_material(self, material: KeyMaterial, context: Context) -> DataKey:
        """Open PKMT1 material.

        What holds when it returns: (1) the master key is a configured one; (2) it unwrapped the KEK for the dataset
        that the KEK names; (3) the KEK unwrapped the data key; (4) that dataset is the one the reader opened; (5) the
        data key matches its commitment at this path, column and batch. Files of other writers have no dataset and
        no commitment, so (4) and (5) say nothing about them.
        """
        if material.kek is None:
            wrapped = material.wrapped_data_key
            key = self._keyring.unwrap(wrapped, material.master_key_id)  # (1), (2)
        else:
            wrapped = material.kek.wrapped
            kek = self._unwrap_cached(wrapped, material.master_key_id)  # (1), (2)
            key = _unwrap_data_key(kek, material.wrapped_data_key, material.kek.id)  # (3)
        try:
            _check_binding(key, material.commitment, dataset_of_kek_text(wrapped), context)  # (4), (5)
        except BaseException:
            key.wipe()
            raise
        return key

    def _unwrap_cached(self, wrapped: str, master_key_id: str) -> DataKey:
        key = self._unwrapped.get(master_key_id, wrapped)
        if key is None:
            key = self._keyring.unwrap(wrapped, master_key_id)
            self._unwrapped.put(master_key_id, wrapped, key)
        return key


class FileKeys:
    """The keys of one file: a session, and the key material kept beside the file.

    Args:
        session: makes and opens the keys; it stays its owner's.
        read_external: as for `KeySession.for_file`.
    """

    __slots__ = ("_entries", "_read_external", "_session", "_was_read")

    def __init__(self, session: KeySession, read_external: ExternalEntries) -> None:
        """Read nothing yet."""
        self._session = session
        self._read_external = read_external
        self._was_read = False
        self._entries: Mapping[str, KeyMaterial] | None = None

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh data key, as `KeySession.new_data_key` does; its material is stored internally."""
        return self._session.new_data_key(key_reference, context)

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        """Return the data key that `key_metadata` stands for, as `KeySession.open_data_key` does."""
        return self._session.open_data_key(key_metadata, context, external=self._external_entries)

    def _external_entries(self) -> Mapping[str, KeyMaterial] | None:
        if not self._was_read:
            self._entries = self._read_external()
            self._was_read = True
        return self._entries


def _external_entry(name: ExternalMaterial, entries: Mapping[str, KeyMaterial] | None) -> KeyMaterial:
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
    try:
        return DataKey(open_sealed(kek, decode_base64(wrapped), kek_id))
    except IntegrityError as error:
        raise IntegrityError("the data key was not wrapped under its key encryption key") from error
    except ValueError as error:
        raise FormatError("key metadata is malformed: the wrapped data key is none") from error


def _check_binding(key: DataKey, commitment: bytes | None, dataset_id: str | None, context: Context) -> None:
    if context.dataset_id and dataset_id != context.dataset_id:
        raise IntegrityError("the key encryption key was made for another dataset than the file's")
    if commitment is not None:
        check_commitment(key, context.key_binding(), commitment)
    elif dataset_id is not None:
        # Required, else leaving it out would be all that an attacker has to do.
        raise IntegrityError("the data key has no commitment, though pipecrypt wrote it")
