"""Remember under which key encryption keys the data keys of one file were wrapped. Making them is left to session."""

from __future__ import annotations

from pipecrypt.keys.material import KeyMaterial, MaterialReader
from pipecrypt.keys.session import KeySession
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["RecordingKeys"]


class RecordingKeys:
    """The data keys of one file that is written; fits `parquet.protocols.DataKeys`.

    It reads what readers will find in the file, so a session that begins another KEK in the middle is noticed.

    Args:
        session: makes the keys; it stays its owner's.
    """

    __slots__ = ("_kek_ids", "_reader", "_session")

    def __init__(self, session: KeySession) -> None:
        """Begin with no key."""
        self._session = session
        self._reader = MaterialReader()
        self._kek_ids: set[str] = set()

    @property
    def kek_ids(self) -> tuple[str, ...]:
        """The texts of "keyEncryptionKeyID" in the file's key material, sorted, each once."""
        return tuple(sorted(self._kek_ids))

    def master_key_id(self, key_reference: str) -> str:
        """Return what data files store of a master key; see `KeySession.master_key_id`."""
        return self._session.master_key_id(key_reference)

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh data key, as `KeySession.new_data_key` does."""
        key, key_metadata = self._session.new_data_key(key_reference, context)
        material = self._reader.parse(key_metadata)
        if isinstance(material, KeyMaterial) and material.kek is not None:
            self._kek_ids.add(encode_base64(material.kek.id))
        return key, key_metadata

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        """Return the data key that `key_metadata` stands for, as `KeySession.open_data_key` does."""
        return self._session.open_data_key(key_metadata, context)
