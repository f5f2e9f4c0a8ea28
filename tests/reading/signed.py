"""A signed dataset made by hand, on any fsspec file system, for the tests of reading with trust."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipecrypt.context import Context, new_dataset_id
from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.keys.session import KeySession
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.file_list import FileListEncoder
from pipecrypt.manifest.model import Manifest
from pipecrypt.manifest.paths import MANIFEST_PATH, file_list_path, signature_path
from pipecrypt.manifest.promise import PromisedColumn, PromisedFooter, PromisedPolicy
from pipecrypt.manifest.statement import encode_statement, statement_sha256
from pipecrypt.parquet.byte_chunks import encrypt_bytes_file
from pipecrypt.parquet.byte_entry import FileInfo
from pipecrypt.parquet.encrypt import encrypt_file
from pipecrypt.parquet.footer import read_stored_footer
from pipecrypt.parquet.inspect import inspect_file
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from tests.manifest.world import ALICE, MALLORY, signed
from tests.parquet.world import MemorySink, MemorySource, parquet_bytes, sample_table
from tests.reading.world import CREDENTIALS, Keys

CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)
SHA256 = (DigestAlgorithm.SHA256,)


def pem(key: Ed25519PrivateKey) -> str:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form).decode()


TRUSTED, STRANGER = pem(ALICE), pem(MALLORY)


def table(number: int, rows: int = 1000) -> pa.Table:
    """Return a table whose ids tell which file it is of."""
    made = sample_table(rows)
    return made.set_column(0, "id", pa.array(range(number * 1000, number * 1000 + rows), pa.int64()))


def key_id(keys: Keys) -> str:
    sink = MemorySink()
    policy = keys.policy()
    with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
        data = parquet_bytes(pa.table({"a": [1]}))
        encrypt_file(MemorySource(data), sink, policy, keys=session, context=Context("", "x"))
    found = inspect_file(MemorySource(bytes(sink.data))).columns[0].keys[0].master_key_id
    assert found is not None
    return found


@dataclass
class SignedTree:
    """Files that are encrypted under one key, all columns or only some, and the statement about them.

    Args:
        fs: where they lie.
        root: the dataset's directory, as the file system spells it.
        keys: of the tests.
        encrypted: patterns of the encrypted columns; none: all.
        footer: the mode of every footer.
    """

    fs: Any
    root: str
    keys: Keys
    encrypted: tuple[str, ...] = ()
    footer: FooterMode = FooterMode.PLAINTEXT
    dataset_id: str = field(default_factory=new_dataset_id)

    def policy(self, *clear: str) -> EncryptionPolicy:
        made = self.keys.policy(footer=self.footer)
        if not self.encrypted:
            return made
        rules = self.keys.policy(*self.encrypted, default=False).rules
        return replace(made, default=None, rules=tuple(replace(rule, key_reference=self.keys.open) for rule in rules))

    def promise(self) -> PromisedPolicy:
        ids = (key_id(self.keys),)
        columns = {"email": ("email",), "id": ("id",)}
        named = tuple(PromisedColumn(columns[name], ids) for name in sorted(self.encrypted))
        return PromisedPolicy(
            footer=PromisedFooter(self.footer.value),
            footer_key_ids=ids,
            columns=named,
            other_key_ids=None if named else ids,
        )

    def place(self, path: str) -> str:
        return f"{self.root}/{path}"

    def seal(self, made: pa.Table, path: str, **changes: object) -> bytes:
        sink, policy = MemorySink(), replace(self.policy(), **changes)  # type: ignore[arg-type]
        with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
            source = MemorySource(parquet_bytes(made, row_group_size=300))
            encrypt_file(source, sink, policy, keys=session, context=Context(self.dataset_id, path))
        return bytes(sink.data)

    def seal_chunks(self, data: bytes, path: str) -> bytes:
        sink, policy = MemorySink(), replace(self.policy(), footer=FooterMode.ENCRYPTED)
        with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
            encrypt_bytes_file(
                MemorySource(data),
                sink,
                policy,
                keys=session,
                context=Context(self.dataset_id, path),
                info=FileInfo("x.bin", None, None),
            )
        return bytes(sink.data)

    def write(self, path: str, data: bytes | pa.Table) -> bytes:
        """Store a file, sealing a table."""
        sealed = self.seal(data, path) if isinstance(data, pa.Table) else data
        self.fs.makedirs(self.place(path).rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(self.place(path), sealed)
        return sealed

    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(self.place(path)))

    def entry(
        self, path: str, data: bytes, rows: int = 1000, digests: tuple[DigestAlgorithm, ...] = SHA256
    ) -> FileEntry:
        values = {each: digest(data, each) if each in digests else None for each in DigestAlgorithm}
        return FileEntry(
            path=path,
            size_bytes=len(data),
            rows=rows,
            sha256=values[DigestAlgorithm.SHA256],
            footer_sha256=read_stored_footer(MemorySource(data)).sha256,
            kek_ids=(),
            blake3=values[DigestAlgorithm.BLAKE3],
        )

    def manifest(self, entries: list[FileEntry], **changes: object) -> tuple[Manifest, bytes]:
        encoder = FileListEncoder(SHA256)
        listed = b"".join(encoder.encode(sorted(entries, key=lambda each: each.path)))
        made = Manifest(
            dataset_id=self.dataset_id,
            version=1,
            previous_sha256=None,
            created=CREATED,
            expires=None,
            policy=self.promise(),
            digests=SHA256,
            files=encoder.summary(),
        )
        return replace(made, **changes), listed  # type: ignore[arg-type]

    def sign(self, *paths: str, signers: tuple[Ed25519PrivateKey, ...] = (ALICE,), **changes: object) -> str:
        """Sign the files of these paths as they are now; return the digest of the statement."""
        made, listed = self.manifest([self.entry(path, self.read(path)) for path in paths], **changes)
        summary = made.file_list
        assert summary is not None
        self.write(file_list_path(made.version, summary.sha256), listed)
        statement = encode_statement(made)
        self.write(MANIFEST_PATH, signed(statement, *signers))
        return statement_sha256(statement)

    def sign_alone(self, path: str, name: str | None = None) -> None:
        """Put a statement beside one file."""
        entry = self.entry(name or path.rpartition("/")[2], self.read(path))
        made, _ = self.manifest([], files=entry)
        self.write(signature_path(path), signed(encode_statement(made)))


def parquet_ids(data: bytes) -> list[int]:
    import pyarrow.parquet as pq  # noqa: PLC0415

    return list(pq.read_table(io.BytesIO(data))["id"].to_pylist())


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
