"""Whoever reads a dataset on an object store while runs publish versions is told the truth, or to try again.

Never that a file was changed: exit code 3 is for attacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import pipecrypt as pc
from pipecrypt.errors import PipecryptError
from tests.faults.scenes import SCENES, Shop, prepare

pytest.importorskip("s3fs")

TRY_AGAIN = 5
WAYS = ("verify", "open", "decrypt")
_WRITES = """
import json, sys
from pathlib import Path
from tests.faults.scenes import SCENES, Shop, write_source
root, sink, options, versions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
shop = Shop(SCENES["first"], Path(root), sink, options)
for version in range(versions):
    write_source(shop.raw, "day=1/b", 20 + version, "parquet", f"version-{version}")
    write_source(shop.raw, f"day=3/d{version % 2}", 20, "parquet")
    for old in shop.raw.glob(f"day=3/d{(version + 1) % 2}*"):
        old.unlink()
    shop.run()
"""


def _writer(shop: Shop, versions: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WRITES, str(shop.root), shop.sink, json.dumps(shop.options), str(versions)]
    return subprocess.Popen(command, env=os.environ | {"PIPECRYPT_STATE_DIR": str(shop.root / "state")})


def _read(shop: Shop, way: str) -> None:
    trust = [shop.key("signing")]
    if way == "verify":
        shop.verify()
    elif way == "decrypt":
        shop.plaintext()
    else:
        with pc.open(
            shop.sink,
            keys=[shop.key("pii")],
            trust=trust,
            storage_options=shop.options,
            credentials=shop.credentials,
        ) as opened:
            opened.to_table()


def _outcomes(shop: Shop, versions: int) -> Counter[str]:
    found: Counter[str] = Counter()
    with _writer(shop, versions) as writer:
        while writer.poll() is None:
            for way in WAYS:
                try:
                    _read(shop, way)
                except PipecryptError as error:
                    found[f"{way}: {error.exit_code} {type(error).__name__}: {error.message}"] += 1
                else:
                    found[f"{way}: 0"] += 1
    assert writer.returncode == 0
    return found


@pytest.mark.parametrize("versions", [2, pytest.param(12, marks=pytest.mark.long)])
def test_readers_beside_runs(seaweedfs_server: Any, tmp_path: Path, versions: int) -> None:
    shop = prepare(SCENES["first"], tmp_path).at(
        f"s3://{seaweedfs_server.new_bucket()}/sink", options=seaweedfs_server.options
    )
    shop.run()
    outcomes = _outcomes(shop, versions)
    assert all(outcomes[f"{way}: 0"] > 0 for way in WAYS), outcomes
    assert not [each for each in outcomes if f": {TRY_AGAIN} " not in each and not each.endswith(": 0")], outcomes
    assert shop.verify() == 1 + versions
    assert shop.plaintext() == shop.expected()
