"""What others need for the same work, each as its own documentation does it."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.inputs import check_same
from benchmarks.suite import Contender, LeftOutError, Place, Work, WrongOutputError

__all__ = [
    "AGE",
    "AWS",
    "TINK",
    "arrow_keys",
    "copy",
    "duckdb_encrypted",
    "parquet_rewrite",
    "polars_encrypted",
]

_PIECE_BYTES = 1 << 20
_KEY = bytes(range(32))  # of peers that are given a data key; nothing is protected by it
_DUCKDB = Path(__file__).parents[1] / ".venv-duckdb/bin/python"
_SUMS = ("l_orderkey", "l_extendedprice", "l_quantity")


def copy(source: str, out: str = "out") -> Contender:
    """The limit: `cp`."""
    return Contender(
        lambda place: ["cp", "-r", str(place.root / source), str(place.root / out)],
        lambda place: check_same(place.root / source, place.root / out),
    )


# ---- Parquet ----


def arrow_keys(names: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Return pyarrow's factory of keys, with properties to write these columns and to read."""
    import pyarrow.parquet.encryption as pe

    class Client(pe.KmsClient):  # wraps with nothing: a key service's time is not what is measured
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
            return base64.b64encode(key_bytes).decode()

        def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
            return base64.b64decode(wrapped_key)

    factory, connection = pe.CryptoFactory(lambda _: Client()), pe.KmsConnectionConfig()
    reads = factory.file_decryption_properties(connection)
    if not names:
        return factory, None, reads
    configuration = pe.EncryptionConfiguration(
        footer_key="bench", column_keys={"bench": list(names)}, plaintext_footer=True, data_key_length_bits=256
    )
    return factory, factory.file_encryption_properties(connection, configuration), reads


def parquet_rewrite(*, encrypts: bool) -> Contender:
    """pyarrow: read row groups, write them again, plain or encrypted."""

    def start(place: Place) -> Work:
        import pyarrow.parquet as pq

        source = place.root / "lineitem.parquet"
        factory, properties, _ = arrow_keys(pq.read_schema(source).names)

        def run() -> None:
            file = pq.ParquetFile(source)
            codec = file.metadata.row_group(0).column(0).compression
            with pq.ParquetWriter(
                place.out, file.schema_arrow, compression=codec, encryption_properties=properties if encrypts else None
            ) as writer:
                for index in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(index))
            assert factory  # noqa: S101 - the properties die with their factory

        return run

    return Contender(start, lambda place: _check_rewritten(place, is_encrypted=encrypts))


def _check_rewritten(place: Place, *, is_encrypted: bool) -> None:
    """See that a rewritten lineitem has the sums of its source, and needs its keys where it is encrypted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    factory, _, reads = arrow_keys()
    _compare_sums(
        place, pq.read_table(place.out, columns=list(_SUMS), decryption_properties=reads if is_encrypted else None)
    )
    del factory
    if is_encrypted:
        with contextlib.suppress(OSError, pa.ArrowException):
            pq.read_table(place.out, columns=list(_SUMS))
            raise WrongOutputError(f"{place.out} needs no key")


def _compare_sums(place: Place, found: Any) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    expected = pq.read_table(place.root / "lineitem.parquet", columns=list(_SUMS))
    if [pc.sum(found[name]) for name in _SUMS] != [pc.sum(expected[name]) for name in _SUMS]:
        raise WrongOutputError(f"{place.out} holds another table")


def _polars_keys(names: Sequence[str]) -> Any:
    import polars as pl

    return pl.ParquetEncryptionProperties(footer_key=_KEY, column_keys=dict.fromkeys(names, _KEY))


def _start_polars(place: Place) -> Work:
    import polars as pl

    source = place.root / "lineitem.parquet"
    properties = _polars_keys(pl.scan_parquet(source).collect_schema().names())
    return lambda: pl.scan_parquet(source).sink_parquet(place.out, encryption=properties)


def _check_magic(place: Place, magic: bytes) -> None:
    if place.out.read_bytes()[-4:] != magic or place.out.stat().st_size < 1000:
        raise WrongOutputError(f"{place.out} is not encrypted")


polars_encrypted = Contender(_start_polars, lambda place: _check_magic(place, b"PARE"))

# DuckDB reads and writes encrypted Parquet with one key; it encrypts with OpenSSL where its extension httpfs is loaded.
_DUCKDB_SCRIPT = """
import sys, duckdb, duckdb_extension_httpfs, pathlib
source, out, key, check = sys.argv[1:]
folder = pathlib.Path(duckdb_extension_httpfs.__file__).parent
con = duckdb.connect()
con.execute(f"LOAD '{next(folder.rglob('*.duckdb_extension'))}'")
con.execute(f"PRAGMA add_parquet_key('k', '{key}')")
if check:
    sums = [f"SELECT sum(l_orderkey), sum(l_extendedprice), count(*) FROM read_parquet('{path}'{option})"
            for path, option in ((source, ""), (out, ", encryption_config={footer_key: 'k'}"))]
    assert con.execute(sums[0]).fetchall() == con.execute(sums[1]).fetchall()
