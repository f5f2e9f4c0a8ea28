"""Many grants, which whoever can write to a dataset can write."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from pipecrypt.dataset.share import key_usage
from pipecrypt.dataset.share.kek_search import EncryptedData
from pipecrypt.keys.grants import Grant, Grants
from pipecrypt.store.location import Location


class _CountedGrants(tuple[Grant, ...]):
    walks = 0

    def __iter__(self) -> Iterator[Grant]:
        type(self).walks += 1
        return super().__iter__()


@pytest.mark.parametrize("masters", [3, 300])
def test_grants_are_walked_equally_often_however_many_master_keys_they_name(
    monkeypatch: pytest.MonkeyPatch, masters: int
) -> None:
    grants = Grants(_CountedGrants(Grant(f"kek{n}", f"key{n % masters}", "x", f"20{n % 90 + 10}") for n in range(600)))
    monkeypatch.setattr(key_usage, "list_sources", lambda *_: ())
    place = SimpleNamespace(
        read_grants=lambda: grants, read_footers=iter, location=Location("."), manifest=None, name="sealed"
    )
    _CountedGrants.walks = 0

    usage = key_usage.UsageClaims(cast("EncryptedData", place)).usage

    assert _CountedGrants.walks <= 2
    assert [each.master_key_id for each in usage.keys] == sorted(f"key{n}" for n in range(masters))
    assert sum(each.granted_keks for each in usage.keys) == 600
    assert min(each.granted_since or "" for each in usage.keys) == "2010"
