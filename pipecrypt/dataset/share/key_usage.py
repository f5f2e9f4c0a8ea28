"""Tell which master key protects what in a dataset, and prove which of its KEKs another key opens as well.

The usage is told without any key, so nothing of it is authenticated: an encrypted footer shows its own key only, and
hides the columns. Whoever can write to a dataset can write grants and files, so what they say is believed of neither. A
KEK is proven to have another opener where the doomed master key opens the wrapped text that files hold, another key of
the caller's opens the grant, and both give the same 256 bits. What the doomed key does not open is not one of its KEKs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipecrypt.dataset.listing import ENCRYPTED_FILES
from pipecrypt.dataset.share.kek_search import EncryptedData
from pipecrypt.errors import AccessError, DamagedKeystoreError, FormatError, IntegrityError, UnsupportedError
from pipecrypt.keys.grants import Grant, Grants
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.material import KeyMaterial, MaterialReader
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.keys import column_key_uses, footer_key_use, read_key_names
from pipecrypt.parquet.footer.stored import StoredFooter
from pipecrypt.store.listing import list_sources
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "ColumnUsage",
    "DatasetUsage",
    "GrantProofs",
    "KeyUsage",
    "UsageClaims",
    "WrappedKEK",
]


@dataclass(frozen=True, slots=True)
class ColumnUsage:
    """A column under a master key.

    Args:
        path: dotted.
        files: how many files have it so.
        batches: in how many row groups of them.
        data_keys: how many different data keys.
    """

    path: str
    files: int
    batches: int
    data_keys: int


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What a master key protects.

    Args:
        master_key_id: as files or grants name it.
        files: where it wraps a key itself.
        footers: of those whose footer key is under it.
        columns: sorted by path.
        keks: how many different KEKs it wraps in files.
        granted_keks: KEKs of other master keys that it opens by grants.
        granted_since: time of the first of those grants, in UTC; None without one.
        shared_with: master keys that open KEKs of this one by grants, as those claim, sorted.
        only_opener_of: how many of its KEKs nothing else opens, not even by what grants claim.
        claimed_by_grants: how many of its KEKs others open by what grants claim, which nothing proves: who can write to
            the dataset can write grants.
        proven_by_grants: how many of its KEKs another key of the caller's was found to open.
    """

    master_key_id: str
    files: int
    footers: int
    columns: tuple[ColumnUsage, ...]
    keks: int
    granted_keks: int
    granted_since: str | None
    shared_with: tuple[str, ...]
    only_opener_of: int
    claimed_by_grants: int = 0
    proven_by_grants: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUsage:
    """Which master key protects what.

    Args:
        dataset: where.
        version: of the manifest; None without one.
        since: when that version was signed, in UTC; None without one.
        files: how many there are.
        plaintext_files: how many of them are not encrypted.
        hidden_files: how many have an encrypted footer, which hides the keys of columns.
        unnamed_keys: data keys whose key metadata names no master key.
        keys: sorted by id.
    """

    dataset: str
    version: int | None
    since: str | None
    files: int
    plaintext_files: int
    hidden_files: int
    unnamed_keys: int
    keys: tuple[KeyUsage, ...]


@dataclass(slots=True)
class WrappedKEK:
    """What files hold of a KEK under one master key.

    Args:
        texts: of "wrappedKEK".
        has_unreadable: a file names the KEK in key material that is malformed, or that this version cannot read.
        files: that name it so.
    """

    texts: set[str] = field(default_factory=set)
    has_unreadable: bool = False
    files: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _KeyClaims:
    """What was seen of a master key so far; what belongs to columns is by their dotted paths."""

    files: set[str] = field(default_factory=set)
    footers: int = 0
    keks: dict[str, WrappedKEK] = field(default_factory=dict)
    column_files: dict[str, set[str]] = field(default_factory=dict)
    batches: Counter[str] = field(default_factory=Counter)
    data_keys: Counter[str] = field(default_factory=Counter)


class UsageClaims:
    """What footers, manifest and grants claim, and what a proof of it takes.

    Args:
        place: where all footers are read.

    Attributes:
        usage: as they claim it.
        grants: of the dataset.

    Raises:
        PipecryptError: a footer cannot be read or is malformed, or there is no file.
    """

    def __init__(self, place: EncryptedData) -> None:
        """Read all of them."""
        self.grants = place.read_grants()
        self._keys: dict[str, _KeyClaims] = {}
        self._reader = MaterialReader()
        self._files = self._plaintext = self._hidden = self._unnamed = 0
        for source, stored in place.read_footers(list_sources(place.location, ENCRYPTED_FILES)):
            self._look_into(source, stored)
        manifest = place.manifest
        self.usage = DatasetUsage(
            dataset=place.name,
            version=None if manifest is None else manifest.version,
            since=None if manifest is None else utc_text(manifest.created),
            files=self._files,
            plaintext_files=self._plaintext,
            hidden_files=self._hidden,
            unnamed_keys=self._unnamed,
            keys=self._usages(),
        )

    def wrapped(self, master_key_id: str) -> Mapping[str, WrappedKEK]:
        """Return what files hold of each KEK under a master key, by KEK id."""
        return self._keys.get(master_key_id, _KeyClaims()).keks

    def _look_into(self, file: SourceFile, stored: StoredFooter) -> None:
        self._files += 1
        sealed = stored.sealed
        if sealed is None:
            self._plaintext += 1
            return
        seen = self._named(footer_key_use(sealed).key_metadata, file)
        if seen is not None:
            seen.footers += 1
        if sealed.metadata is None:
            self._hidden += 1
            return
        known: set[bytes] = set()
        for use in column_key_uses(sealed, sealed.metadata):
            seen = self._named(use.key_metadata, file)
            if seen is not None:
                path = ".".join(use.context.column or ())
                seen.column_files.setdefault(path, set()).add(file.relative_path)
                seen.batches[path] += 1
                seen.data_keys[path] += use.key_metadata not in known
            known.add(use.key_metadata)

    def _named(self, key_metadata: bytes, file: SourceFile) -> _KeyClaims | None:
        names = read_key_names(key_metadata)
        if names.master_key_id is None:
            self._unnamed += 1
            return None
        seen = self._keys.setdefault(names.master_key_id, _KeyClaims())
        seen.files.add(file.relative_path)
        if names.kek_id is not None:
            kek = seen.keks.setdefault(names.kek_id, WrappedKEK())
            kek.files.add(file.relative_path)
            text = self._wrapped_text(key_metadata)
            if text is None:
                kek.has_unreadable = True
            else:
                kek.texts.add(text)
        return seen

    def _wrapped_text(self, key_metadata: bytes) -> str | None:
        try:
            material = self._reader.parse(key_metadata)
        except (FormatError, UnsupportedError):
            return None
        return material.kek.wrapped if isinstance(material, KeyMaterial) and material.kek is not None else None

    def _usages(self) -> tuple[KeyUsage, ...]:
        # Grouped once: who can write grants can name as many master keys in them as there are grants.
        granted: dict[str, list[Grant]] = {}
        for grant in self.grants.all:
            granted.setdefault(grant.master_key_id, []).append(grant)
        return tuple(
            _usage(key_id, self._keys.get(key_id, _KeyClaims()), granted.get(key_id, ()), self.grants)
            for key_id in sorted({*self._keys, *granted})
        )


