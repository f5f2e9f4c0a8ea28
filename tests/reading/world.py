"""Encrypted files with two keys, for the tests of transparent reading."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import encrypt_file
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.world import MemorySink, MemorySource, parquet_bytes

PASSPHRASE = "correct horse"  # noqa: S105  # a test's own
CREDENTIALS = Credentials({"PIPECRYPT_PASSPHRASE": PASSPHRASE})


class Keys:
    """Two keys of one keystore: `open`, which readers have, and `secret`, which they lack."""

    def __init__(self, folder: Path) -> None:
        self.open, self.secret = (f"keystore://{folder}/keys.json#{name}" for name in ("open", "secret"))
        for reference in (self.open, self.secret):
            create_key(reference, "aes256", CREDENTIALS)

    def policy(
        self,
        *secret: str,
        footer: FooterMode = FooterMode.PLAINTEXT,
        scope: KeyScope = KeyScope.BATCH,
        default: bool = True,
    ) -> EncryptionPolicy:
        rules = tuple(ColumnRule(pattern, self.secret) for pattern in secret)
        key = self.open if default else None
        return EncryptionPolicy(rules=rules, default=key, footer=footer, footer_key=self.open, data_keys=scope)


def seal(data: bytes, policy: EncryptionPolicy, name: str) -> bytes:
    sink = MemorySink()
    with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
        encrypt_file(MemorySource(data), sink, policy, keys=session, context=Context(new_dataset_id(), name))
    return bytes(sink.data)


def write(place: Path, table: pa.Table, policy: EncryptionPolicy, **options: object) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(seal(parquet_bytes(table, **{"row_group_size": 300, **options}), policy, place.name))
    return place


@contextlib.contextmanager
def opens_no_pipe() -> Iterator[None]:
    """Fail where opening a named pipe waits for who writes to it."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits for a writer")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
