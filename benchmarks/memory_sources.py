"""Does memory stay flat while sources of each format grow four times? Run: python -m benchmarks.memory_sources"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.keystore import new_key_file

SCALES = (0.15, 0.6)
FORMATS = ("csv", "csv.gz", "csv.zst", "csv.bz2", "jsonl", "arrow", "arrows", "orc", "tbl", "bin (chunks)")
WAYS = ("ParquetWriter", "encrypt_batches")


def main() -> None:
    """Print the peak RSS of each source at two sizes, as Markdown."""
    memory = Path("/dev/shm")  # noqa: S108  # as in columns
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of sources; default: all")
    parser.add_argument("--output", help="write PATH.md")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=memory if memory.is_dir() else None))
    try:
        report = "\n".join(_lines(scratch, arguments.only or [*FORMATS, *WAYS]))
    finally:
        shutil.rmtree(scratch)
    print(report)
    if arguments.output:
        Path(arguments.output).with_suffix(".md").write_text(report + "\n")


def _lines(scratch: Path, names: list[str]) -> list[str]:
    environment = _keystore(scratch)
    lines = ["| source | input, MB | peak RSS, MiB | input, MB | peak RSS, MiB |", "|---|---:|---:|---:|---:|"]
    for name in names:
        cells = []
        for scale in SCALES:
            source = _make(name, scale, scratch)
            peak = _peak(_command(name, source, scratch), environment)
            cells += [f"{source.stat().st_size / 1e6:.0f}", f"{peak:.0f}"]
            source.unlink()
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _keystore(scratch: Path) -> dict[str, str]:
    key_file = new_key_file(scratch)
    environment = {**os.environ, "PIPECRYPT_KEY_FILE": str(key_file)}
    command = [sys.executable, "-m", "pipecrypt", "keys", "new", _key(scratch)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return environment


def _key(scratch: Path) -> str:
    return f"keystore://{scratch}/keys.json#bench"


def _peak(command: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with {status}")
    return usage.ru_maxrss / 1024


def _command(name: str, source: Path, scratch: Path) -> list[str]:
    key, out = _key(scratch), str(scratch / "out.parquet")
    if name in WAYS:
        return [sys.executable, "-c", _SCRIPTS[name], str(source), out, key]
    options = ["--chunks"] if "chunks" in name else []
    return [sys.executable, "-m", "pipecrypt", "encrypt", str(source), out, "--key", key, "--overwrite", *options]


_READER = """
import sys, pyarrow as pa, pipecrypt as pc
source, out, key = sys.argv[1:]
reader = pa.ipc.open_stream(pa.OSFile(source))
policy = pc.Policy(default=key)
"""
_SCRIPTS = {
    "ParquetWriter": _READER
    + "with pc.ParquetWriter(out, reader.schema, policy, overwrite=True) as writer:\n"
    + "    for batch in reader:\n        writer.write_batch(batch)\n",
    "encrypt_batches": _READER + "pc.encrypt_batches(reader, out, policy, overwrite=True)\n",
}


def _make(name: str, scale: float, scratch: Path) -> Path:
    if "chunks" in name:
        path = scratch / "x.bin"
        with path.open("wb") as file:
            for _ in range(int(scale * 1000)):
                file.write(os.urandom(1_000_000))
        return path
    kind = "arrows" if name in WAYS else name
    path = scratch / f"x.{kind}"
    if kind in {"csv", "tbl"}:
        return _generate(kind, scale, scratch).rename(path)
    # In a process of its own: what pyarrow keeps would count for nothing here, but takes the machine's memory.
    plain = _generate("parquet" if kind in _WRITERS else "csv", scale, scratch)
    if kind in _WRITERS:
        command = [sys.executable, "-c", _WRITERS[kind], str(plain), str(path)]
        subprocess.run(command, check=True)
    else:
        _compress(plain, path)
    plain.unlink()
    return path


def _generate(kind: str, scale: float, scratch: Path) -> Path:
    program = Path(sys.executable).with_name("tpchgen-cli")
    command = [kind, "-s", f"{scale:g}", "--tables", "lineitem", "--output-dir", str(scratch)]
    subprocess.run([str(program) if program.exists() else "tpchgen-cli", *command], check=True, capture_output=True)
    return scratch / f"lineitem.{kind}"


def _compress(plain: Path, path: Path) -> None:
    import pyarrow as pa

    codec = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}[path.suffix[1:]]
    with plain.open("rb") as source, pa.CompressedOutputStream(str(path), codec) as sink:
        while piece := source.read(1 << 20):
            sink.write(piece)


# tpchgen-cli's Parquet asks for string views, which ORC has not.
_TABLE = """
import sys, pyarrow as pa, pyarrow.parquet as pq, pyarrow.orc as orc
file = pq.ParquetFile(sys.argv[1])
view, fields = pa.string_view(), file.schema_arrow
schema = pa.schema([field.with_type(pa.string()) if field.type == view else field for field in fields])
batches = (batch.cast(schema) for batch in file.iter_batches())
"""
_WRITERS = {
    "arrow": _TABLE
    + "with pa.ipc.new_file(sys.argv[2], schema) as writer:\n"
    + "    for batch in batches:\n        writer.write_batch(batch)\n",
    "arrows": _TABLE
    + "with pa.ipc.new_stream(sys.argv[2], schema) as writer:\n"
    + "    for batch in batches:\n        writer.write_batch(batch)\n",
    "orc": _TABLE
    + "with orc.ORCWriter(sys.argv[2]) as writer:\n"
    + "    for batch in batches:\n        writer.write(pa.Table.from_batches([batch]))\n",
    "jsonl": _TABLE
    + "with open(sys.argv[2], 'w') as out:\n"
    + "    for batch in batches:\n"
    + "        batch.to_pandas().to_json(out, orient='records', lines=True, date_format='iso')\n",
}

if __name__ == "__main__":
    main()
