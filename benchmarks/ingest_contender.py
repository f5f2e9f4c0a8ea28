"""One contender of benchmarks.ingest: prints seconds, CPU seconds and peak RSS in MiB. Comparing is left to ingest."""

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
from typing import Any


def main() -> None:
    """Run the contender that argv names."""
    contender, source, target, codec = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    run = CONTENDERS[contender](source, target, codec)
    started, cpu, thread = time.perf_counter(), time.process_time(), time.thread_time()
    run()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    # pipecrypt reads and encodes on other threads: this one opens keys, encrypts and publishes.
    thread_seconds = time.thread_time() - thread
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, cpu_seconds, peak, thread_seconds]))


def _arrow_pme(source: Path, target: Path, codec: str) -> Callable[[], object]:
    import pyarrow.parquet.encryption as pe

    class Client(pe.KmsClient):  # wraps with nothing: a key service's time is not what is measured
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
            return base64.b64encode(key_bytes).decode()

        def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
            return base64.b64decode(wrapped_key)

    factory = pe.CryptoFactory(lambda _: Client())

    def properties(names: list[str]) -> object:
        configuration = pe.EncryptionConfiguration(
            footer_key="bench", column_keys={"bench": names}, plaintext_footer=True, data_key_length_bits=256
        )
        return factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)

    return _arrow(source, target, codec, properties)


def _arrow_plain(source: Path, target: Path, codec: str) -> Callable[[], object]:
    return _arrow(source, target, codec, lambda names: None)


def _arrow(source: Path, target: Path, codec: str, properties: Callable[[list[str]], Any]) -> Callable[[], object]:
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    def run() -> None:
        reader = pc.open_csv(source)
        encryption = properties(reader.schema.names)
        with pq.ParquetWriter(target, reader.schema, compression=codec, encryption_properties=encryption) as writer:
            for batch in reader:
                writer.write_batch(batch)

    return run


def _row_groups(source: Path, target: Path, codec: str) -> Callable[[], object]:
    from pipecrypt.formats.batches import open_batches
    from pipecrypt.formats.options import Codec, EncodeOptions, SourceFormat
    from pipecrypt.formats.row_groups import encode_row_groups

    def run() -> None:
        with source.open("rb", buffering=0) as file, target.open("wb") as out:
            stream = open_batches(file, source.name, SourceFormat.CSV)
            for group in encode_row_groups(stream, EncodeOptions(compression=Codec(codec))):
                out.write(group)

    return run


def _encrypt(source: Path, target: Path, codec: str) -> Callable[[], object]:
    import pipecrypt as pc
    import pipecrypt.keys.keystores
    import pipecrypt.runs.kinds.ingest
    import pipecrypt.runs.run  # imports are start-up
    from benchmarks.keystore import new_key_file

    # A key file, as machines use it: a passphrase costs a tenth of a second on purpose, whatever the data's size.
    keystore = source.with_name("keys.json")
    os.environ["PIPECRYPT_KEY_FILE"] = str(new_key_file(source.parent))
    key = f"keystore://{keystore}#bench"
    keystore.unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pipecrypt", "keys", "new", key, "--new-keystore"], check=True, capture_output=True
    )
    policy = pc.Policy(default=key, compression=codec)
    return lambda: pc.encrypt(source, target, policy)


CONTENDERS: dict[str, Callable[[Path, Path, str], Callable[[], object]]] = {
    "pyarrow open_csv + PME writer": _arrow_pme,
    "pyarrow open_csv + writer": _arrow_plain,
    "pipecrypt, not encrypted": _row_groups,
    "pipecrypt": _encrypt,
}

if __name__ == "__main__":
    main()
