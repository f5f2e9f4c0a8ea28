"""What the owner of a keystore does with it: make, import, list, remove and retire keys, change its secret.

All of a keystore is authenticated before it is changed, and sealed after, under a counter that has grown. One of the
old version gets its seal with the first change, and each of its keys is sealed anew. Copies of the file, backups and
the blocks of the disk where it lay are not reached.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.crypto.kdf import KDFParameters, new_parameters
from pipecrypt.crypto.recipient import HPKEIdentity, RecipientAlgorithm, encode_pem, read_seed_pem
from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, public_pem
from pipecrypt.errors import (
    ConflictError,
    DamagedKeystoreError,
    KeyNotFoundError,
    KeystoreError,
    PassphraseError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes.keystore_document import (
    MAX_COUNTER,
    KeystoreDocument,
    KeyType,
    StoredKey,
    UnlockedKeystore,
    encode_keystore,
    has_secret,
    new_keystore,
    parse_keystore,
    reprotected,
    unlock_keystore,
)
from pipecrypt.keys.schemes.keystore_file import (
    KeyPlace,
    ReadKeystore,
    check_none_stood,
    find_versions,
    keystore_path,
    last_counter,
    locate_key,
    locked_directory,
    master_key_id,
    open_keystore,
    read_as_can_be,
    read_keystore,
    read_keystore_if_any,
    read_versions,
    remember,
)
from pipecrypt.vocabulary.clock import utc_now, utc_text
from pipecrypt.vocabulary.documents import decode_base64
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = [
    "KeyList",
    "KeystoreEntry",
    "NewKeystore",
    "accept_backup",
    "change_passphrase",
    "create_key",
    "find_doomed",
    "import_key",
    "read_keys",
    "remove_keys",
    "retire_key",
    "usable_beside",
]

# What the keystore is, of the present version -> the keys that it has from then on.
Change: TypeAlias = Callable[[UnlockedKeystore], Iterable[StoredKey]]
Put: TypeAlias = Callable[[bytes], None]  # writes the keystore whose directory is locked
_LONGEST_LEAP: Final = 1_000_000  # changes since a backup was made; all that the counter holds are 9e15
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeystore:
    """What holds of a keystore that is made where there is none.

    Args:
        kdf: how it turns its passphrase into a key; None for the default.
        replaces_lost: it is made even where one stood before, which is gone.
        made: told the path of one that was made.
    """

    kdf: KDFParameters | None = None
    replaces_lost: bool = False
    made: Callable[[Path], object] = lambda _: None


def change_passphrase(path: Path, credentials: Credentials, kdf: KDFParameters | None = None) -> KeystoreDocument:
    """Put a keystore under another passphrase or key file; each of its keys is sealed anew.

    Args:
        path: of the keystore.
        credentials: open it; `Credentials.for_new_secret` tells the other secret.
        kdf: how the other passphrase is turned into a key; None for the default.

    Raises:
        PassphraseError: one of the two secrets is missing, or the first one is wrong.
        UsageError: the other passphrase is too short.
        KeystoreError, DamagedKeystoreError: as `create_key`.
    """
    others = credentials.for_new_secret()
    try:
        # Both secrets may wait for a person, who is not to hold the lock meanwhile.
        with (
            open_keystore(path, credentials) as unlocked,
            reprotected(unlocked, others, kdf or new_parameters()) as rehearsed,
            locked_directory(path) as put,
            open_keystore(path, credentials) as again,
        ):
            if again.document == unlocked.document:
                return _write(path, credentials, put, rehearsed, rehearsed.document.keys)
            with reprotected(again, others, kdf or new_parameters()) as fresh:
                return _write(path, credentials, put, fresh, fresh.document.keys)
    finally:
        credentials.forget()
        others.forget()


def accept_backup(path: Path, credentials: Credentials) -> KeystoreDocument:
    """Take an older keystore for the newest on purpose: it is written anew, with a counter above all that was seen.

    It is authenticated as ever. One of the old version gets its seal. What was remembered of it is replaced: a record
    that is far ahead of the keystore is not believed, and a counter at its end begins again.

    Raises:
        KeystoreError, PassphraseError, DamagedKeystoreError: as `create_key`, but for its age.
    """
    try:
        unlock_keystore(read_keystore(path), str(path), credentials).wipe()  # may wait for a person: before the lock
        with locked_directory(path) as put:
            document = read_keystore(path)
            with (
                unlock_keystore(document, str(path), credentials) as unlocked,
                _of_present_version(unlocked, credentials) as present,
            ):
                accepted = _counter_above(document.counter, last_counter(document, credentials.environ))
                return _write(path, credentials, put, present, present.document.keys, accepted=accepted)
    finally:
        credentials.forget()


def _change_keystore(
    path: Path, credentials: Credentials, change: Change, new: NewKeystore | None = None
) -> KeystoreDocument:
    """Change the keystore at a path, and return what it is then. Two changes at once take turns.

    Args:
        path: of the keystore.
        credentials: open it, or become those of a new one.
        change: makes the keys that it has from then on. Called twice: before the lock is taken, for what may be
            refused, and for good.
        new: what holds of the keystore if it is made because there is none; None: then it is an error.
    """
    try:
        if new is not None and read_keystore_if_any(path) is None:
            return _make(path, credentials, change, new)
        with open_keystore(path, credentials) as unlocked, _of_present_version(unlocked, credentials) as present:
            change(present)
        with locked_directory(path) as put:
            return _change(path, credentials, change, put)
    finally:
        credentials.forget()


def _make(path: Path, credentials: Credentials, change: Change, new: NewKeystore) -> KeystoreDocument:
    if not new.replaces_lost:
        check_none_stood(path, credentials.environ)
    with new_keystore(str(uuid.uuid4()), str(path), credentials, new.kdf or new_parameters()) as empty:
        change(empty)
        with locked_directory(path) as put:
            if read_keystore_if_any(path) is not None:  # another writer was faster: what is there is extended
                return _change(path, credentials, change, put)
            made = _write(path, credentials, put, empty, change(empty))
    new.made(path)
    return made


def _change(path: Path, credentials: Credentials, change: Change, put: Put) -> KeystoreDocument:
    with open_keystore(path, credentials) as unlocked, _of_present_version(unlocked, credentials) as present:
        document = _write(path, credentials, put, present, change(present))
    if not unlocked.document.is_sealed:
        _logger.warning("keystore %s is sealed as a whole from now on; older releases cannot open it", path)
    return document


def _of_present_version(unlocked: UnlockedKeystore, credentials: Credentials) -> UnlockedKeystore:
    return unlocked if unlocked.document.is_sealed else reprotected(unlocked, credentials, None)


def _write(
    path: Path,
    credentials: Credentials,
    put: Put,
    unlocked: UnlockedKeystore,
    keys: Iterable[StoredKey],
    *,
    accepted: int | None = None,
) -> KeystoreDocument:
    counter = unlocked.document.counter + 1 if accepted is None else accepted
    if counter > MAX_COUNTER:
        raise KeystoreError(
            f"keystore {path} was written as often as can be counted",
            hint=f"pipecrypt keys accept-backup {path} begins the count again",
        )
    document = unlocked.with_keys(keys, counter)
    data = encode_keystore(document)
    try:
        parse_keystore(data, str(path))  # never write what could not be read, such as one key too many
    except DamagedKeystoreError as error:
        raise KeystoreError(error.message, hint="nothing was changed") from error
    put(data)
    try:
        remember(document, path, credentials.environ, replaces=accepted is not None)
    except DamagedKeystoreError as error:  # the keystore is written, which no record undoes
        _logger.warning("keystore %s is written, and cannot be remembered: %s", path, error.message)
    return document


def _counter_above(written: int, seen: int) -> int:
    """Return the next counter. Nothing authenticates the number that was seen, so it decides of a short way only."""
    if written >= MAX_COUNTER:
        return 1
    return min(max(written, seen if seen - written <= _LONGEST_LEAP else 0) + 1, MAX_COUNTER)


_AS_USUAL: Final = NewKeystore()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoreEntry:
    """What a keystore tells about one version of one key; `KeyList` says whether that is authenticated.

    Args:
        name: what key references call it.
        master_key_id: what data files store of a master key or an identity.
        key_id: what statements store of a signing key, made from its public key; None for others.
        type: aes256, ed25519, mldsa65, x25519 or mlkem768x25519.
        version: 1 for the first of its name.
        created: UTC, ISO 8601.
        public_key: PEM of a signing key or an identity; None for a master key.
        retired: UTC, ISO 8601: it signs and wraps nothing from then on. None while it is in use.
    """

    name: str
    master_key_id: str
    key_id: str | None
    type: str
    version: int
    created: str
    public_key: str | None
    retired: str | None = None


@dataclass(frozen=True, slots=True)
class KeyList:
    """What a keystore holds."""

    authenticated: bool  # the keystore was opened with its passphrase or key file, so that all of this is true
    keys: tuple[KeystoreEntry, ...]  # in the order of the file; those of one key only, oldest first
    doubt: str | None  # why nothing is authenticated; None where all is


def create_key(
    reference: str,
    key_type: str,
    credentials: Credentials,
    *,
    new_version: bool = False,
    kdf: KDFParameters | None = None,
    keystore: NewKeystore = _AS_USUAL,
    clock: Callable[[], datetime] = utc_now,
) -> KeystoreEntry:
    """Make a key in a keystore, and the keystore if there is none.

    Args:
        reference: `keystore://PATH#NAME`.
        key_type: aes256, ed25519, mldsa65, x25519 or mlkem768x25519.
        credentials: they open the keystore, or become the ones of a new keystore.
        new_version: make a further version of a key that exists.
        kdf: how a new keystore turns its passphrase into a key; None for the default.
        keystore: what else holds of a keystore that is made.
        clock: gives the time of creation.

    Raises:
        UsageError: an unknown type, or another type than the earlier versions have.
        ConflictError: there is such a key, and `new_version` is not set.
        KeyNotFoundError: `new_version` is set, and there is no such key.
        PassphraseError: passphrase or key file is missing or wrong; nothing was written.
        KeystoreError: the keystore is malformed, cannot be written, or is gone from where it was seen before.
    """
    place = locate_key(reference)
    if key_type not in set(KeyType):
        raise UsageError(f"a keystore makes no keys of type {key_type!a}", hint=f"it makes {', '.join(KeyType)}")
    wanted = KeyType(key_type)
    with DataKey(random_bytes(DATA_KEY_BYTES)) as key:  # or a seed, of whichever algorithm
        new = replace(keystore, kdf=kdf)
        return _add_key(place, wanted, key, credentials, new, new_version=new_version, created=clock())


def import_key(
    reference: str,
    data: bytes,
    credentials: Credentials,
    *,
    new_version: bool = False,
    kdf: KDFParameters | None = None,
    keystore: NewKeystore = _AS_USUAL,
    clock: Callable[[], datetime] = utc_now,
) -> KeystoreEntry:
    """Put an existing key into a keystore; other arguments and errors as in `create_key`.

    Args:
        reference: `keystore://PATH#NAME`.
        data: a 256-bit master key, raw or in base64, or a private key in PEM (PKCS #8) of Ed25519, ML-DSA-65, X25519 or
            mlkem768x25519.
        credentials: they open the keystore, or become the ones of a new keystore.
        new_version: add it as a further version of a key that exists.
        kdf: as for `create_key`.
        keystore: as for `create_key`.
        clock: as for `create_key`.

    Raises:
        UsageError: `data` is not such a key.
    """
    place, (key_type, key) = locate_key(reference), _read_key(data)
    with key:
        new = replace(keystore, kdf=kdf)
        return _add_key(place, key_type, key, credentials, new, new_version=new_version, created=clock())


def read_keys(reference: str, credentials: Credentials) -> KeyList:
    """Return what a keystore holds; authenticated where its passphrase or key file is at hand.

    Args:
        reference: a path, `keystore://PATH`, or `keystore://PATH#NAME` for one key's versions only.
        credentials: what may open it; nobody is asked.

    Raises:
        KeystoreError: the keystore is missing.
        DamagedKeystoreError: it is malformed, was changed by somebody without its secret, or is older than it was seen
            before.
        KeyNotFoundError: it has no key of that name.
    """
    place: KeyPlace | None = None
    if "://" not in reference:
        path = Path(reference)
    else:
        parsed = parse_key_reference(reference)
        place = None if parsed.fragment is None else locate_key(parsed)
        path = keystore_path(parsed)
    try:
        read = read_as_can_be(path, credentials)
    except PassphraseError as error:
        read = ReadKeystore(read_keystore(path), error.message)  # a list widens nothing, and says so
    keys = read.document.keys if place is None else find_versions(read.document, place)
    return KeyList(read.doubt is None, tuple(map(_entry, keys)), read.doubt)


def _add_key(
    place: KeyPlace,
    key_type: KeyType,
    key: DataKey,
    credentials: Credentials,
    keystore: NewKeystore,
    *,
    new_version: bool,
    created: datetime,
) -> KeystoreEntry:
    def change(unlocked: UnlockedKeystore) -> tuple[StoredKey, ...]:
        earlier = unlocked.document.versions(place.name)
        _check_addable(place, key_type, earlier, new_version=new_version)
        entry = StoredKey(
            name=place.name,
            id=str(uuid.uuid4()),
            type=key_type,
            version=earlier[-1].version + 1 if earlier else 1,
            created=utc_text(created),
            public_key=_public_key(key_type, key),
            sealed=b"",
        )
        return *unlocked.document.keys, unlocked.seal_key(entry, key)

    document = _change_keystore(place.path, credentials, change, keystore)
    return _entry(document.keys[-1])


def _check_addable(place: KeyPlace, key_type: KeyType, earlier: tuple[StoredKey, ...], *, new_version: bool) -> None:
    if new_version and not earlier:
        raise KeyNotFoundError(
            f"{place.text}: there is no key {place.name} to make a new version of", hint="make it without a version"
        )
    if earlier and not new_version:
        raise ConflictError(
            f"{place.text}: keystore {place.path} has a key {place.name} already",
            hint="choose another name, or ask for a new version of it",
        )
    if earlier and earlier[0].type is not key_type:
        raise UsageError(
            f"{place.text} is of type {earlier[0].type}, not {key_type}", hint="a key's versions are of one type"
        )


def _public_key(key_type: KeyType, key: DataKey) -> str | None:
    if key_type is KeyType.AES256:
        return None
    if not key_type.is_identity:
        return public_pem(SignatureAlgorithm(key_type.value), key)
    identity = HPKEIdentity(RecipientAlgorithm(key_type.value), DataKey(key.expose_key_bytes()))
    identity.wipe()
    return encode_pem(identity.public_key)


def _read_key(data: bytes) -> tuple[KeyType, DataKey]:
    if data.lstrip().startswith(b"-----BEGIN"):
        algorithm, seed = read_seed_pem(data)
        return KeyType(algorithm), seed
    try:
        key_bytes = data if len(data) == DATA_KEY_BYTES else decode_base64(data.decode("ascii").strip())
        if len(key_bytes) == DATA_KEY_BYTES:
            return KeyType.AES256, DataKey(key_bytes)
    except ValueError:
        pass  # falls through to the same refusal; the cause could quote key material
    raise UsageError(
        "this is not a key that a keystore can hold",
        hint="give 32 bytes, raw or in base64, or a private key in PEM: Ed25519, ML-DSA-65, X25519, mlkem768x25519",
    )


def _entry(key: StoredKey) -> KeystoreEntry:
    """Return what is told about a key.

    Raises:
        KeystoreError: its public key is not valid.
    """
    try:
        return KeystoreEntry(
            name=key.name,
            master_key_id=master_key_id(key),
            key_id=PublicKey(key.public_key).key_id if key.type.signs and key.public_key is not None else None,
            type=key.type.value,
            version=key.version,
            created=key.created,
            public_key=key.public_key,
            retired=key.retired,
        )
    except UsageError as error:
        raise KeystoreError(
            f"key {key.name} (version {key.version}) has no valid public key: {error.message}",
            hint="restore the keystore from its backup",
        ) from error


def find_doomed(
    reference: str, version: int | None, credentials: Credentials, *, prove: bool = False
) -> tuple[KeystoreEntry, ...]:
    """Return the versions of a key that would be removed; authenticated where the secret is at hand.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the one version that is meant; None for all.
        credentials: what may open the keystore.
        prove: open it, even if somebody has to be asked for the secret.

    Raises:
        KeystoreError: the keystore is missing or malformed.
        PassphraseError: a secret is wrong, or there is none to prove with.
        DamagedKeystoreError: it was changed by somebody without its secret, or is older than it was seen before.
        KeyNotFoundError: it has no such key, or no such version of it.
        KeyReferenceError: the reference is malformed, or names no key.
    """
    place = locate_key(reference)
    try:
        versions, _ = read_versions(place, credentials, prove=prove)
    finally:
        credentials.forget()
    return tuple(map(_entry, _chosen(versions, place, version)))


def usable_beside(reference: str, credentials: Credentials, *, ask: bool) -> tuple[str, ...] | None:
    """Return references to all keys of the same keystore that open something; None where its secret is not at hand.

    Args:
        reference: `keystore://PATH#NAME`.
        credentials: what may open the keystore.
        ask: somebody may be asked for the secret.

    Raises:
        KeystoreError, PassphraseError, DamagedKeystoreError: as `find_doomed`.
    """
    place = locate_key(reference)
    if not ask and not has_secret(read_keystore(place.path), str(place.path), credentials):
        return None
    with open_keystore(place.path, credentials) as unlocked:
        names = dict.fromkeys(key.name for key in unlocked.document.keys if not key.type.signs)
    return tuple(f"{place.text.partition('#')[0]}#{name}" for name in names)


def remove_keys(reference: str, version: int | None, credentials: Credentials) -> tuple[KeystoreEntry, ...]:
    """Remove versions of a key from its keystore, and return them; arguments and errors as of `find_doomed`.

    Raises:
        PassphraseError: passphrase or key file is missing or wrong; nothing was removed.
    """
    place = locate_key(reference)
    removed: tuple[StoredKey, ...] = ()

    def change(unlocked: UnlockedKeystore) -> tuple[StoredKey, ...]:
        nonlocal removed
        removed = _chosen(find_versions(unlocked.document, place), place, version)
        return tuple(key for key in unlocked.document.keys if key not in removed)

    _change_keystore(place.path, credentials, change)
    return tuple(map(_entry, removed))


def retire_key(
    reference: str,
    version: int,
    credentials: Credentials,
    *,
    at: datetime | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> KeystoreEntry:
    """Take one version of a key out of use: it signs and wraps nothing any more, and opens what it wrapped.

    What it signed counts where the statement says that it was made before.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the version that is meant.
        credentials: open the keystore.
        at: from when on, not in the future, such as when somebody else got the key; default: now. A version that is
            retired can be retired from an earlier time on.
        clock: gives the present time.

    Raises:
        ConflictError: it is retired already, from that time on or an earlier one.
        UsageError: the time is in the future.
        KeyNotFoundError: there is no such key, or no such version of it.
        PassphraseError: passphrase or key file is missing or wrong; nothing was changed.
        KeystoreError, DamagedKeystoreError: as `find_doomed`.
    """
    place = locate_key(reference)
    now = clock()
    moment = now if at is None else at
    if moment > now:
        raise UsageError(
            f"{utc_text(moment)} is in the future", hint="a key is retired from now on, or an earlier time"
        )
    since = utc_text(moment)
    changed: list[StoredKey] = []

    def change(unlocked: UnlockedKeystore) -> tuple[StoredKey, ...]:
        (entry,) = _chosen(find_versions(unlocked.document, place), place, version)
        if entry.retired is not None and entry.retired <= since:
            raise ConflictError(
                f"{place.text}: version {version} is retired already, since {entry.retired}",
                hint="nothing needs to be done",
            )
        changed[:] = [replace(entry, retired=since)]
        return tuple(changed[0] if key == entry else key for key in unlocked.document.keys)

    _change_keystore(place.path, credentials, change)
    return _entry(changed[0])


def _chosen(versions: Sequence[StoredKey], place: KeyPlace, version: int | None) -> tuple[StoredKey, ...]:
    found = tuple(each for each in versions if version in (None, each.version))
    if not found:
        there = ", ".join(str(each) for each in sorted(each.version for each in versions))
        raise KeyNotFoundError(
            f"{place.text}: there is no version {version} of key {place.name}", hint=f"it has versions {there}"
        )
    return found
