"""Signed datasets to tamper with: two versions of one, another of the same signer, and one of a stranger."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import pipecrypt as pc
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from tests.keys.public_halves import read_public_keys

FILES = ("a.parquet", "b.parquet", "day=1/c.parquet")
ROWS = 24
GROUP_ROWS = 12
KEYS = ("pii", "pay")


def table(seed: int) -> pa.Table:
    """Return rows whose values have the same lengths whatever the seed, so that parts can be exchanged."""
    numbers = [seed * 1000 + row for row in range(ROWS)]
    return pa.table(
        {
            "secret": [f"secret-{number:06d}" for number in numbers],
            "salary": pa.array(numbers, pa.int64()),
            "city": [f"city-{number:06d}" for number in numbers],
            "count": pa.array(numbers, pa.int64()),
        }
    )


def write_plain(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table(seed),
        path,
        row_group_size=GROUP_ROWS,
        use_dictionary=False,
        compression="none",
        max_rows_per_page=4,
        write_page_index=True,
        bloom_filter_options={"city": {"ndv": 32}, "secret": {"ndv": 32}},
        store_schema=False,
    )


@dataclass(frozen=True)
class TamperWorld:
    """Everything but the copy that is tampered with.

    Args:
        root: of keystore and datasets.
        footer: `plaintext` or `encrypted`.
        environ: opens the keystore.
    """

    root: Path
    footer: str
    environ: dict[str, str]

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    def reference(self, name: str) -> str:
        return f"keystore://{self.root}/keys.json#{name}"

    @property
    def keys(self) -> list[str]:
        return [self.reference(name) for name in KEYS]

    @cached_property
    def trust(self) -> list[str]:
        return [key.pem for key in read_public_keys(self.reference("signing"), credentials=Credentials({}))]

    @property
    def first(self) -> Path:
        return self.root / "first"

    @property
    def second(self) -> Path:
        return self.root / "second"

    @property
    def other(self) -> Path:
        return self.root / "other"

    @property
    def foreign(self) -> Path:
        return self.root / "foreign"

    @property
    def expired(self) -> Path:
        return self.root / "expired"

    @property
    def plain(self) -> Path:
        return self.root / "plain-second"

    def policy(self, sign: str | None = "signing", **changes: object) -> pc.Policy:
        policy = pc.Policy(
            columns={"secret": self.reference("pii"), "salary": self.reference("pay")},
            footer=self.footer,
            footer_key=self.reference("pii"),
            sign=None if sign is None else self.reference(sign),
        )
        return replace(policy, **changes)

    def encrypt(self, source: Path, sink: Path, policy: pc.Policy | None = None, *, overwrite: bool = False) -> None:
        chosen = self.policy() if policy is None else policy
        pc.encrypt(f"{source}/", f"{sink}/", chosen, overwrite=overwrite, credentials=self.credentials)


def build(root: Path, footer: str) -> TamperWorld:
    key_file = root / "keystore.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(bytes(range(32)))
    world = TamperWorld(root, footer, {"PIPECRYPT_KEY_FILE": str(key_file)})
    for name in (*KEYS, "own"):
        create_key(world.reference(name), "aes256", world.credentials)
    for name in ("signing", "stranger"):
        create_key(world.reference(name), "ed25519", world.credentials)
    for at, version in enumerate(("first", "second", "other")):
        for index, name in enumerate(FILES):
            write_plain(root / f"plain-{version}" / name, 10 * (at + 1) + index)
    live = root / "live"
    world.encrypt(root / "plain-first", live)
    shutil.copytree(live, world.first)
    world.encrypt(root / "plain-second", live, overwrite=True)
    shutil.copytree(live, world.second)
    world.encrypt(root / "plain-other", world.other)
    world.encrypt(root / "plain-second", world.foreign, world.policy("stranger"))
    short = world.policy(valid_for=datetime.timedelta(seconds=1))
    world.encrypt(root / "plain-second", world.expired, short)
    return world
