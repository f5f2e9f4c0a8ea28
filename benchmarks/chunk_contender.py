"""One contender of benchmarks.chunks: prints seconds, peak RSS in KiB and a count. Comparing is left to chunks."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

KEY = "keystore://{scratch}/keys.json#bench"
READ_BYTES = 4096
READS = 2000
_COPY_BYTES = 1 << 20
_MISSING = 3  # the exit code that says: not installed

Run: TypeAlias = Callable[[], object]


def main() -> None:
    """Run the contender that argv names."""
    contender, source, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    try:
        run = _CONTENDERS[contender](source, scratch)
    except ImportError as error:
        if contender.startswith("pipecrypt"):
            raise
        print(error)
        sys.exit(_MISSING)
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    who = resource.RUSAGE_CHILDREN if contender == "cp" else resource.RUSAGE_SELF
    print(json.dumps([seconds, resource.getrusage(who).ru_maxrss]))


def _prepare(_: Path, scratch: Path) -> Run:
    command = [sys.executable, "-m", "pipecrypt", "keys", "new", KEY.format(scratch=scratch)]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def _cp(source: Path, scratch: Path) -> Run:
    return lambda: subprocess.run(["cp", str(source), str(scratch / "out")], check=True)


# ---- pipecrypt ----


def _encrypt(*, compressed: bool = False) -> Callable[[Path, Path], Run]:
    def contender(source: Path, scratch: Path) -> Run:
        import pipecrypt as pc
        import pipecrypt.keys.keystores
        import pipecrypt.runs.run  # imports are start-up

        compression = "zstd" if compressed else "none"
        policy = pc.Policy(default=KEY.format(scratch=scratch), mode="chunks", compression=compression)
        target = scratch / ("out" if compressed else "encrypted")
        return lambda: pc.encrypt(source, target, policy, overwrite=True)

    return contender


def _decrypt(_: Path, scratch: Path) -> Run:
    import pipecrypt as pc
    import pipecrypt.keys.keystores
    import pipecrypt.runs.run  # imports are start-up

    key = KEY.format(scratch=scratch)
    return lambda: pc.decrypt(scratch / "encrypted", scratch / "out", keys=[key], overwrite=True)


def _random_reads(source: Path, scratch: Path) -> Run:
    import fsspec

    import pipecrypt.reading.filesystem  # noqa: F401  # imports are start-up

    size, chance = source.stat().st_size, random.Random(0)  # noqa: S311
    places = [chance.randrange(size - READ_BYTES) for _ in range(READS)]
    options = {"pipecrypt": {"keys": [KEY.format(scratch=scratch)]}}

    def run() -> None:
        with fsspec.open(f"pipecrypt::file://{scratch}/encrypted", **options) as file:
            for place in places:
                file.seek(place)
                file.read(READ_BYTES)

    return run


# ---- peers: each writes or reads a file as its own documentation does ----


def _age_encrypt(source: Path, scratch: Path) -> Run:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    (scratch / "age.key").write_text(str(identity))
    return lambda: pyrage.encrypt_file(str(source), str(scratch / "age"), [identity.to_public()])


def _age_decrypt(_: Path, scratch: Path) -> Run:
    import pyrage

    identity = pyrage.x25519.Identity.from_str((scratch / "age.key").read_text())
    return lambda: pyrage.decrypt_file(str(scratch / "age"), str(scratch / "out"), [identity])


def _aws(mode: str, source_name: str, target_name: str) -> Callable[[Path, Path], Run]:
    def contender(source: Path, scratch: Path) -> Run:
        import aws_encryption_sdk
        from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
        from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
        from aws_cryptographic_material_providers.mpl.models import AesWrappingAlg, CreateRawAesKeyringInput

        providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
        keyring = providers.create_raw_aes_keyring(
            CreateRawAesKeyringInput(
                key_namespace="bench",
                key_name="bench",
                wrapping_key=_kept_key(scratch / "aws.key"),
                wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
            )
        )
        client = aws_encryption_sdk.EncryptionSDKClient()
        options = {"frame_length": _COPY_BYTES} if mode == "e" else {}

        def run() -> None:
            read = source if source_name == "source" else scratch / source_name
            with (
                read.open("rb") as plain,
                (scratch / target_name).open("wb") as out,
                client.stream(mode=mode, source=plain, keyring=keyring, **options) as stream,
            ):
                while piece := stream.read(_COPY_BYTES):
                    out.write(piece)

        return run

    return contender


def _tink_primitive(scratch: Path) -> object:
    import tink
    from tink import json_proto_keyset_format, secret_key_access, streaming_aead

    streaming_aead.register()
    path = scratch / "tink.json"
    if not path.exists():
        handle = tink.new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB)
        path.write_text(json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
    handle = json_proto_keyset_format.parse(path.read_text(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def _tink_encrypt(source: Path, scratch: Path) -> Run:
    primitive = _tink_primitive(scratch)

    def run() -> None:
        with (
            source.open("rb") as plain,
            (scratch / "tink").open("wb") as out,
            primitive.new_encrypting_stream(out, b"bench") as stream,  # type: ignore[attr-defined]
        ):
            while piece := plain.read(_COPY_BYTES):
                stream.write(piece)

    return run


def _tink_decrypt(_: Path, scratch: Path) -> Run:
    primitive = _tink_primitive(scratch)

    def run() -> None:
        with (
            (scratch / "tink").open("rb") as sealed,
            (scratch / "out").open("wb") as out,
            primitive.new_decrypting_stream(sealed, b"bench") as stream,  # type: ignore[attr-defined]
        ):
            reader = io.BufferedReader(stream, _COPY_BYTES)
            while piece := reader.read(_COPY_BYTES):
                out.write(piece)

    return run


def _kept_key(path: Path) -> bytes:
    if not path.exists():
        path.write_bytes(base64.b64encode(os.urandom(32)))
    return base64.b64decode(path.read_bytes())


_CONTENDERS: dict[str, Callable[[Path, Path], Run]] = {
    "prepare": _prepare,
    "cp": _cp,
    "pipecrypt encrypt": _encrypt(),
    "pipecrypt decrypt": _decrypt,
    "pipecrypt encrypt, zstd": _encrypt(compressed=True),
    "pipecrypt 4 KiB reads": _random_reads,
    "age encrypt": _age_encrypt,
    "age decrypt": _age_decrypt,
    "AWS Encryption SDK encrypt": _aws("e", "source", "aws"),
    "AWS Encryption SDK decrypt": _aws("d", "aws", "out"),
    "Tink encrypt": _tink_encrypt,
    "Tink decrypt": _tink_decrypt,
}

if __name__ == "__main__":
    main()
