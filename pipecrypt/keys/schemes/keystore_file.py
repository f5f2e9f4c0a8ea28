"""Keystores as files: found, authenticated as a whole, not older than they were seen before, and replaced safely.

What is read without the secret is a `KeystoreDocument`, of which nothing is authenticated. It serves to list keys and
to show public halves, never to decide what a writer accepts.

How far each keystore was seen is remembered, so that an older file in its place shows: one small JSON file for each, by
its id, in the directory of this user's state::

    {"keystore": uuid, "counter": 7, "seal_sha256": <64 hex>, "path": where it was when it was written last}

A counter never goes back there, whichever of several processes is the last to write. What cannot be kept is warned
about once in a process: reading goes on, and an older keystore will not be noticed.

Writers take an exclusive lock on the directory, read, and put a new file in the place of the old one (temporary file
with mode 0600, fsync, rename, fsync of the directory). Readers need no lock: they see the old file or the new one. What
a writer left that was killed before its rename holds all keys of that time under the secret of that time, so the next
one removes it. POSIX systems only.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.crypto.digest import digest
from pipecrypt.crypto.recipient import parse_recipient
from pipecrypt.errors import (
    ConflictError,
    DamagedKeystoreError,
    KeyNotFoundError,
    KeystoreError,
    PassphraseError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials, file_failure, read_private_file
from pipecrypt.keys.public_keys import recipient_id
from pipecrypt.keys.reference import KeyReference, parse_key_reference
from pipecrypt.keys.schemes.keystore_document import (
    MAX_COUNTER,
    KeystoreDocument,
    StoredKey,
    UnlockedKeystore,
    encode_keystore,
    has_secret,
    is_key_name,
    parse_keystore,
    secret_fingerprint,
    unlock_keystore,
)
from pipecrypt.vocabulary.documents import Document
from pipecrypt.vocabulary.once import warn_once
from pipecrypt.vocabulary.state import StateRecords, replace_private_file, state_directory, take_lock

__all__ = [
    "KeyPlace",
    "ReadKeystore",
    "check_none_stood",
    "find_versions",
    "keystore_path",
    "last_counter",
    "locate_key",
    "locked_directory",
    "master_key_id",
    "open_keystore",
    "open_versions",
    "read_as_can_be",
    "read_keystore",
    "read_keystore_if_any",
    "read_versions",
    "remember",
]

_SCHEME: Final = "keystore"


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where a key is: the keystore's path, the key's name, and the reference's text for errors."""

    path: Path
    name: str
    text: str


def keystore_path(reference: KeyReference) -> Path:
    """Return the path of the keystore that a reference names.

    Raises:
        UsageError: the reference is of another scheme.
        KeyReferenceError: it has options, which a keystore does not take.
    """
    if reference.scheme != _SCHEME:
        raise UsageError(f"{reference.text} is not in a keystore", hint="write keystore://PATH#NAME")
    reference.check_options()
    return reference.local_path


def locate_key(reference: str | KeyReference) -> KeyPlace:
    """Return the keystore and key that a reference names; neither has to exist.

    Raises:
        UsageError: the reference is of another scheme.
        KeyReferenceError: it names no key, or not in the form of a name.
    """
    reference = parse_key_reference(reference)
    path = keystore_path(reference)
    if not reference.fragment:
        raise reference.malformed("names no key", hint="append #NAME, such as #pii")
    if not is_key_name(reference.fragment):
        raise reference.malformed(
            "has no valid key name",
            hint="a name has up to 64 letters, digits, _, - or ., and starts with none of the last two",
        )
    return KeyPlace(path, reference.fragment, reference.text)


def read_keystore_if_any(path: Path) -> KeystoreDocument | None:
    """Return the keystore at `path`, or None if there is none.

    Raises:
        KeystoreError: it cannot be read or is malformed.
    """
    data = read_private_file(path, "keystore")
    return None if data is None else parse_keystore(data, str(path))