else:
    encrypted = "FORMAT parquet, ENCRYPTION_CONFIG {footer_key: 'k'}"
    con.execute(f"COPY (FROM read_parquet('{source}')) TO '{out}' ({encrypted})")
"""


def _duckdb(place: Place, *, checks: bool) -> list[str]:
    if not _DUCKDB.exists():
        raise LeftOutError(
            f"DuckDB needs an environment of its own, {_DUCKDB.parent.parent.name}, which `make bench` makes"
        )
    key = _KEY[:16].hex()
    source = str(place.root / "lineitem.parquet")
    return [str(_DUCKDB), "-c", _DUCKDB_SCRIPT, source, str(place.out), key, "check" if checks else ""]


duckdb_encrypted = Contender(
    lambda place: _duckdb(place, checks=False),
    lambda place: subprocess.run(_duckdb(place, checks=True), check=True, capture_output=True) and None,
)

# ---- files of any bytes: `input` becomes `out`, or what was encrypted before becomes `out` ----


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return what a file holds, made the first time: each contender is a process of its own."""
    if not path.exists():
        path.write_bytes(make())
    return path.read_bytes()


def _pair(
    name: str, encrypt: Callable[[Place, Path, Path], Work], decrypt: Callable[[Place, Path, Path], Work]
) -> tuple[Contender, Contender]:
    """Two contenders: the first one's output is checked by the other, and its first one kept for it."""

    def keep(place: Place) -> None:
        kept = place.root / name
        back = place.root / f"{name}-back"
        work = decrypt(place, place.out, back)
        _carry_out(work)
        check_same(place.root / "input", back)
        back.unlink()
        if not kept.exists():
            place.out.rename(kept)

    return (
        Contender(lambda place: encrypt(place, place.root / "input", place.out), keep),
        Contender(
            lambda place: decrypt(place, place.root / name, place.out),
            lambda place: check_same(place.root / "input", place.out),
        ),
    )


def _carry_out(work: Work) -> None:
    if callable(work):
        work()
    else:
        subprocess.run(list(work), check=True, capture_output=True)


def _age_identity(place: Place) -> Any:
    import pyrage

    text = _kept(place.root / "age.key", lambda: str(pyrage.x25519.Identity.generate()).encode())
    return pyrage.x25519.Identity.from_str(text.decode())


def _age_encrypt(place: Place, source: Path, out: Path) -> Work:
    import pyrage

    recipient = _age_identity(place).to_public()
    return lambda: pyrage.encrypt_file(str(source), str(out), [recipient])


def _age_decrypt(place: Place, source: Path, out: Path) -> Work:
    import pyrage

    identity = _age_identity(place)
    return lambda: pyrage.decrypt_file(str(source), str(out), [identity])


def _aws(mode: str) -> Callable[[Place, Path, Path], Work]:
    def start(place: Place, source: Path, out: Path) -> Work:
        import aws_encryption_sdk
        from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
        from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
        from aws_cryptographic_material_providers.mpl.models import AesWrappingAlg, CreateRawAesKeyringInput

        keyring = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig()).create_raw_aes_keyring(
            CreateRawAesKeyringInput(
                key_namespace="bench",
                key_name="bench",
                wrapping_key=_kept(place.root / "aws.key", lambda: os.urandom(32)),
                wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
            )
        )
        client = aws_encryption_sdk.EncryptionSDKClient()
        options = {"frame_length": _PIECE_BYTES} if mode == "e" else {}

        def run() -> None:
            with (
                source.open("rb") as read,
                out.open("wb") as written,
                client.stream(mode=mode, source=read, keyring=keyring, **options) as stream,
            ):
                while piece := stream.read(_PIECE_BYTES):
                    written.write(piece)

        return run

    return start


def _tink(place: Place) -> Any:
    import tink
    from tink import json_proto_keyset_format, secret_key_access, streaming_aead

    streaming_aead.register()
    templates = streaming_aead.streaming_aead_key_templates

    def make() -> bytes:
        handle = tink.new_keyset_handle(templates.AES256_GCM_HKDF_1MB)
        return str(json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)).encode()

    text = _kept(place.root / "tink.json", make).decode()
    return json_proto_keyset_format.parse(text, secret_key_access.TOKEN).primitive(streaming_aead.StreamingAead)


def _tink_encrypt(place: Place, source: Path, out: Path) -> Work:
    primitive = _tink(place)

    def run() -> None:
        with (
            source.open("rb") as plain,
            out.open("wb") as file,
            primitive.new_encrypting_stream(file, b"bench") as stream,
        ):
            while piece := plain.read(_PIECE_BYTES):
                stream.write(piece)

    return run


def _tink_decrypt(place: Place, source: Path, out: Path) -> Work:
    primitive = _tink(place)

    def run() -> None:
        with (
            source.open("rb") as sealed,
            out.open("wb") as file,
            primitive.new_decrypting_stream(sealed, b"bench") as stream,
        ):
            reader = io.BufferedReader(stream, _PIECE_BYTES)
            while piece := reader.read(_PIECE_BYTES):
                file.write(piece)

    return run


AGE = _pair("age", _age_encrypt, _age_decrypt)
AWS = _pair("aws", _aws("e"), _aws("d"))
TINK = _pair("tink", _tink_encrypt, _tink_decrypt)
