"""How long does the statement of 100,000 files take, and how much memory? Run: python -m benchmarks.manifest [files]

Each line runs in a process of its own. Memory is its peak beyond what it holds before the work begins, with the entries
made one by one where the way of writing allows it. JSON lines is what pipecrypt writes; the others are what it might.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import encode_envelope, verify_envelope
from pipecrypt.dataset.statement.file_list import FileEntry, FileListSummary, encode_file_list
from pipecrypt.dataset.statement.manifest import Manifest, encode_statement
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.parquet.policy import FooterMode

DIGESTS = (DigestAlgorithm.SHA256,)
FILES = 100_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Work = Callable[[int, Path], object]


def _entries(count: int) -> Iterator[FileEntry]:
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        path = f"year=2026/month=01/day={number // 4000:02}/part-{number:06}-{digest[:8]}.zstd.parquet"
        kek_ids = (f"{number % 4:022}==",)
        yield FileEntry(path, 128_000_000 + number, 1_000_000, digest, digest[::-1], kek_ids)


def _columns(count: int) -> Iterator[dict[str, object]]:
    for entry in _entries(count):
        yield {
            "path": entry.path,
            "size_bytes": entry.size_bytes,
            "rows": entry.rows,
            "sha256": entry.sha256,
            "footer_sha256": entry.footer_sha256,
            "kek_ids": list(entry.kek_ids),
        }


def write_lines(count: int, place: Path) -> None:
    blocks, summary = encode_file_list(_entries(count), DIGESTS)
    with (place / "files.jsonl").open("wb") as file:
        file.writelines(blocks)
    (place / "manifest.json").write_bytes(_envelope(summary))


def verify_lines(count: int, place: Path) -> None:
    """What a reader does before it opens a file: check the statement, then walk the list."""
    envelope = (place / "manifest.json").read_bytes()
    verified = verify_envelope(envelope, lambda message, signatures: ("key",), NOW + timedelta(days=1))
    if sum(1 for _ in verified.files((place / "files.jsonl").read_bytes())) != count:
        raise AssertionError("files are missing")


def hold_lines(count: int, place: Path) -> list[FileEntry]:
    """What `verify` holds to compare a listing: every entry."""
    envelope = (place / "manifest.json").read_bytes()
    verified = verify_envelope(envelope, lambda message, signatures: ("key",), NOW + timedelta(days=1))
    return list(verified.files((place / "files.jsonl").read_bytes()))


def write_document(count: int, place: Path) -> None:
    """One JSON document with all files, in base64, as a statement with 100,000 subjects would be."""
    import base64

    payload = json.dumps(list(_columns(count)), separators=(",", ":")).encode()
    (place / "document.json").write_bytes(b'{"payload":"' + base64.b64encode(payload) + b'"}')


def read_document(count: int, place: Path) -> object:
    import base64

    payload = json.loads((place / "document.json").read_bytes())["payload"]
    return json.loads(base64.b64decode(payload))


def write_parquet(count: int, place: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(_columns(count))), place / "files.parquet", compression="zstd")


def read_parquet(count: int, place: Path) -> object:
    import pyarrow.parquet as pq

    return pq.read_table(place / "files.parquet").to_pylist()


WORKS: dict[str, tuple[Work, str]] = {
    "make the entries only": (lambda count, place: sum(1 for _ in _entries(count)), ""),
    "JSON lines: write": (write_lines, "files.jsonl"),
    "JSON lines: check and walk": (verify_lines, ""),
    "JSON lines: check and hold": (hold_lines, ""),
    "one document: write": (write_document, "document.json"),
    "one document: read": (read_document, ""),
    "Parquet: write": (write_parquet, "files.parquet"),
    "Parquet: read": (read_parquet, ""),
}


def _envelope(summary: FileListSummary) -> bytes:
    policy = PromisedPolicy(FooterMode.PLAINTEXT, ("keystore/pii/1",), (), ("keystore/pii/1",))
    manifest = Manifest(
        dataset_id="0" * 32,
        version=1,
        previous_sha256=None,
        created=NOW,
        expires=None,
        policy=policy,
        digests=DIGESTS,
        files=summary,
    )
    return encode_envelope(encode_statement(manifest), [Signature("key", bytes(64))])


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run(name: str, count: int, place: Path) -> None:
    """Do one work in this process and print seconds and MiB."""
    before, started = _peak_mib(), time.perf_counter()
    held = WORKS[name][0](count, place)
    print(json.dumps([time.perf_counter() - started, _peak_mib() - before]))
    del held


def main() -> None:
    """Print one line for each work."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    if len(sys.argv) == 4:
        _run(sys.argv[2], count, Path(sys.argv[3]))
        return
    print(f"{count} files\n\n| work | s | peak, MiB | file, MB |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (_, file) in WORKS.items():
            command = [sys.executable, "-m", "benchmarks.manifest", str(count), name, scratch]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, mib = json.loads(done.stdout)
            size = f"{(Path(scratch) / file).stat().st_size / 1e6:.1f}" if file else ""
            print(f"| {name} | {seconds:.2f} | {mib:.0f} | {size} |", flush=True)
        print(f"\nThe statement's envelope has {(Path(scratch) / 'manifest.json').stat().st_size} bytes.")


if __name__ == "__main__":
    main()