def read_keystore(path: Path) -> KeystoreDocument:
    """Return the keystore at `path`.

    Raises:
        KeystoreError: it is missing, cannot be read, or is malformed.
    """
    document = read_keystore_if_any(path)
    if document is None:
        raise KeystoreError(f"keystore {path} does not exist")
    return document


def find_versions(document: KeystoreDocument, place: KeyPlace) -> tuple[StoredKey, ...]:
    """Return the versions of a key, oldest first, at least one.

    Raises:
        KeyNotFoundError: there is no such key; the hint lists those there are.
    """
    versions = document.versions(place.name)
    if not versions:
        names = ", ".join(sorted({key.name for key in document.keys})) or "no keys"
        raise KeyNotFoundError(f"{place.text}: keystore {place.path} has no key {place.name}", hint=f"it has {names}")
    return versions


def master_key_id(entry: StoredKey) -> str:
    """Return what data files store, never a path: the key's name and the version's UUID; or its recipient's id.

    Raises:
        UsageError: the public key of an identity is malformed.
    """
    if entry.type.is_identity and entry.public_key is not None:
        return recipient_id(parse_recipient(entry.public_key))
    return f"{_SCHEME}/{entry.name}/{entry.id}"


_ACCEPT: Final = "if you put a backup there yourself: pipecrypt keys accept-backup KEYSTORE"
_MALFORMED_HINT: Final = "remove it if you know why, and look whether the keystore is the newest"
_MAX_PATH: Final = 4096
_logger = logging.getLogger(__name__)


def check_age(document: KeystoreDocument, name: str, environ: Mapping[str, str]) -> None:
    """Pass if a document is not older than what was seen of its keystore, nor another one of the same age.

    Nothing of the document needs to be authenticated: who changes its id or counter breaks its seal.

    Raises:
        DamagedKeystoreError: it is; or the record is malformed, and ignoring it would let an old keystore pass.
    """
    seen = _last_seen(document, environ)
    if seen is None:
        return
    counter, seal_sha256 = seen
    if not document.is_sealed:
        raise DamagedKeystoreError(f"keystore {name} was sealed when it was seen last, and is not now", hint=_ACCEPT)
    if document.counter < counter:
        raise DamagedKeystoreError(
            f"keystore {name} is older than when it was seen last: it was written {document.counter} times, and "
            f"{counter} times then",
            hint=_ACCEPT,
        )
    if document.counter == counter and digest(document.seal) != seal_sha256:
        raise DamagedKeystoreError(
            f"keystore {name} is another than was seen last, and was written as often", hint=_ACCEPT
        )


def check_none_stood(path: Path, environ: Mapping[str, str]) -> None:
    """Pass if no keystore was seen at a path where there is none now.

    Else whoever can rename a keystore makes its owner begin another one, and take its keys for the true ones.

    Raises:
        KeystoreError: one was.
        DamagedKeystoreError: the records cannot be read.
    """
    records = _records(environ)
    place = os.path.realpath(path)
    if records and any(os.path.realpath(seen) == place for seen in records.each(_parse_path) if seen):
        raise KeystoreError(
            f"keystore {path} is gone: there was one when it was seen last, and a new one would have other keys",
            hint="put it back, or its backup and pipecrypt keys accept-backup; or if you removed it yourself, and "
            "need nothing that it encrypted: repeat with --new-keystore",
        )


def last_counter(document: KeystoreDocument, environ: Mapping[str, str]) -> int:
    """Return how often the keystore was written when it was seen last; 0 where it was not."""
    seen = _last_seen(document, environ)
    return 0 if seen is None else seen[0]


