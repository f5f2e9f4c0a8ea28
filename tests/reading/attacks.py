"""What somebody may do to a signed dataset who can write to its storage, and has no key."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, cast

import pytest

import pipecrypt as pc
from pipecrypt.keys.keystores import create_key
from pipecrypt.parquet.footer.stored import encode_plain_footer, read_stored_footer
from pipecrypt.parquet.wire.fields import FileMetaData
from pipecrypt.vocabulary.ranges import MemorySource
from tests.dataset.world import SignedWorld, write_table


class World(SignedWorld):
    """Keys and tables, with a signing key in the keystore."""

    @classmethod
    def at(cls, root: Path) -> World:
        made = cast(World, super().at(root))
        for key in (made.signing, made.other_signing):
            create_key(key, "ed25519", made.credentials)
        return made

    @property
    def signing(self) -> str:
        return f"keystore://{self.root}/keys.json#signing"

    @property
    def other_signing(self) -> str:
        return f"keystore://{self.root}/keys.json#other-signing"

    def make_dataset(self, name: str = "signed", source: str = "raw", **options: object) -> Path:
        """Write a signed dataset as users do."""
        given = {"columns": {"email": self.key}, "footer_key": self.key, "sign": self.signing, **options}
        policy = pc.Policy(**given)  # type: ignore[arg-type]
        pc.encrypt(self.root / source, self.root / name, policy, credentials=self.credentials, overwrite=True)
        return self.root / name

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process open the keys, and trust nobody yet."""
        for name in ("PIPECRYPT_KEYS", "PIPECRYPT_TRUST", "PIPECRYPT_PASSPHRASE", "PIPECRYPT_PASSPHRASE_FILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)


Attack: TypeAlias = Callable[[World, Path], None]
FIRST, SECOND, THIRD = "a.parquet", "day=1/b ü.parquet", "day=2/c.parquet"


def drop(world: World, dataset: Path) -> None:
    (dataset / SECOND).unlink()


def add(world: World, dataset: Path) -> None:
    shutil.copy(dataset / SECOND, dataset / "day=1" / "z.parquet")


def swap(world: World, dataset: Path) -> None:
    one, two = (dataset / SECOND).read_bytes(), (dataset / THIRD).read_bytes()
    (dataset / SECOND).write_bytes(two)
    (dataset / THIRD).write_bytes(one)


def duplicate(world: World, dataset: Path) -> None:
    shutil.copy(dataset / SECOND, dataset / THIRD)


def rename(world: World, dataset: Path) -> None:
    (dataset / SECOND).rename(dataset / "day=1" / "new.parquet")


def put_plaintext(world: World, dataset: Path) -> None:
    shutil.copy(world.root / "raw" / SECOND, dataset / SECOND)


def encrypt_another_column(world: World, dataset: Path) -> None:
    """Put a file there whose column `email` is in plaintext; whoever writes files has a key for that."""
    policy = pc.Policy(columns={"id": world.key}, footer_key=world.key)
    _put(world, "raw", dataset, policy)


def rebuild_footer(world: World, dataset: Path) -> None:
    """Leave the encryption out of a footer that can be read."""
    place = dataset / SECOND
    data = place.read_bytes()
    stored = read_stored_footer(MemorySource(data, SECOND))
    assert stored.metadata is not None
    stored.metadata.remove(FileMetaData.ENCRYPTION_ALGORITHM)
    stored.metadata.remove(FileMetaData.FOOTER_SIGNING_KEY_METADATA)
    place.write_bytes(data[: stored.body_end] + b"".join(encode_plain_footer(stored.metadata)))


def truncate(world: World, dataset: Path) -> None:
    place = dataset / SECOND
    place.write_bytes(place.read_bytes()[:-100])


def append(world: World, dataset: Path) -> None:
    place = dataset / SECOND
    place.write_bytes(place.read_bytes() + b"\0")


def empty(world: World, dataset: Path) -> None:
    (dataset / SECOND).write_bytes(b"")


def put_text(world: World, dataset: Path) -> None:
    (dataset / SECOND).write_bytes(b"id,email\n1,x@example.org\n")


def change_plaintext_column(world: World, dataset: Path) -> None:
    """Flip a bit in the first page of `id`, which is not encrypted."""
    place = dataset / SECOND
    data = bytearray(place.read_bytes())
    data[60] ^= 1
    place.write_bytes(data)


def put_old_file(world: World, dataset: Path) -> None:
    """Put a file of the same rows there that the same keys encrypted earlier, for the same place."""
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, bind_path=False)
    write_table(dataset.parent / "old" / SECOND, rows=50)
    _put(world, dataset.parent / "old", dataset, policy)


def _put(world: World, source: str | Path, dataset: Path, policy: pc.Policy) -> None:
    made = dataset.parent / "made.parquet"
    pc.encrypt(world.root / source / SECOND, made, policy, credentials=world.credentials)
    made.replace(dataset / SECOND)


ATTACKS: dict[str, Attack] = {
    each.__name__: each
    for each in (
        drop,
        add,
        swap,
        duplicate,
        rename,
        put_plaintext,
        encrypt_another_column,
        rebuild_footer,
        truncate,
        append,
        empty,
        put_text,
        change_plaintext_column,
        put_old_file,
    )
}
