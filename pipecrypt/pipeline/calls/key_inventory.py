"""`pipecrypt keys usage` and `keys destroy`: what keys protect, and what becomes unreadable without them.

Reading footers is left to dataset, changing keystores to keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipecrypt.dataset.sharing.kek_search import find_place
from pipecrypt.dataset.sharing.key_usage import DatasetUsage, KeyUsage, read_usage
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.keystore.making import KeystoreEntry
from pipecrypt.keys.services.keystore.removal import find_doomed, remove_keys
from pipecrypt.storage.location import Location, Place

__all__ = ["Destruction", "Loss", "destroy_keys", "key_usage"]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a dataset loses with a master key.

    Args:
        dataset: where.
        hidden_files: files whose columns may be lost as well: their encrypted footers do not tell.
        key: what the master key protects there; `only_opener_of` counts the KEKs that nothing opens any more.
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
    return read_usage(find_place(Location.of(dataset, options), None))


def destroy_keys(
    reference: str,
    *,
    version: int | None = None,
    datasets: Sequence[Place] = (),
    dry_run: bool = True,
    credentials: Credentials | None = None,
) -> Destruction:
    """Remove a key from its keystore for good, or tell what that would make unreadable.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the one version that is meant; default: all.
        datasets: where to look for what becomes unreadable; no other place is looked into.
        dry_run: remove nothing.
        credentials: what opens the keystore; default: the environment of this process.

    Raises:
        PipecryptError: see `pipecrypt.errors`; nothing was removed.
    """
    keys = find_doomed(reference, version)
    ids = {each.master_key_id for each in keys}
    losses = [
        Loss(usage.dataset, usage.hidden_files, key)
        for usage in map(key_usage, datasets)
        for key in usage.keys
        if key.master_key_id in ids
    ]
    if not dry_run:
        remove_keys(reference, version, Credentials.from_environment() if credentials is None else credentials)
    return Destruction(dry_run, keys, tuple(losses), len(datasets))
