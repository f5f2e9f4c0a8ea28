"""Files of a run on S3 that another run replaces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import World
from tests.servers.s3_server import S3Server


def test_numbered_files_are_replaced_where_the_source_changed(
    world: World, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    rows = world.root / "csv" / "rows.csv"
    rows.parent.mkdir()
    rows.write_text("id,email\n" + "".join(f"{row},{row}@example.org\n" for row in range(4000)))
    spec = EncryptSpec(
        source=Location(str(rows.parent)),
        sink=Location(f"s3://{s3_server.new_bucket()}/out/"),
        policy=Policy(default=world.key, batch_rows=500),
        max_file_bytes=4_000,
        run=RunOptions(keeps_journal=True),  # else it is not tried whether the store keeps writers apart
    )
    first = run(spec, credentials=world.credentials)
    assert first.files > 1
    rows.write_text(rows.read_text() + "4000,last@example.org\n")
    again = run(replace(spec, overwrite=True), credentials=world.credentials)
    assert again.files >= first.files
