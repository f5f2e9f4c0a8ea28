from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystore import create_key
from pipecrypt.keys.trust import Trust
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.paths import MANIFEST_PATH, is_reserved, signature_path
from pipecrypt.manifest.verify import VerifiedManifest, verify_envelope
from pipecrypt.pipeline.policy import Policy
from tests.dataset.world import SignedWorld, sign


@dataclass(frozen=True)
class World:
    """A keystore that a key file opens, with master keys and signing keys, and a place for files."""

    root: Path
    environ: dict[str, str]

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def reference(self, name: str) -> str:
        return f"keystore://{self.root}/keys.json#{name}"

    def policy(self, **options: object) -> Policy:
        """Return a policy that encrypts `email`, and signs."""
        given: dict[str, object] = {"columns": {"email": self.reference("pii")}, "sign": self.reference("signing")}
        return Policy(**{**given, **options})  # type: ignore[arg-type]

    def write(self, name: str, table: pa.Table | None = None) -> None:
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(people() if table is None else table, path, row_group_size=40)

    def verify(self, base: Path | None = None, *, signer: str = "signing") -> VerifiedManifest:
        """Return the manifest of a directory, checked against the public keys of a signing key."""
        data = ((base or self.out) / MANIFEST_PATH).read_bytes()
        return verify_envelope(data, Trust.of([self.reference(signer)]).verify, datetime.now(UTC))

    def verify_single(self, file: Path) -> VerifiedManifest:
        data = Path(signature_path(str(file))).read_bytes()
        check = Trust.of([self.reference("signing")]).verify
        return verify_envelope(data, check, datetime.now(UTC), expected_file=file.name)

    def entries(self, base: Path | None = None) -> dict[str, FileEntry]:
        """Return the signed files of a directory by path, each compared with what is there."""
        base, verified = base or self.out, self.verify(base)
        entries = {entry.path: entry for entry in verified.files((base / verified.file_list_path).read_bytes())}
        for path, entry in entries.items():
            check_digest(base / path, entry)
        assert set(entries) == {path for path in tree(base) if not is_reserved(path)}
        return entries


def people(rows: int = 100) -> pa.Table:
    return pa.table({"id": range(rows), "email": [f"{row}@example.org" for row in range(rows)]})


def check_digest(file: Path, entry: FileEntry) -> None:
    data = file.read_bytes()
    assert len(data) == entry.size_bytes
    if entry.sha256 is not None:
        assert hashlib.sha256(data).hexdigest() == entry.sha256
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    assert hashlib.sha256(data[-footer_bytes:]).hexdigest() == entry.footer_sha256


def tree(base: Path) -> set[str]:
    return {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    made = World(tmp_path, {"PIPECRYPT_KEY_FILE": str(tmp_path / "key")})
    for name in ("pii", "other"):
        create_key(made.reference(name), "aes256", made.credentials)
    for name in ("signing", "second"):
        create_key(made.reference(name), "ed25519", made.credentials)
    made.write("a.parquet")
    made.write("day=1/b.parquet")
    return made


@pytest.fixture(scope="session")
def signed_world(tmp_path_factory: pytest.TempPathFactory) -> SignedWorld:
    """Keys, tables and a signed dataset, which tests leave as they are."""
    made = SignedWorld.at(tmp_path_factory.mktemp("world"))
    sign(made.encrypt("signed"))
    return made


@pytest.fixture
def dataset(signed_world: SignedWorld, tmp_path: Path) -> Path:
    """A copy of a signed dataset of three files, to be tampered with."""
    return Path(shutil.copytree(signed_world.root / "signed", tmp_path / "signed"))