def remember(document: KeystoreDocument, path: Path, environ: Mapping[str, str], *, replaces: bool = False) -> None:
    """Keep what was seen of an authenticated document, unless more was seen before and it does not replace that."""
    records, now = _records(environ), (document.counter, digest(document.seal))
    if records is None or not document.is_sealed or (not replaces and _last_seen(document, environ) == now):
        return
    try:
        with records.changing(document.id) as record:
            seen = None if replaces else record.read(_parse)
            if seen is None or seen[0] < document.counter:
                members = {"counter": document.counter, "seal_sha256": now[1], "path": os.path.abspath(path)}
                record.put({"keystore": document.id, **members})
    except (OSError, ConflictError) as error:
        warn_once(
            _logger,
            "cannot remember keystore %s in %s: %s; an older one in its place will not be noticed",
            path,
            records.directory,
            error.strerror if isinstance(error, OSError) else error.message,
        )


def _last_seen(document: KeystoreDocument, environ: Mapping[str, str]) -> tuple[int, str] | None:
    # The id has the form of a UUID, and nothing else in it.
    records = _records(environ)
    return None if records is None else records.read(document.id, _parse)


def _records(environ: Mapping[str, str]) -> StateRecords | None:
    directory = state_directory(environ)
    if directory is None:
        return None
    return StateRecords(directory, "keystores", "record of keystores", DamagedKeystoreError, _MALFORMED_HINT)


def _parse(document: Document) -> tuple[int, str]:
    counter = document.integer("counter", least=1, most=MAX_COUNTER)
    return counter, document.text("seal_sha256", max_characters=64)


def _parse_path(document: Document) -> str | None:
    return document.text("path", max_characters=_MAX_PATH) if "path" in document else None


_MOST_TRIES: Final = 3
_MOST_PROVEN: Final = 64
_NO_SECRET: Final = "no passphrase or key file was given"  # noqa: S105 - a reason, no secret


@dataclass(frozen=True, slots=True)
class ReadKeystore:
    """What a keystore says, to somebody who may lack its secret.

    Args:
        document: what it says.
        doubt: why nothing of it is authenticated; None where all of it is.
    """

    document: KeystoreDocument
    doubt: str | None


def open_keystore(path: Path, credentials: Credentials) -> UnlockedKeystore:
    """Return the keystore at a path; the caller wipes it.

    Raises:
        KeystoreError: it is missing or cannot be read.
        PassphraseError: passphrase or key file is missing or wrong.
        DamagedKeystoreError: it was changed by somebody without them, or is older than it was seen before.
    """
    document = _read_newest(path, credentials.environ)
    unlocked = unlock_keystore(document, str(path), credentials)
    remember(document, path, credentials.environ)
    _warn_of_old_version(document, path)
    return unlocked


def open_versions(place: KeyPlace, credentials: Credentials) -> tuple[UnlockedKeystore, tuple[StoredKey, ...]]:
    """Return the keystore that a reference names, which the caller wipes, and its key's versions, oldest first.

    Raises:
        KeyNotFoundError: it has no such key.
        KeystoreError, PassphraseError, DamagedKeystoreError: as `open_keystore`.
    """
    try:
        unlocked = open_keystore(place.path, credentials)
    except PassphraseError:
        find_versions(read_keystore(place.path), place)  # that there is no such key is the better error
        raise
    try:
        return unlocked, find_versions(unlocked.document, place)
    except BaseException:
        unlocked.wipe()
        raise


def read_as_can_be(path: Path, credentials: Credentials) -> ReadKeystore:
    """Return what a keystore says: authenticated where its secret is at hand, without asking anybody for it.

    What was authenticated before in this process, under the same secret, costs no derivation again.

    Raises:
        KeystoreError: it is missing or cannot be read.
        PassphraseError: a secret is at hand, and does not open it, of whichever kind it is.
        DamagedKeystoreError: it was changed by somebody without the secret, or is older than it was seen before.
    """
    document = _read_newest(path, credentials.environ)
    if not has_secret(document, str(path), credentials):
        return ReadKeystore(document, _NO_SECRET)
    # The secret is part of the name: what one secret opened is not proven to who holds another.
    secret = secret_fingerprint(document, str(path), credentials, _process_key)
    name = hmac.digest(_process_key, encode_keystore(document) + secret, "sha256")
    if name not in _proven:
        try:
            unlock_keystore(document, str(path), credentials).wipe()
        finally:
            credentials.forget()
        _proven[name] = None
        while len(_proven) > _MOST_PROVEN:
            _proven.popitem(last=False)
    remember(document, path, credentials.environ)
    _warn_of_old_version(document, path)
    return ReadKeystore(document, None)


