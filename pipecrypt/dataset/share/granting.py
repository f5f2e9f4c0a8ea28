"""Share the KEKs of a dataset with one more master key, and take that back.

No data file is touched, and no signature changes: grants lie beside the manifest, which does not speak of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipecrypt.dataset.share.grants import add_grants, grants_above
from pipecrypt.dataset.share.kek_search import EncryptedData, KEKSearch, LocatedKEK
from pipecrypt.errors import (
    AccessError,
    DamagedKeystoreError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    UsageError,
)
from pipecrypt.keys.grants import Grant, Grants, check_strengths
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.material import WrappedKEK, dataset_of_kek_text
from pipecrypt.keys.session import KeySession
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.clock import utc_now, utc_text
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["Grantee", "SharingResult", "check_datasets", "share_keks"]


@dataclass(frozen=True, slots=True)
class Grantee:
    """The master key that KEKs are shared with.

    Args:
        session: has this key only.
        key_reference: names it.
    """

    session: KeySession
    key_reference: str

    @property
    def master_key_id(self) -> str:
        """What grants store."""
        return self.session.master_key_id(self.key_reference)


@dataclass(frozen=True, slots=True)
class SharingResult:
    """What sharing did.

    Args:
        granted: KEKs that were wrapped for the target now.
        already: KEKs that it could open before.
        unopened: master keys of KEKs that no given key opens, sorted.
    """

    granted: int
    already: int
    unopened: tuple[str, ...]


def check_datasets(place: EncryptedData, search: KEKSearch, dataset_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the datasets whose KEKs were found, if all of them are meant.

    Whoever can write to a dataset can put a file of another one there, whose KEK the caller's keys open too. Sharing
    that would give away the other dataset.

    Args:
        place: where they were found.
        search: the KEKs.
        dataset_ids: those that the caller means; none for that of the manifest, or the only one.

    Raises:
        IntegrityError: there are KEKs of a dataset that is not meant.
        UsageError: there are several, and the caller named none.
    """
    found = {_dataset_of(kek): kek for kek in search.keks}
    meant = set(dataset_ids) or ({place.manifest.dataset_id} if place.manifest is not None else set(found))
    for dataset_id, kek in found.items():
        if dataset_id not in meant:
            raise IntegrityError(
                f"{kek.file.display} has a key encryption key of dataset {dataset_id or 'without id'}, not of "
                f"{', '.join(sorted(meant))}",
                hint="find out who put it there; pipecrypt verify names files that were not signed",
            )
    if len(found) > 1 and not dataset_ids:
        raise UsageError(
            f"{place.name} holds files of {len(found)} datasets: {', '.join(sorted(found))}",
            hint="name those that you mean with --dataset-id, once for each",
        )
    return tuple(sorted(found))


def share_keks(
    place: EncryptedData, search: KEKSearch, opening: KeySession, target: Grantee, *, now: datetime | None = None
) -> SharingResult:
    """Wrap each KEK that the opening keys open for the target, and add the grants to those beside the data.

    Each KEK is proven first: it opened a data key of this dataset. A grant that is there already is tried where the
    target can open keys; where it is a public key, it is made anew.

    Args:
        place: where.
        search: the KEKs.
        opening: opens them now, by themselves or by grants.
        target: whom to share with.
        now: the time of the grants; default: this machine's.

    Raises:
        KeyNotFoundError: not one of the KEKs can be opened.
        PolicyError: post-quantum and other recipients would share a KEK.
        ConflictError: another command holds the lock of the grants.
        PipecryptError: a key service or the storage failed; nothing was changed.
    """
    existing = place.read_grants()
    since = utc_text(now or utc_now())
    made, already, unopened, failure = list[Grant](), 0, set[str](), None
    origins: dict[str, RequestOrigin] = {}  # what is wrong in one file counts against that one
    for kek in search.keks:
        origin = origins.setdefault(kek.file.display, RequestOrigin())
        if kek.material.master_key_id == target.master_key_id or _is_granted(kek, existing, target, opening, origin):
            already += 1
            continue
        try:
            made.append(_share(place, kek, opening, target, since, origin))
        except KeyNotFoundError as error:
            failure = error
            unopened.add(kek.material.master_key_id)
    if failure is not None and not made and not already:
        raise failure
    if made:
        own = {kek.id: kek.material.master_key_id for kek in search.keks}
        for grant in made:
            others = [each.master_key_id for each in existing.of(grant.kek_id)]
            check_strengths([own[grant.kek_id], *others, grant.master_key_id])
        add_grants(place.grants, made)
    return SharingResult(len(made), already, tuple(sorted(unopened)))


def _share(  # noqa: PLR0917
    place: EncryptedData, kek: LocatedKEK, opening: KeySession, target: Grantee, since: str, origin: RequestOrigin
) -> Grant:
    _, path = locate(kek.file)
    grants = grants_above(opening, place.files, path)
    try:
        key = opening.open_kek(kek.material, kek.context, grants, origin=origin)
    except DamagedKeystoreError:  # an error of the caller's keystore, not of the file
        raise
    except (FormatError, IntegrityError) as error:
        raise error.prefixed(kek.file.display) from error
    with key:
        wrapped = target.session.wrap_kek(target.key_reference, key, _dataset_of(kek))
    return Grant(kek.id, target.master_key_id, wrapped, since)


def _is_granted(kek: LocatedKEK, existing: Grants, target: Grantee, opening: KeySession, origin: RequestOrigin) -> bool:
    for grant in existing.of(kek.id):
        if grant.master_key_id != target.master_key_id or kek.material.kek is None:
            continue
        as_if_own = replace(
            kek.material, master_key_id=grant.master_key_id, kek=WrappedKEK(kek.material.kek.id, grant.wrapped)
        )
        try:
            with target.session.open_kek(as_if_own, kek.context, origin=origin) as granted:
                return _is_the_one(granted, kek, opening, origin)
        except DamagedKeystoreError:  # an error of the caller's keystore, not of the grant
            raise
        except (AccessError, IntegrityError, FormatError):
            return False  # forged, or the target cannot tell: it is made anew
    return False


def _is_the_one(granted: DataKey, kek: LocatedKEK, opening: KeySession, origin: RequestOrigin) -> bool:
    """Return whether a grant holds the KEK that files hold for its own master key, as far as that can be opened.

    A data key proves a grant for its own file only: who can write there can add a file, and grants that fit it.
    """
    try:
        with opening.unwrap_kek_text(_wrapped(kek), kek.material.master_key_id, origin) as own:
            return own.same_as(granted)
    except DamagedKeystoreError:  # likewise
        raise
    except AccessError:
        return True


def _dataset_of(kek: LocatedKEK) -> str:
    return dataset_of_kek_text(_wrapped(kek)) or ""


def _wrapped(kek: LocatedKEK) -> str:
    return "" if kek.material.kek is None else kek.material.kek.wrapped
