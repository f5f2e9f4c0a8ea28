"""Open one data key with its KEK, and check what it is bound to. Finding the KEK is left to session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from pipecrypt.crypto.aead import open_sealed
from pipecrypt.crypto.mac import check_commitment
from pipecrypt.errors import FormatError, IntegrityError, KeyNotFoundError
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.material import ExternalMaterial, KeyMaterial, dataset_of_kek_text
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import decode_base64
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["FindGrants", "UnwrapRequest", "check_binding", "checked", "external_entry", "unwrap_data_key"]

# The text of "keyEncryptionKeyID" -> grants of that KEK, whoever wrote them.
FindGrants: TypeAlias = Callable[[str], Iterable[Grant]]


@dataclass(frozen=True, slots=True)
class UnwrapRequest:
    """How the KEK of one data key is asked for.

    Args:
        grants: finds grants of it; None to look for none.
        origin: the file or message that it is asked for.
        grant: the one that is tried now; None for the file's own master key.
    """

    grants: FindGrants | None
    origin: RequestOrigin
    grant: Grant | None = None

    def by(self, grant: Grant) -> UnwrapRequest:
        """Return how it is asked for by a grant."""
        return replace(self, grant=grant)


def external_entry(name: ExternalMaterial, entries: Mapping[str, KeyMaterial] | None) -> KeyMaterial:
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


def unwrap_data_key(kek: DataKey, wrapped: str, kek_id: bytes) -> DataKey:
    """Return the data key in a text of "wrappedDEK".

    Raises:
        IntegrityError: this KEK did not wrap it under this id.
        FormatError: the text is no wrapped key.
    """
    try:
        return DataKey(open_sealed(kek, decode_base64(wrapped), kek_id))
    except IntegrityError as error:
        raise IntegrityError("the data key was not wrapped under its key encryption key") from error
    except ValueError as error:
        raise FormatError("key metadata is malformed: the wrapped data key is none") from error


def check_binding(key: DataKey, commitment: bytes | None, dataset_id: str | None, context: Context) -> None:
    """Pass if a data key belongs where it was found.

    Args:
        key: the data key.
        commitment: that its key material holds.
        dataset_id: of the dataset that its KEK was wrapped for; None where another program wrapped it.
        context: what the reader opened.

    Raises:
        IntegrityError: it does not.
    """
    if context.dataset_id and dataset_id != context.dataset_id:
        raise IntegrityError("the key encryption key was made for another dataset than the file's")
    if commitment is not None:
        check_commitment(key, context.key_binding(), commitment)
    elif dataset_id is not None:
        # Required, else leaving it out would be all that an attacker has to do.
        raise IntegrityError("the data key has no commitment, though pipecrypt wrote it")


def checked(key: DataKey, material: KeyMaterial, wrapped: str, context: Context) -> DataKey:
    """Return a data key that belongs where it was found; else it is wiped.

    Raises:
        IntegrityError: it does not belong there.
    """
    try:
        check_binding(key, material.commitment, dataset_of_kek_text(wrapped), context)  # (4), (5)
    except BaseException:
        key.wipe()
        raise
    return key
