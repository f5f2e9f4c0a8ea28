"""What the tests of writing share: keys, files to sign, and a check of all that was signed about a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import blake3
import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.dataset.signed_file import compare_encryption
from pipecrypt.dataset.statement.envelope import VerifiedManifest, files_of, verify_envelope
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, is_reserved, signature_path
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.parquet.footer.keys import observe_encryption
from pipecrypt.parquet.footer.segments import check_structure
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.runs.files import encrypt
from pipecrypt.runs.report.events import Summary
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.verifying import verify
from pipecrypt.vocabulary.ranges import MemorySource


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

    def sign(self, policy: Policy | None = None, **options: object) -> Summary:
        """Encrypt and sign `raw` into `out`, in the usual way or another one."""
        given: dict[str, object] = {"source": self.raw, "sink": self.out, "credentials": self.credentials}
        return encrypt(policy=policy or self.policy(), **{**given, **options})  # type: ignore[arg-type]

    def write(self, name: str, table: pa.Table | None = None) -> None:
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(people() if table is None else table, path, row_group_size=40)

    def verify(self, base: Path | None = None, *, signer: str = "signing") -> VerifiedManifest:
        """Return the manifest of a directory, checked against the public keys of a signing key."""
        data = ((base or self.out) / MANIFEST_PATH).read_bytes()
        return verify_envelope(
            data, TrustedKeys.of([self.reference(signer)], credentials=Credentials({})).verify, datetime.now(UTC)
        )

    def verify_single(self, file: Path) -> VerifiedManifest:
        """Return the statement beside a file, and compare the file with it."""
        data = Path(signature_path(str(file))).read_bytes()
        check = TrustedKeys.of([self.reference("signing")], credentials=Credentials({})).verify
        verified = verify_envelope(data, check, datetime.now(UTC), expected_file=file.name)
        entry = verified.manifest.single_file
        assert entry is not None
        check_file(file, entry, verified.manifest)
        return verified

    def entries(self, base: Path | None = None) -> dict[str, FileEntry]:
        """Return the signed files of a directory by path: exactly those that are there, each as was signed."""
        base, verified = base or self.out, self.verify(base)
        entries = {
            entry.path: entry
            for entry in files_of(verified.manifest, (base / verified.manifest.file_list_path).read_bytes())
        }
        assert set(entries) == {path for path in tree(base) if not is_reserved(path)}
        keys = [self.reference(name) for name in ("pii", "other")]
        verify(base, [self.reference("signing")], keys=keys, workers=1, remember=False, credentials=self.credentials)
        for path, entry in entries.items():
            check_file(base / path, entry, verified.manifest)
        return entries


def people(rows: int = 100) -> pa.Table:
    return pa.table({"id": range(rows), "email": [f"{row}@example.org" for row in range(rows)]})


def check_file(file: Path, entry: FileEntry, manifest: Manifest) -> None:
    """Compare a file with all that was signed about it, by tools of the outside where there are any."""
    data = file.read_bytes()
    assert len(data) == entry.size_bytes
    whole = {"sha256": hashlib.sha256(data).hexdigest(), "blake3": blake3.blake3(data).hexdigest()}
    assert {name.value: digest for name, digest in entry.digests().items()}.items() <= whole.items()
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    assert hashlib.sha256(data[-footer_bytes:]).hexdigest() == entry.footer_sha256

    stored = read_stored_footer(MemorySource(data, file.name))
    counts = check_structure(stored, file.name)
    assert counts is None or counts[0] == entry.rows
    seen = observe_encryption(stored, file.name)
    # An encrypted footer hides the columns, and with them the KEKs of other master keys.
    assert seen.kek_ids == entry.kek_ids if seen.columns is not None else set(seen.kek_ids) <= set(entry.kek_ids)
    assert compare_encryption(manifest, entry.path, seen) == ()


def tree(base: Path) -> set[str]:
    return {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}
