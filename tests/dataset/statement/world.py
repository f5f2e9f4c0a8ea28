"""A signer, a policy, a small dataset and its statement, for the tests of this room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import Check, encode_envelope, message_to_sign
from pipecrypt.dataset.statement.file_list import FileEntry, FileListSummary, encode_file_list
from pipecrypt.dataset.statement.manifest import Manifest, encode_statement
from pipecrypt.dataset.statement.paths import check_path
from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy
from pipecrypt.errors import NotTrustedError
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.vocabulary.documents import DocumentError

SHA256 = (DigestAlgorithm.SHA256,)
BOTH = (DigestAlgorithm.SHA256, DigestAlgorithm.BLAKE3)
DATASET_ID = "0123456789abcdef" * 2
CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOW = CREATED + timedelta(days=1)
PII, PRICES = "keystore/pii/1", "keystore/prices/1"
ALICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MALLORY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
POLICY = PromisedPolicy(
    footer=FooterMode.PLAINTEXT,
    footer_key_ids=(PII,),
    columns=(PromisedColumn(("customer", "e.mail"), (PII,)), PromisedColumn(("total",), (PII, PRICES))),
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(path: str, **changes: object) -> FileEntry:
    made = FileEntry(path, 1000, 10, sha(path), sha("footer of " + path), ("AAAA", "BBBB"))
    return replace(made, **changes)  # type: ignore[arg-type]


ENTRIES = (
    entry("a/part-0.parquet"),
    entry("a/part-1.parquet", size_bytes=7, rows=0, kek_ids=()),
    entry("ä\u2028.parquet"),
)


def listed(
    entries: Sequence[FileEntry], digests: tuple[DigestAlgorithm, ...] = SHA256
) -> tuple[bytes, FileListSummary]:
    blocks, summary = encode_file_list(entries, digests)
    return b"".join(blocks), summary


FILE_LIST, SUMMARY = listed(ENTRIES)


def manifest(**changes: object) -> Manifest:
    made = Manifest(
        dataset_id=DATASET_ID,
        version=1,
        previous_sha256=None,
        created=CREATED,
        expires=None,
        policy=POLICY,
        digests=SHA256,
        files=SUMMARY,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def key_id(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()


def signed(statement: bytes, *keys: Ed25519PrivateKey) -> bytes:
    message = message_to_sign(statement)
    return encode_envelope(statement, [Signature(key_id(key), key.sign(message)) for key in keys or (ALICE,)])


def envelope(made: Manifest, *keys: Ed25519PrivateKey) -> bytes:
    return signed(encode_statement(made), *keys)


def trusting(*keys: Ed25519PrivateKey, threshold: int = 1) -> Check:
    """Return what `Trust.verify` is: it goes by the keys, never by the ids in the envelope."""

    def check(message: bytes, signatures: Sequence[Signature], _: Callable[[], datetime]) -> tuple[str, ...]:
        good = tuple(key_id(key) for key in keys if any(_verifies(key, message, one) for one in signatures))
        if len(good) < threshold:
            raise NotTrustedError(f"{len(good)} of {threshold} trusted keys signed")
        return good

    return check


def _verifies(key: Ed25519PrivateKey, message: bytes, signature: Signature) -> bool:
    try:
        key.public_key().verify(signature.value, message)
    except InvalidSignature:
        return False
    return True


def _is_path(text: str) -> bool:
    try:
        check_path(text)
    except DocumentError:
        return False
    return True


hex_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(0, 1 << 40)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(_is_path)
kek_ids = st.sets(st.from_regex(r"\A[A-Za-z0-9+/]{1,24}\Z"), max_size=3).map(lambda ids: tuple(sorted(ids)))
entries = st.builds(FileEntry, paths, counts, counts, hex_digests, hex_digests, kek_ids)
key_ids = st.sets(names, min_size=1, max_size=3).map(lambda ids: tuple(sorted(ids)))
columns = st.dictionaries(st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple), key_ids, max_size=4).map(
    lambda found: tuple(PromisedColumn(path, ids) for path, ids in sorted(found.items()))
)
policies = st.builds(
    PromisedPolicy,
    footer=st.sampled_from(FooterMode),
    footer_key_ids=key_ids,
    columns=columns,
    other_key_ids=key_ids,
    bind_path=st.booleans(),
)
times = st.datetimes(datetime(1, 1, 1), datetime(9000, 1, 1)).map(lambda time: time.replace(microsecond=0, tzinfo=UTC))
