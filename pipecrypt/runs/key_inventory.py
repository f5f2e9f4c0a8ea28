"""`pipecrypt keys usage` and `keys destroy`: what keys protect, and what becomes unreadable without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipecrypt.dataset.share.kek_search import find_encrypted_data
from pipecrypt.dataset.share.key_usage import DatasetUsage, GrantProofs, KeyUsage, UsageClaims
from pipecrypt.errors import ConflictError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.keystores import KeystoreEntry, find_doomed, remove_keys, usable_beside
from pipecrypt.keys.session import KeySession
from pipecrypt.store.location import Location, Place

__all__ = ["Destruction", "Loss", "destroy_keys", "key_usage"]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a dataset loses with a master key.

    Args:
        dataset: where.
        hidden_files: files whose columns may be lost as well: their encrypted footers do not tell.
        key: what the master key protects there; `only_opener_of` counts the KEKs that nothing opens any more, and
            `claimed_by_grants` those of which only grants say that something does, which anybody may have written.
    """

    dataset: str
    hidden_files: int
    key: KeyUsage


@dataclass(frozen=True, slots=True)
class Destruction:
    """Keys that were removed, or would be.

    Args:
        is_dry_run: nothing was removed.
        keys: the versions of the key.
        losses: of the datasets that were named, where they use these keys.
        datasets: how many were looked into.
    """

    is_dry_run: bool
    keys: tuple[KeystoreEntry, ...]
    losses: tuple[Loss, ...]
    datasets: int


def key_usage(dataset: Place, *, options: Mapping[str, object] | None = None) -> DatasetUsage:
    """Return which master key protects which columns, files and batches of a dataset; no key is needed.

    Nothing of it is authenticated: verify the dataset for that.

    Args:
        dataset: a dataset, a directory or a file.
        options: storage options, for fsspec.

    Raises:
        PipecryptError: a footer cannot be read, or nothing is there.
    """
    return UsageClaims(find_encrypted_data(Location.of(dataset, options), None)).usage


def destroy_keys(
    reference: str,
    *,
    version: int | None = None,
    datasets: Sequence[Place] = (),
    keys: Sequence[str] = (),
    accept_loss: bool = False,
    dry_run: bool = True,
    credentials: Credentials | None = None,
) -> Destruction:
    """Remove a key from its keystore for good, or tell what that would make unreadable.

    What grants say is believed only where it is proven: a key that stays, of the same keystore or one that the caller
    names, opens the same KEK.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the one version that is meant; default: all.
        datasets: where to look for what becomes unreadable; no other place is looked into.
        keys: key references that open the datasets afterwards.
        accept_loss: remove it even if only grants claim that something else opens the data.
        dry_run: remove nothing.
        credentials: what opens the keystore; default: the environment of this process.

    Raises:
        ConflictError: only grants claim that something else opens the data.
        PipecryptError: see `pipecrypt.errors`; nothing was removed.
    """
    given = given_credentials(credentials)
    doomed = find_doomed(reference, version, given, prove=not dry_run)
    ids = frozenset(each.master_key_id for each in doomed)
    claims = [UsageClaims(find_encrypted_data(Location.of(dataset, None), None)) for dataset in datasets]
    # Without the secret nothing can be proven, and a look asks for none.
    beside = usable_beside(reference, given, ask=not dry_run or bool(keys)) if claims else None
    if beside is None:
        losses = [loss for each in claims for loss in _losses(each, ids, None)]
    else:
        with KeySession([*beside, *keys], credentials=given) as session:
            losses = [loss for each in claims for loss in _losses(each, ids, GrantProofs(session, ids))]
    if not dry_run:
        _check_claims(reference, losses, accept_loss=accept_loss)
        remove_keys(reference, version, given)
    return Destruction(dry_run, doomed, tuple(losses), len(datasets))


def _losses(claims: UsageClaims, ids: frozenset[str], proofs: GrantProofs | None) -> list[Loss]:
    found: list[Loss] = []
    for claimed in claims.usage.keys:
        if claimed.master_key_id in ids:
            wrapped = claims.wrapped(claimed.master_key_id)
            key = claimed if proofs is None else proofs.applied_to(claimed, wrapped, claims.grants)
            found.append(Loss(claims.usage.dataset, claims.usage.hidden_files, key))
    return found


def _check_claims(reference: str, losses: Sequence[Loss], *, accept_loss: bool) -> None:
    for loss in losses:
        if loss.key.claimed_by_grants and not accept_loss:
            raise ConflictError(
                f"{loss.dataset}: only grants claim that other keys open {loss.key.claimed_by_grants} of the key "
                f"encryption keys of {reference}, and who can write there can write grants",
                hint="name a key that opens them with --key; or give --accept-loss, if they may be lost",
            )
