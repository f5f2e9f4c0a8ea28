"""Does rotating take longer for more files, and how many bytes does a deep rotation move? Run:
python -m benchmarks.rotation [--files 1000] [--rows 2000]

Two signed datasets of 10 and of --files files are rotated by grants, then an unsigned one deeply, on local files.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import pipecrypt as pc
from benchmarks.keystore import new_key_file
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.deep_rotation import DeepSummary

FEW_FILES = 10
PROMISED_SHARE = 0.02


def _write(root: Path, files: int, rows: int) -> Path:
    table = pa.table({"id": range(rows), "text": [os.urandom(32).hex() for _ in range(rows)]})
    root.mkdir()
    pq.write_table(table, root / "0.parquet")
    for number in range(1, files):
        os.link(root / "0.parquet", root / f"{number}.parquet")
    return root


def main() -> None:
    """Print the seconds of rotating by grants, and the share of bytes that a deep rotation moves."""
    parser = argparse.ArgumentParser(description="time rotations")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        credentials = Credentials({"PIPECRYPT_KEY_FILE": str(new_key_file(root))})
        old, new, signing = (f"keystore://{root}/keys.json#{name}" for name in ("old", "new", "signing"))
        for reference, kind in ((old, "aes256"), (new, "aes256"), (signing, "ed25519")):
            create_key(reference, kind, credentials)
        for files in (FEW_FILES, options.files):
            raw, sealed = _write(root / f"raw{files}", files, options.rows), root / f"sealed{files}"
            pc.encrypt(raw, sealed, pc.Policy(default=old, sign=signing), credentials=credentials)
            done = pc.rotate(sealed, old, new, credentials=credentials, trust=[signing])
            assert not isinstance(done, DeepSummary)  # noqa: S101
            print(f"{files:6} files: rotated by grants in {done.seconds:.3f} s, {done.footers_read} footers read")
        unsigned = root / "unsigned"
        pc.encrypt(root / f"raw{options.files}", unsigned, pc.Policy(default=old), credentials=credentials)
        deep = pc.rotate(unsigned, old, new, deep=True, credentials=credentials)
        assert isinstance(deep, DeepSummary)  # noqa: S101
        share = deep.bytes_moved / deep.total_bytes
        print(
            f"{deep.files:6} files: rotated deeply in {deep.seconds:.3f} s, {deep.bytes_moved} of {deep.total_bytes} "
            f"bytes moved, {share:.2%}; promised: under {PROMISED_SHARE:.0%}"
        )


if __name__ == "__main__":
    main()
