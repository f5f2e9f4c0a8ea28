"""Which files a version must list: all but ours."""

from __future__ import annotations

import pytest

from pipecrypt.dataset.opening.data_files import is_data
from pipecrypt.storage.publication import new_token, temporary_name


@pytest.mark.parametrize("path", ["a.parquet", "day=1/.hidden", "day=1/_SUCCESS", "x/_pipecrypt.parquet"])
def test_whatever_somebody_put_there_counts(path: str) -> None:
    assert is_data(path)


def test_our_own_files_do_not_count() -> None:
    temporary = temporary_name("a.parquet", new_token())
    for path in ("_pipecrypt/manifest.json", "_pipecrypt/files/x", temporary, f"day=1/{temporary}"):
        assert not is_data(path)
