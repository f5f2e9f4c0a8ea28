"""Small signed datasets, made by hand from the parts of the manifest, for tests of reading what was signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import pipecrypt as pc
from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.crypto.signature import PrivateKey
from pipecrypt.dataset.statement.envelope import encode_envelope, message_to_sign
from pipecrypt.dataset.statement.file_list import FileEntry, encode_file_list
from pipecrypt.dataset.statement.manifest import Manifest, encode_statement, statement_sha256
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX, file_list_path, is_reserved
from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.signers import LocalSigner, make_signatures
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.parquet.footer.keys import observe_encryption
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.undo import undo_place, write_undo
from pipecrypt.vocabulary.ranges import MemorySource
from tests.crypto.keys import private_pem

NAMES = ("a.parquet", "day=1/b ü.parquet", "day=2/c.parquet")
SHA256 = (DigestAlgorithm.SHA256,)


def _private_pem(seed: int) -> bytes:
    return private_pem(Ed25519PrivateKey.from_private_bytes(bytes(range(seed, seed + 32))))


def _signer(seed: int) -> LocalSigner:
    return LocalSigner(PrivateKey.from_pem(_private_pem(seed)))


ALICE, BOB, MALLORY = _signer(0), _signer(1), _signer(2)


def trusting(*signers: LocalSigner, threshold: int = 1) -> TrustedKeys:
    return TrustedKeys.of(
        [each.public_key_pem for each in signers or (ALICE,)], threshold=threshold, credentials=Credentials({})
    )


@dataclass(frozen=True)
class SignedWorld:
    """Where keys and data are."""

    root: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"PIPECRYPT_KEY_FILE": str(self.root / "key")}

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    @property
    def key(self) -> str:
        return f"keystore://{self.root}/keys.json#pii"

    @property
    def other_key(self) -> str:
        return f"keystore://{self.root}/keys.json#other"

    @property
    def public_key(self) -> Path:
        return self.root / "alice.pub"

    @property
    def signing_key(self) -> str:
        """Alice's."""
        return f"pem://{self.root}/alice.pem"

    @classmethod
    def at(cls, root: Path) -> SignedWorld:
        made = cls(root)
        (root / "key").write_bytes(bytes(range(32)))
        (root / "key").chmod(0o600)
        (root / "alice.pem").write_bytes(_private_pem(0))
        (root / "alice.pem").chmod(0o600)
        made.public_key.write_text(ALICE.public_key_pem, encoding="ascii")
        for key in (made.key, made.other_key):
            create_key(key, "aes256", made.credentials)
        for name in NAMES:
            write_table(root / "raw" / name)
        return made

    def encrypt(self, name: str, **changes: object) -> Path:
        """Encrypt the tables below `raw` to a directory; column `email` and footer under the one key."""
        policy = pc.Policy(**{"columns": {"email": self.key}, "footer_key": self.key, **changes})  # type: ignore[arg-type]
        pc.encrypt(self.root / "raw", self.root / name, policy, credentials=self.credentials)
        return self.root / name


def write_table(path: Path, rows: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": range(rows), "email": [f"{path.name}-{row}@example.org" for row in range(rows)]})
    pq.write_table(table, path, row_group_size=max(rows // 2, 1))


def half_rotate(dataset: Path, name: str) -> Path:
    """Change the end of a file as a rotation does that is not done yet, and return the undo file."""
    path = dataset / name
    source = open_store(Location(str(path))).stat().file()
    assert source is not None
    write_undo(source, read_stored_footer(MemorySource(path.read_bytes(), name)).body_end)
    with path.open("ab") as file:
        file.write(b"PAR1")
    return Path(undo_place(Location(str(path))).local_path)


def entry_of(path: str, data: bytes, digests: Sequence[DigestAlgorithm] = SHA256) -> FileEntry:
    stored = read_stored_footer(MemorySource(data, path))
    seen = observe_encryption(stored, path)
    return FileEntry(
        path,
        len(data),
        stored.rows or 0,
        digest(data) if DigestAlgorithm.SHA256 in digests else None,
        stored.sha256,
        () if stored.metadata is None else seen.kek_ids,
        digest(data, DigestAlgorithm.BLAKE3) if DigestAlgorithm.BLAKE3 in digests else None,
    )


def promise_of(path: str, data: bytes) -> PromisedPolicy:
    """Return the promise that fits an encrypted file."""
    seen = observe_encryption(read_stored_footer(MemorySource(data, path)), path)
    assert seen.mode is not None
    if seen.mode is FooterMode.ENCRYPTED:
        return PromisedPolicy(seen.mode, seen.footer_key_ids, other_key_ids=seen.footer_key_ids)
    columns = [PromisedColumn(each.path, each.master_key_ids) for each in seen.columns or () if each.is_encrypted]
    return PromisedPolicy(seen.mode, seen.footer_key_ids, tuple(sorted(columns, key=lambda each: each.path)))


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def data_files(root: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree(root).items() if not is_reserved(path)}


def sign(root: Path, *signers: LocalSigner, entries: Sequence[FileEntry] = (), **changes: object) -> Manifest:
    """Sign what is below a directory, and write statement and list of files there.

    Args:
        root: the dataset.
        signers: default: Alice.
        entries: instead of those of the files that are there.
        changes: members of the manifest.
    """
    files = data_files(root)
    path, data = next(iter(files.items()))
    made = _manifest(path, data)
    digests = changes.get("digests", made.digests)
    listed = entries or [entry_of(path, data, digests) for path, data in files.items()]  # type: ignore[arg-type]
    blocks, summary = encode_file_list(listed, digests)  # type: ignore[arg-type]
    made = replace(made, **{**changes, "files": summary})  # type: ignore[arg-type]
    place = root / file_list_path(made.version, summary.sha256)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"".join(blocks))
    (root / MANIFEST_PATH).write_bytes(envelope(made, *signers))
    return made


def sign_file(path: Path, *signers: LocalSigner, **changes: object) -> Manifest:
    """Sign a single file, and write its statement beside it."""
    data = path.read_bytes()
    made = replace(_manifest(path.name, data), **changes)  # type: ignore[arg-type]
    path.with_name(path.name + SIGNATURE_SUFFIX).write_bytes(envelope(made, *signers))
    return made


def envelope(manifest: Manifest, *signers: LocalSigner) -> bytes:
    statement = encode_statement(manifest)
    return encode_envelope(statement, make_signatures(signers or (ALICE,), message_to_sign(statement)))


def next_version(manifest: Manifest) -> dict[str, object]:
    """Return what the manifest after one has."""
    return {
        "dataset_id": manifest.dataset_id,
        "version": manifest.version + 1,
        "previous_sha256": statement_sha256(encode_statement(manifest)),
    }


def _manifest(path: str, data: bytes) -> Manifest:
    seen = observe_encryption(read_stored_footer(MemorySource(data, path)), path)
    return Manifest(
        dataset_id=seen.dataset_id or "0" * 32,
        version=1,
        previous_sha256=None,
        created=datetime.now(UTC).replace(microsecond=0),
        expires=None,
        policy=promise_of(path, data),
        digests=SHA256,
        files=entry_of(path.rpartition("/")[2], data),
    )
