"""One contender of benchmarks.columns: prints seconds and peak RSS in KiB. Comparing is left to columns."""

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

KEY = "keystore://{scratch}/keys.json#bench"
TWO_COLUMNS = ("l_comment", "l_extendedprice")


def main() -> None:
    """Run the contender that argv names."""
    contender, source, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    run = _CONTENDERS[contender](source, scratch)
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    children = (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        if contender.startswith(("cp", "pipecrypt 16 columns,"))
        else 0
    )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, children or own]))


def _key(scratch: Path) -> str:
    return KEY.format(scratch=scratch)


def _prepare(source: Path, scratch: Path) -> Callable[[], object]:
    import pipecrypt as pc

    def run() -> None:
        subprocess.run(
            [sys.executable, "-m", "pipecrypt", "keys", "new", _key(scratch)], check=True, capture_output=True
        )
        pc.encrypt(str(source), str(scratch / "encrypted.parquet"), pc.Policy(default=_key(scratch)))

    return run


def _cp(source: Path, scratch: Path) -> Callable[[], object]:
    return lambda: subprocess.run(["cp", str(source), str(scratch / "out.parquet")], check=True)


def _arrow_plain(source: Path, scratch: Path) -> Callable[[], object]:
    return _arrow(source, scratch, None)


def _arrow_pme(source: Path, scratch: Path) -> Callable[[], object]:
    import pyarrow.parquet as pq
    import pyarrow.parquet.encryption as pe

    class Client(pe.KmsClient):  # wraps with nothing: a key service's time is not what is measured
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
            return base64.b64encode(key_bytes).decode()

        def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
            return base64.b64decode(wrapped_key)

    factory = pe.CryptoFactory(lambda _: Client())
    names = pq.read_schema(source).names
    configuration = pe.EncryptionConfiguration(
        footer_key="bench", column_keys={"bench": names}, plaintext_footer=True, data_key_length_bits=256
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    run = _arrow(source, scratch, properties)
    run.factory = factory  # type: ignore[attr-defined]  # the properties die with their factory
    return run


def _arrow(source: Path, scratch: Path, properties: object) -> Callable[[], object]:
    import pyarrow.parquet as pq

    def run() -> None:
        file = pq.ParquetFile(source)
        codec = file.metadata.row_group(0).column(0).compression
        target = str(scratch / "out.parquet")
        with pq.ParquetWriter(target, file.schema_arrow, compression=codec, encryption_properties=properties) as writer:
            for index in range(file.num_row_groups):
                writer.write_table(file.read_row_group(index))

    return run


def _polars(source: Path, scratch: Path) -> Callable[[], object]:
    import polars as pl

    key = os.urandom(32)
    names = pl.scan_parquet(source).collect_schema().names()
    properties = pl.ParquetEncryptionProperties(footer_key=key, column_keys=dict.fromkeys(names, key))
    return lambda: pl.scan_parquet(source).sink_parquet(scratch / "out.parquet", encryption=properties)


def _encrypt(columns: tuple[str, ...]) -> Callable[[Path, Path], Callable[[], object]]:
    def contender(source: Path, scratch: Path) -> Callable[[], object]:
        import pipecrypt as pc

        key = _key(scratch)
        policy = pc.Policy(columns=dict.fromkeys(columns, key)) if columns else pc.Policy(default=key)
        _warm()
        return lambda: pc.encrypt(str(source), str(scratch / "out.parquet"), policy)

    return contender


def _decrypt(source: Path, scratch: Path) -> Callable[[], object]:
    import pipecrypt as pc

    key, encrypted = _key(scratch), str(scratch / "encrypted.parquet")
    _warm()
    return lambda: pc.decrypt(encrypted, str(scratch / "out.parquet"), keys=[key])


def _warm() -> None:
    # Imports are start-up, which the line with the command reports.
    import pipecrypt.keys.keystores
    import pipecrypt.runs.run  # noqa: F401


def _command(source: Path, scratch: Path) -> Callable[[], object]:
    command = ["encrypt", str(source), str(scratch / "out.parquet"), "--key", _key(scratch)]
    return lambda: subprocess.run([sys.executable, "-m", "pipecrypt", *command], check=True, capture_output=True)


_CONTENDERS: dict[str, Callable[[Path, Path], Callable[[], object]]] = {
    "prepare": _prepare,
    "cp": _cp,
    "pyarrow plain rewrite": _arrow_plain,
    "pyarrow PME rewrite": _arrow_pme,
    "Polars encrypted sink_parquet": _polars,
    "pipecrypt 16 columns": _encrypt(()),
    "pipecrypt 2 columns": _encrypt(TWO_COLUMNS),
    "pipecrypt decrypt": _decrypt,
    "pipecrypt 16 columns, command": _command,
}

if __name__ == "__main__":
    main()
