"""The calls `pipecrypt.grant`, `revoke` and `rotate`: who may open the keys of a dataset.

Only `rotate(..., deep=True)` rewrites footers; all else leaves every data file as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.dataset.requirements import checks_of
from pipecrypt.dataset.share.granting import Grantee, check_datasets, share_keks
from pipecrypt.dataset.share.grants import remove_grants
from pipecrypt.dataset.share.kek_search import EncryptedData as FoundPlace
from pipecrypt.dataset.share.kek_search import find_encrypted_data, search_keks
from pipecrypt.dataset.trust import Trust, given_trust
from pipecrypt.dataset.version import VerifiedVersion
from pipecrypt.errors import KeyNotFoundError, KeyReferenceError, NotEncryptedError, UsageError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.keyring import Keyring
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.deep_rotation import DeepRotation, DeepSummary, rotate_deeply
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.runs.files import listed_keys
from pipecrypt.store.location import Location, Place

__all__ = ["GrantSummary", "RevokeSummary", "grant", "revoke", "rotate"]

_UNCHECKED: Final = Trust(verify="off")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSummary:
    """What granting did. No data file was touched.

    Args:
        operation: grant or rotate.
        dataset: where.
        grants: the file that holds the grants.
        master_key_id: whom the KEKs were wrapped for.
        dataset_ids: of the datasets whose KEKs they are.
        keks: how many different KEKs the files use.
        granted: those that were wrapped now.
        already: those that this master key could open before.
        unopened: master keys of KEKs that no given key opens, and that stay as they are.
        hidden_files: files whose encrypted footer no given key opens; the KEKs of their columns are not known.
        footers_read: how many footers were read.
        used_manifest: the manifest said which footers to read; else all were.
        manifest_verified: trusted keys signed it.
        service_calls: to key services.
        seconds: from call to return.
    """

    operation: str
    dataset: str
    grants: str
    master_key_id: str
    dataset_ids: tuple[str, ...]
    keks: int
    granted: int
    already: int
    unopened: tuple[str, ...]
    hidden_files: tuple[str, ...]
    footers_read: int
    used_manifest: bool
    manifest_verified: bool
    service_calls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeSummary:
    """What revoking did. Copies of the data and of its grants, and keys that were unwrapped before, are not undone.

    Args:
        dataset: where.
        grants: the file that holds the grants.
        master_key_ids: whose grants were removed.
        removed: how many grants.
        left: how many grants of others stay.
        is_in_files: the files themselves are wrapped for one of these master keys, as far as the manifest says; None
            without a manifest. Only a deep rotation changes that.
    """

    dataset: str
    grants: str
    master_key_ids: tuple[str, ...]
    removed: int
    left: int
    is_in_files: bool | None


def grant(
    dataset: Place,
    to: str,
    keys: Sequence[str],
    *,
    trust: Trust | Sequence[str] | None = None,
    dataset_ids: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    credentials: Credentials | None = None,
) -> GrantSummary:
    """Let one more master key open all that some keys open, without touching a data file.

    Args:
        dataset: a dataset, a directory or a single file.
        to: key reference of the master key or recipient.
        keys: key references that open it now.
        trust: who must have signed the dataset, as a `Trust` or a list of public keys; default: those in
            PIPECRYPT_TRUST. With none, who can write to it may keep KEKs from being found.
        dataset_ids: of the datasets that are meant, where the files are of several.
        options: storage options, for fsspec.
        credentials: what opens the keys; default: the environment of this process.

    Raises:
        KeyNotFoundError: none of the keys opens anything.
        UsageError: the files are of several datasets, or the target wraps no keys that exist.
        IntegrityError: a file has a KEK of another dataset.
        ConflictError: another command changes the grants.
        PipecryptError: see `pipecrypt.errors`; no grant was added.
    """
    started = time.perf_counter()
    given, opening = given_credentials(credentials), listed_keys(keys)
    place = _find(dataset, options, trust, given)
    return _share(place, opening, to, operation="grant", dataset_ids=dataset_ids, credentials=given, started=started)


def rotate(
    dataset: Place,
    old: str,
    new: str,
    *,
    keys: Sequence[str] = (),
    deep: bool = False,
    also: Sequence[str] = (),
    sign: Sequence[str] = (),
    trust: Trust | Sequence[str] | None = None,
    dataset_ids: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    credentials: Credentials | None = None,
    accept_future_statement: bool = False,
) -> GrantSummary | DeepSummary:
    """Let a new master key open all that an old one opens; the old one still does, unless the rotation is deep.

    The time does not depend on how much data there is, nor on how many files, where a manifest lists their KEKs. A deep
    rotation takes the old master key out of the files: each gets a new footer, and a signed dataset a new version.
    While it runs, readers of a file that is being changed fail, and so do those who verify until it is done.

    Args:
        dataset: as for `grant`.
        old: key reference of the master key that opens it now.
        new: key reference of the master key that shall.
        keys: further keys that open encrypted footers; for a deep rotation, all footers.
        deep: rewrite footers.
        also: key references that the KEKs of a deep rotation are wrapped for, too.
        sign: key references of the signing keys, for a deep rotation of what is signed.
        trust: as for `grant`.
        dataset_ids: as for `grant`.
        options: as for `grant`.
        credentials: as for `grant`.
        accept_future_statement: for a deep rotation of what is signed: go on although the last signer's clock was
            ahead; its time is not undercut.

    Raises:
        PipecryptError: as `grant`.
    """
    started = time.perf_counter()
    given = given_credentials(credentials)
    if not deep and (also or sign or accept_future_statement):
        raise UsageError(
            "also, sign and accept_future_statement belong to a deep rotation", hint="set deep, or leave them out"
        )
    # A reader's trust in the environment refuses what was signed in the future; the signing keys vouch for it here.
    place = _find(dataset, options, _UNCHECKED if accept_future_statement and trust is None else trust, given)
    if deep:
        wish = DeepRotation(
            old=old,
            new=new,
            keys=listed_keys(keys),
            also=listed_keys(also),
            sign=listed_keys(sign),
            dataset_ids=tuple(dataset_ids),
            accept_future_statement=accept_future_statement,
        )
        return rotate_deeply(place, wish, given)
    return _share(
        place,
        (old,),
        new,
        operation="rotate",
        for_footers=listed_keys(keys),
        dataset_ids=dataset_ids,
        credentials=given,
        started=started,
    )


def revoke(
    dataset: Place,
    key: str,
    *,
    options: Mapping[str, object] | None = None,
    credentials: Credentials | None = None,
) -> RevokeSummary:
    """Remove the grants of a master key.

    That takes nothing back that its holder has: copies of the grants and the data, and keys unwrapped before. Nor does
    it change the files, which may be wrapped for it themselves.

    Args:
        dataset: as for `grant`.
        key: a master key id as grants have it, or a key reference, which stands for all versions of that key.
        options: as for `grant`.
        credentials: what opens a key reference; default: the environment of this process.

    Raises:
        KeyNotFoundError: there is no grant for it.
        PipecryptError: see `pipecrypt.errors`; no grant was removed.
    """
    given = given_credentials(credentials)
    place = _find(dataset, options, _UNCHECKED, given)
    location, manifest = place.grants, place.manifest
    existing = place.read_grants()
    ids = _ids_of(key, given)
    removed = remove_grants(location, ids)
    if not removed:
        granted = sorted({each.master_key_id for each in existing.all})
        raise KeyNotFoundError(
            f"{place.name} has no grant for {key!a}",
            hint=f"there are grants for: {', '.join(granted) or 'nobody'}",
        )
    left = len(existing.without(ids).all)
    return RevokeSummary(
        dataset=place.name,
        grants=location.display,
        master_key_ids=ids,
        removed=removed,
        left=left,
        is_in_files=None if manifest is None else not manifest.policy.master_key_ids.isdisjoint(ids),
    )


def _share(
    place: FoundPlace,
    keys: tuple[str, ...],
    to: str,
    *,
    operation: str,
    for_footers: tuple[str, ...] = (),
    dataset_ids: Sequence[str],
    credentials: Credentials,
    started: float,
) -> GrantSummary:
    if not keys:
        raise UsageError("a key that opens the data is needed", hint="name it with --key, or keys=[...]")
    with (
        KeySession([*keys, *for_footers], credentials=credentials) as reading,
        KeySession(keys, credentials=credentials) as opening,
        KeySession([to], credentials=credentials) as session,
    ):
        target = Grantee(session, to)
        search = search_keks(place, lambda location: keys_of_file(location, reading))
        if not search.keks and not search.hidden:
            raise NotEncryptedError(f"{place.name} holds no key", hint="nothing there is encrypted under a key service")
        ids = check_datasets(place, search, tuple(dataset_ids))
        shared = share_keks(place, search, opening, target)
        return GrantSummary(
            operation=operation,
            dataset=place.name,
            grants=place.grants.display,
            master_key_id=target.master_key_id,
            dataset_ids=ids,
            keks=len(search.keks),
            granted=shared.granted,
            already=shared.already,
            unopened=shared.unopened,
            hidden_files=tuple(search.hidden),
            footers_read=search.footers_read,
            used_manifest=place.manifest is not None,
            manifest_verified=isinstance(place.version, VerifiedVersion),
            service_calls=sum(each.service_calls for each in (reading, opening, session)),
            seconds=time.perf_counter() - started,
        )


def _find(
    dataset: Place, options: Mapping[str, object] | None, trust: Trust | Sequence[str] | None, credentials: Credentials
) -> FoundPlace:
    checks = checks_of(given_trust(trust), os.environ, credentials)
    return find_encrypted_data(Location.of(dataset, options), checks.requirements)


def _ids_of(key: str, credentials: Credentials) -> tuple[str, ...]:
    # Before the grants are looked at: one that was planted for a key reference's text must not stand for that key.
    try:
        keyring = Keyring([key], credentials, None)
    except KeyReferenceError:
        return (key,)  # an id
    try:
        return tuple(keyring.master_key_ids())
    finally:
        keyring.wipe()
