from __future__ import annotations

import pytest

from pipecrypt.pipeline.calls import encrypt
from tests.dataset.conftest import World, check_digest, tree


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_carries_a_manifest_of_all_its_files(world: World, workers: int) -> None:
    summary = encrypt(world.raw, world.out, world.policy(), workers=workers, credentials=world.credentials)

    assert set(world.entries()) == {"a.parquet", "day=1/b.parquet"}
    verified = world.verify()
    assert tree(world.out) == {*world.entries(), "_pipecrypt/manifest.json", verified.file_list_path}
    (signed,) = summary.signed
    assert signed.path == f"{world.out}/_pipecrypt/manifest.json"
    assert (signed.version, signed.expires, signed.key_ids) == (1, None, verified.key_ids)
    assert signed.dataset_id == verified.manifest.dataset_id


def test_a_single_file_carries_a_statement_beside_it(world: World) -> None:
    file = world.root / "one.parquet"
    summary = encrypt(world.raw / "a.parquet", file, world.policy(), credentials=world.credentials)

    verified = world.verify_single(file)
    entry = verified.manifest.single_file
    assert entry is not None
    check_digest(file, entry)
    assert [signed.path for signed in summary.signed] == [f"{file}.sig.json"]
