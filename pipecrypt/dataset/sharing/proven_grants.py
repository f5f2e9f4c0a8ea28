"""Prove that grants lead to the KEKs of a master key that is about to be destroyed. Removing it is left to keys.

Whoever can write to a dataset can write grants and files, so what they say is believed of neither. A KEK is proven to
have another opener where the doomed master key opens the wrapped text that files hold, another key of the caller's
opens the grant, and both give the same 256 bits. What the doomed key does not open is not one of its KEKs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipecrypt.dataset.sharing.key_usage import KeyUsage, WrappedKEK
from pipecrypt.errors import AccessError, DamagedKeystoreError, FormatError, IntegrityError
from pipecrypt.keys.grants import Grant, Grants
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.session import KeySession
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["GrantProofs"]


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