def read_versions(
    place: KeyPlace, credentials: Credentials, *, prove: bool
) -> tuple[tuple[StoredKey, ...], str | None]:
    """Return the versions of a key, oldest first, and why nothing proves them; None where they are proven.

    Args:
        place: of the key.
        credentials: what may hold the secret.
        prove: ask for the secret where it is not at hand.

    Raises:
        KeyNotFoundError: there is no such key.
        KeystoreError, PassphraseError, DamagedKeystoreError: as `open_keystore` or `read_as_can_be`.
    """
    if prove:
        unlocked, versions = open_versions(place, credentials)
        unlocked.wipe()
        return versions, None
    read = read_as_can_be(place.path, credentials)
    return find_versions(read.document, place), read.doubt


def _warn_of_old_version(document: KeystoreDocument, path: Path) -> None:
    """Say once in a process that a keystore is of the old version."""
    if not document.is_sealed:
        warn_once(
            _logger,
            "keystore %s is not sealed as a whole: a key that was taken out is not noticed; "
            "pipecrypt keys accept-backup seals it, as does any change",
            path,
        )


_proven: OrderedDict[bytes, None] = OrderedDict()
_process_key: Final = random_bytes(32)


def _read_newest(path: Path, environ: Mapping[str, str]) -> KeystoreDocument:
    document = read_keystore(path)
    for _ in range(_MOST_TRIES):
        try:
            check_age(document, str(path), environ)
        except DamagedKeystoreError:
            # Another process may have replaced the file, and remembered it, after it was read here.
            again = read_keystore(path)
            if again == document:
                raise
            document = again
        else:
            return document
    raise DamagedKeystoreError(f"keystore {path} changes faster than it can be read", hint="run the command again")


_LOCK_SECONDS: Final = 60.0  # passphrases are stretched under the lock, which takes seconds
_TEMPORARY: Final = ".tmp"
_PRIVATE_DIRECTORY: Final = 0o700


@contextmanager
def locked_directory(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Hold the lock of the directory of the keystore `path`; waits for other writers. The directory is made if absent.

    What it gives puts a file with some bytes in the place of the keystore, whole or not at all.

    Raises:
        KeystoreError: the file system refused, also inside of the `with` block.
        StorageError: it is full.
        ConflictError: another process holds the lock for long.
    """
    path = _resolve(path)

    def put(data: bytes) -> None:
        _remove_leftovers(descriptor, path.name)
        replace_private_file(descriptor, path.name, data, suffix=_TEMPORARY)

    try:
        path.parent.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            take_lock(descriptor, str(path.parent), wait_seconds=_LOCK_SECONDS)
            yield put
        finally:
            os.close(descriptor)  # drops the lock
    except OSError as error:
        raise file_failure(error, "keystore", path, "written") from error


def _remove_leftovers(directory: int, keystore: str) -> None:
    # Whoever holds the lock is the only writer, so none of these is still being written.
    leftover = re.compile(rf"\.{re.escape(keystore)}\.[0-9a-f]{{16}}{re.escape(_TEMPORARY)}")
    for name in filter(leftover.fullmatch, os.listdir(directory)):
        if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)


def _resolve(path: Path) -> Path:
    # A symbolic link is kept, and the file that it points to is replaced. One that leads nowhere makes nothing there.
    try:
        for each in (path, *path.parents):
            if each.is_symlink() and not each.exists():
                raise KeystoreError(f"keystore {path} cannot be written: {each} is a link that leads nowhere")
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise file_failure(error, "keystore", path, "written") from error
