"""`pipecrypt.rotate(..., deep=True)`: take a master key out of the files, by new footers.

Order: all that can be refused is refused; files are changed, each with an undo file; a signed dataset is published as a
new version; the undo files are dropped. Until the new version is there, who verifies refuses files that were changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.governing import check_none_removed
from pipecrypt.dataset.listing import ENCRYPTED_FILES
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.share.granting import check_datasets
from pipecrypt.dataset.share.grants import add_grants
from pipecrypt.dataset.share.kek_search import EncryptedData, search_keks
from pipecrypt.dataset.share.rekeying import Rekeying
from pipecrypt.dataset.sign.next_version import publish_dataset, publish_file
from pipecrypt.dataset.sign.records import SignedStatement, SigningOptions
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, ROTATION_LOCK_SUFFIX, SIGNATURE_SUFFIX
from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy
from pipecrypt.dataset.version import VerifiedVersion, read_version_to_follow
from pipecrypt.errors import ConflictError, KeyNotFoundError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.runs.journal.block import signed_seal
from pipecrypt.runs.journal.past_runs import put_in_place
from pipecrypt.runs.journal.sink_locking import locked_sink
from pipecrypt.store.listing import list_in_place
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import EntryKind
from pipecrypt.store.small_files import directories_above

__all__ = ["DeepRotation", "DeepSummary", "rotate_deeply"]

_ROTATION: Final = "a deep rotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepRotation:
    """What is asked for.

    Args:
        old: key reference of the master key that is left.
        new: key reference of the master key that takes its place.
        keys: further keys, which open footers under another master key.
        also: key references that the new KEKs are wrapped for, too.
        sign: key references of the signing keys.
        dataset_ids: of the datasets that are meant, where the files are of several.
        accept_future_statement: whether to follow a statement of a signer whose clock was ahead.
    """

    old: str
    new: str
    keys: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    sign: tuple[str, ...] = ()
    dataset_ids: tuple[str, ...] = ()
    accept_future_statement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSummary:
    """What a deep rotation did.

    Args:
        operation: rotate --deep.
        dataset: where.
        master_key_id: that the data keys are under now.
        dataset_ids: of the datasets whose files they are.
        files: how many there are.
        changed: how many got a new footer.
        data_keys: that were wrapped again.
        bytes_moved: that were sent from here, undo files included; bodies too, where the storage neither changes files
            in place nor copies within itself.
        total_bytes: of all files.
        put_back: files that an earlier call had left in between, and that were put back first.
        lost_grants: master keys that had grants of KEKs which the files no longer use; they open them no more.
        signed: the statements that were published.
        service_calls: to key services.
        seconds: from call to return.
    """

    operation: str = "rotate --deep"
    dataset: str
    master_key_id: str
    dataset_ids: tuple[str, ...]
    files: int
    changed: int
    data_keys: int
    bytes_moved: int
    total_bytes: int
    put_back: int
    lost_grants: tuple[str, ...]
    signed: tuple[SignedStatement, ...]
    service_calls: int
    seconds: float


def rotate_deeply(place: EncryptedData, wish: DeepRotation, credentials: Credentials) -> DeepSummary:
    """Put all data keys of one master key under another.

    Raises:
        UsageError: what is there is signed, and no signing key was given; or it is a part of what is.
        KeyNotFoundError: nothing there is under the old master key, nor under the new one.
        ConflictError: another deep rotation of it is running, or a run writes there.
        PipecryptError: see `pipecrypt.errors`. Of signed files, those that were changed are put back; where even that
            fails, or the process dies, the same call goes on from there.
    """
    started = time.perf_counter()
    _check_signing(place, wish)
    with ExitStack() as stack:
        # Another rotation would take the undo files of this one for those of a dead process, and put files back.
        location = place.files.location(place.path)
        lock = place.files.location(place.path + ROTATION_LOCK_SUFFIX)
        held = open_store(location).holding(lock) if place.is_file else locked_sink(location, _ROTATION)
        stack.enter_context(held)
        signing = _open_signers(stack, place, wish, credentials) if wish.sign else None
        if signing is not None and not place.is_file:
            put_in_place(location, signing[1], signed_seal(signing[0]))  # footers change where their files belong
        sessions = tuple(
            stack.enter_context(KeySession(references, credentials=credentials, also=also))
            for references, also in (
                ((wish.old, *wish.keys, wish.new), ()),
                ((wish.old,), ()),
                ((wish.new,), wish.also),
            )
        )
        return _rotate(place, wish, sessions, signing=signing, started=started)


def _rotate(
    place: EncryptedData,
    wish: DeepRotation,
    sessions: Sequence[KeySession],
    *,
    signing: tuple[OpenSigners, VerifiedVersion] | None,
    started: float,
) -> DeepSummary:
    """Change all files, and publish what is signed about them.

    Args:
        place: what is rotated.
        wish: what is asked for.
        sessions: that open footers, the old master key, and the new one.
        signing: the signing keys and the version that they follow; None where nothing is signed.
        started: when the call began.
    """
    reading, old, new = sessions
    new_id = new.master_key_id(wish.new)
    old_ids = frozenset(old.master_key_ids()) - {new_id}
    if not old_ids:
        raise UsageError("the old master key is the new one", hint="name another, or make a new version of it first")
    rekeying = Rekeying(
        old_ids=old_ids,
        session=new,
        key_reference=wish.new,
        keys_of=lambda file: keys_of_file(file, reading),
        before_change=lambda: add_grants(place.grants, made) if (made := new.take_grants()) else None,
    )
    entries = _change_files(place, wish, reading, None if signing is None else signing[1], rekeying)
    if not rekeying.changed and not rekeying.put_back and new_id not in rekeying.seen_master_keys:
        # Files that have keys under the new one were rotated before. Where none has, the old one is a mistake.
        hint = "pipecrypt keys usage tells which keys there are"
        raise KeyNotFoundError(f"no file of {place.name} has a key under {wish.old}", hint=hint)
    signed: tuple[SignedStatement, ...] = ()
    if signing is not None and rekeying.changed:
        promise = _renamed(signing[1].manifest.policy, old_ids, new_id)
        signed = (_sign(place, *signing, entries, promise),)
    rekeying.finish()
    return DeepSummary(
        dataset=place.name,
        master_key_id=new_id,
        dataset_ids=tuple(rekeying.dataset_ids),
        files=rekeying.files,
        changed=len(rekeying.changed),
        data_keys=rekeying.data_keys,
        bytes_moved=rekeying.bytes_moved,
        total_bytes=rekeying.total_bytes,
        put_back=rekeying.put_back,
        lost_grants=_lost_grants(place, rekeying, new),
        signed=signed,
        service_calls=sum(each.service_calls for each in sessions),
        seconds=time.perf_counter() - started,
    )


def _change_files(
    place: EncryptedData, wish: DeepRotation, reading: KeySession, earlier: VerifiedVersion | None, rekeying: Rekeying
) -> list[FileEntry]:
    """Change all files, and return what is to be signed about them; they are put back where one fails."""
    if earlier is None:
        for file, _ in _files(place, earlier):
            rekeying.settle(file)
        search = search_keks(place, lambda file: keys_of_file(file, reading))
        rekeying.dataset_ids = check_datasets(place, search, wish.dataset_ids)
    else:
        rekeying.dataset_ids = (earlier.manifest.dataset_id,)
    try:
        entries = [rekeying.change(file, entry) for file, entry in _files(place, earlier)]
    except BaseException:
        rekeying.roll_back()
        raise
    return [each for each in entries if each is not None]


def _check_signing(place: EncryptedData, wish: DeepRotation) -> None:
    if not wish.sign and (place.manifest is not None or (place.is_file and _is_there(place, SIGNATURE_SUFFIX))):
        raise UsageError(
            f"{place.name} is signed, and new footers need a new signature", hint="name the signing key with --sign"
        )
    for directory in directories_above(place.path):
        if open_store(place.files.location(f"{directory}/{MANIFEST_PATH}")).stat().kind is EntryKind.FILE:
            raise UsageError(
                f"{place.name} is a part of the signed dataset {place.files.display(directory)}",
                hint="rotate the whole dataset",
            )
    if not wish.sign:
        _check_none_removed(place)


def _check_none_removed(place: EncryptedData) -> None:
    subject = place.files.location(place.path + SIGNATURE_SUFFIX) if place.is_file else place.location
    check_none_removed(subject, VersionMemory.of_user(os.environ))


def _is_there(place: EncryptedData, suffix: str) -> bool:
    return open_store(place.files.location(place.path + suffix)).stat().kind is EntryKind.FILE


def _open_signers(
    stack: ExitStack, place: EncryptedData, wish: DeepRotation, credentials: Credentials
) -> tuple[OpenSigners, VerifiedVersion]:
    """Open the signing keys, and return them with the version that they follow; they sign as it was signed."""
    file_signed = place.is_file and _is_there(place, SIGNATURE_SUFFIX)
    options = SigningOptions(
        key_references=wish.sign,
        digest=DigestAlgorithm.SHA256,
        valid_for=None,
        accept_future_statement=wish.accept_future_statement,
    )
    earlier = None
    if place.manifest is not None or file_signed:
        signers = stack.enter_context(OpenSigners(options, credentials, VersionMemory.of_user(os.environ)))
        earlier = read_version_to_follow(place.location, signers.memory, signers.requirements, is_file=place.is_file)
    if earlier is None:
        _check_none_removed(place)
        raise UsageError(f"{place.name} is not signed, so there is nothing to sign anew", hint="leave out --sign")
    manifest = earlier.manifest
    if len(manifest.digests) > 1:
        raise UsageError(f"{place.name} was signed with two digests of each file", hint="rotate it by grants")
    valid_for = None if manifest.expires is None else manifest.expires - manifest.created
    signers.options = replace(options, digest=manifest.digests[0], valid_for=valid_for)
    return signers, earlier


def _files(place: EncryptedData, earlier: VerifiedVersion | None) -> Iterator[tuple[Location, FileEntry | None]]:
    if earlier is None:
        for source in list_in_place(place.location, ENCRYPTED_FILES):
            yield source.location, None
    elif earlier.manifest.single_file is not None:
        yield place.files.location(place.path), earlier.manifest.single_file
    else:
        for entry in earlier.entries.values():
            yield place.files.location(f"{place.path}/{entry.path}"), entry


def _sign(
    place: EncryptedData,
    signers: OpenSigners,
    earlier: VerifiedVersion,
    entries: Sequence[FileEntry],
    promise: PromisedPolicy,
) -> SignedStatement:
    location, dataset_id = place.location, earlier.manifest.dataset_id
    try:
        if place.is_file:
            return publish_file(location, entries[0], promise, dataset_id=dataset_id, signers=signers, earlier=earlier)
        return publish_dataset(
            location,
            entries,
            promise,
            dataset_id=dataset_id,
            signers=signers,
            earlier=earlier,
            run=earlier.manifest.run,
        )
    except ConflictError as error:
        hint = "files are changed and can be put back: run the same command again"
        raise ConflictError(error.message, hint=hint) from error


def _renamed(policy: PromisedPolicy, old_ids: frozenset[str], new_id: str) -> PromisedPolicy:
    def names(ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({new_id if each in old_ids else each for each in ids}))

    return PromisedPolicy(
        footer=policy.footer,
        footer_key_ids=names(policy.footer_key_ids),
        columns=tuple(PromisedColumn(column.path, names(column.master_key_ids)) for column in policy.columns),
        other_key_ids=None if policy.other_key_ids is None else names(policy.other_key_ids),
        bind_path=policy.bind_path,
    )


def _lost_grants(place: EncryptedData, rekeying: Rekeying, session: KeySession) -> tuple[str, ...]:
    lost = {grant.master_key_id for grant in place.read_grants().all if grant.kek_id in rekeying.left_keks}
    return tuple(sorted(lost.difference(session.master_key_ids())))