def _usage(key_id: str, seen: _KeyClaims, granted: Sequence[Grant], grants: Grants) -> KeyUsage:
    others = {kek: {each.master_key_id for each in grants.of(kek)} - {key_id} for kek in seen.keks}
    return KeyUsage(
        master_key_id=key_id,
        files=len(seen.files),
        footers=seen.footers,
        columns=tuple(
            ColumnUsage(path, len(seen.column_files[path]), seen.batches[path], seen.data_keys[path])
            for path in sorted(seen.batches)
        ),
        keks=len(seen.keks),
        granted_keks=len({grant.kek_id for grant in granted}.difference(seen.keks)),
        granted_since=min((grant.since for grant in granted), default=None),
        shared_with=tuple(sorted(set().union(*others.values()))),
        only_opener_of=sum(not each for each in others.values()),
        claimed_by_grants=sum(bool(each) for each in others.values()),
    )


@dataclass(frozen=True, slots=True)
class GrantProofs:
    """Finds out which KEKs others open.

    Args:
        session: opens the doomed master keys, and those that stay.
        doomed: the ids of the master keys that are about to be destroyed; a grant to one of them proves nothing.
    """

    session: KeySession
    doomed: frozenset[str]
    _origins: dict[str, RequestOrigin] = field(default_factory=dict)

    def applied_to(self, usage: KeyUsage, wrapped: Mapping[str, WrappedKEK], grants: Grants) -> KeyUsage:
        """Return what a doomed master key protects, with its KEKs sorted anew by what is proven.

        Args:
            usage: as files and grants claim it.
            wrapped: what files hold of each KEK id under that master key.
            grants: of the dataset.

        Raises:
            AccessError: the doomed key cannot be asked, so nothing is known of what it opens.
            DamagedKeystoreError: a keystore was changed, or an older one put in its place.
        """
        lost = claimed = proven = 0
        for kek_id, kek in wrapped.items():
            origin = self._origin(kek.files)
            opened = self._opened(kek.texts, usage.master_key_id, origin)
            try:
                if kek.has_unreadable:
                    lost += 1  # nothing can prove a grant of what no text could be read of
                    continue
                if not opened:
                    continue
                named = [each for each in grants.of(kek_id) if each.master_key_id not in self.doomed]
                if all(self._is_opened_by_one(key, named, origin) for key in opened):
                    proven += 1
                elif named:
                    claimed += 1
                else:
                    lost += 1
            finally:
                for key in opened:
                    key.wipe()
        return replace(usage, only_opener_of=lost, claimed_by_grants=claimed, proven_by_grants=proven)

    def _origin(self, files: Iterable[str]) -> RequestOrigin:
        """Return what is counted against: of the files that name a KEK, the one with the least that was wrong.

        An attacker's file may name the KEK of an honest one, among others that nobody wrapped.
        """
        origins = [self._origins.setdefault(file, RequestOrigin()) for file in files]
        return min(origins, key=lambda each: each.wrong, default=RequestOrigin())

    def _opened(self, texts: Iterable[str], master_key_id: str, origin: RequestOrigin) -> list[DataKey]:
        """Return the KEKs that the doomed key really opens; several where a file claims another under one id."""
        opened: list[DataKey] = []
        for text in texts:
            try:
                key = self.session.unwrap_kek_text(text, master_key_id, origin)
            except DamagedKeystoreError:
                raise
            except (IntegrityError, FormatError):
                continue  # forged
            if any(key.same_as(each) for each in opened):
                key.wipe()
            else:
                opened.append(key)
        return opened

    def _is_opened_by_one(self, kek: DataKey, named: Iterable[Grant], origin: RequestOrigin) -> bool:
        for grant in named:
            try:
                key = self.session.unwrap_kek_text(grant.wrapped, grant.master_key_id, origin)
            except DamagedKeystoreError:
                raise
            except (AccessError, IntegrityError, FormatError):
                continue  # forged, of a key that is not at hand, or one that its service refuses
            with key:
                if key.same_as(kek):
                    return True
        return False
