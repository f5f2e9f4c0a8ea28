"""The corpus: each entry tampers with a copy of the second version of a signed dataset."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pipecrypt as pc
from pipecrypt.dataset.statement.envelope import encode_envelope, message_to_sign, parse_envelope
from pipecrypt.dataset.statement.paths import MANIFEST_PATH
from pipecrypt.keys.signers import make_signatures, open_signer
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.segments import SegmentKind
from pipecrypt.parquet.footer.stored import PLAIN_MAGIC, encode_plain_footer, read_stored_footer
from pipecrypt.parquet.wire.fields import ColumnChunk
from tests.parquet.world import MemorySource, every_row_group
from tests.tamper.parts import edit, exchange, modules_of, parts_of
from tests.tamper.world import FILES, TamperWorld

A, B, C = FILES
SECRET, SALARY, CITY = 0, 1, 2


@dataclass(frozen=True)
class Scene:
    """A copy of the second version, to be tampered with, and the world it is from."""

    world: TamperWorld
    data: Path

    def file(self, name: str) -> Path:
        return self.data / name

    @property
    def manifest(self) -> Path:
        return self.data / MANIFEST_PATH

    def take(self, name: str, source: Path) -> None:
        target = self.file(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def become(self, dataset: Path) -> None:
        shutil.rmtree(self.data)
        shutil.copytree(dataset, self.data)


Apply: TypeAlias = Callable[[Scene], None]


@dataclass(frozen=True)
class Tamper:
    """One attack.

    Args:
        name: of the attack.
        apply: does it.
        needs_readable_footer: it edits what an encrypted footer hides.
        is_seen_by_encryption: GCM tags or the format show it to whoever has the keys, without any statement.
        is_hidden_from_views: it changes indexes or Bloom filters, which a view does not show.
    """

    name: str
    apply: Apply
    needs_readable_footer: bool = False
    is_seen_by_encryption: bool = False
    is_hidden_from_views: bool = False


CORPUS: list[Tamper] = []


def tamper(name: str, *, readable: bool = False, seen: bool = False, hidden: bool = False) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        CORPUS.append(Tamper(name, apply, readable, seen, hidden))
        return apply

    return register


# ---- whole files ----


@tamper("a file dropped")
def _dropped(scene: Scene) -> None:
    scene.file(A).unlink()


@tamper("a file dropped from a directory below")
def _dropped_below(scene: Scene) -> None:
    scene.file(C).unlink()


@tamper("a file added: an encrypted one of the version before")
def _added(scene: Scene) -> None:
    scene.take("d.parquet", scene.world.first / A)


@tamper("a file added: a plaintext one", seen=True)
def _added_plain(scene: Scene) -> None:
    scene.take("d.parquet", scene.world.plain / A)


@tamper("a file doubled")
def _doubled(scene: Scene) -> None:
    scene.take("d.parquet", scene.file(A))


@tamper("a file renamed")
def _renamed(scene: Scene) -> None:
    scene.file(A).rename(scene.file("d.parquet"))


@tamper("a file moved to another directory")
def _moved(scene: Scene) -> None:
    scene.file(A).rename(scene.file("day=1/a.parquet"))


@tamper("two files exchanged")
def _exchanged(scene: Scene) -> None:
    a, b = scene.file(A).read_bytes(), scene.file(B).read_bytes()
    scene.file(A).write_bytes(b)
    scene.file(B).write_bytes(a)


@tamper("one file in the place of another")
def _overwritten(scene: Scene) -> None:
    scene.take(A, scene.file(B))


@tamper("an old version of a file")
def _old_file(scene: Scene) -> None:
    scene.take(A, scene.world.first / A)


@tamper("old versions of all files")
def _old_files(scene: Scene) -> None:
    for name in FILES:
        scene.take(name, scene.world.first / name)


@tamper("a file of another dataset of the same signer")
def _of_another_dataset(scene: Scene) -> None:
    scene.take(A, scene.world.other / A)


@tamper("a file of another signer with the same rows")
def _of_a_stranger(scene: Scene) -> None:
    scene.take(A, scene.world.foreign / A)


@tamper("a file cut off by one byte", seen=True)
def _cut(scene: Scene) -> None:
    edit(scene.file(A), lambda data: data[:-1])


@tamper("a file cut in half", seen=True)
def _halved(scene: Scene) -> None:
    edit(scene.file(A), lambda data: data[: len(data) // 2])


@tamper("a file emptied", seen=True)
def _emptied(scene: Scene) -> None:
    edit(scene.file(A), lambda data: b"")


@tamper("a byte behind a file", seen=True)
def _trailing(scene: Scene) -> None:
    edit(scene.file(A), lambda data: data + b"\0")


@tamper("a file behind itself")
def _twice(scene: Scene) -> None:
    edit(scene.file(A), lambda data: data + data)


@tamper("a directory in the place of a file")
def _directory(scene: Scene) -> None:
    scene.file(A).unlink()
    scene.file(A).mkdir()


# ---- statement and list ----


@tamper("an old statement")
def _old_statement(scene: Scene) -> None:
    shutil.copyfile(scene.world.first / MANIFEST_PATH, scene.manifest)


@tamper("the whole old version")
def _old_version(scene: Scene) -> None:
    scene.become(scene.world.first)


@tamper("the whole of another dataset of the same signer")
def _another_dataset(scene: Scene) -> None:
    scene.become(scene.world.other)


@tamper("the statement and list of another dataset of the same signer")
def _another_statement(scene: Scene) -> None:
    shutil.rmtree(scene.manifest.parent)
    shutil.copytree(scene.world.other / "_pipecrypt", scene.manifest.parent)


@tamper("the whole dataset signed by a stranger")
def _stranger(scene: Scene) -> None:
    scene.become(scene.world.foreign)


@tamper("the statement removed")
def _no_statement(scene: Scene) -> None:
    scene.manifest.unlink()


@tamper("statement and list removed")
def _no_reserved_directory(scene: Scene) -> None:
    shutil.rmtree(scene.manifest.parent)


@tamper("the list of files removed")
def _no_list(scene: Scene) -> None:
    shutil.rmtree(scene.manifest.parent / "files")


@tamper("a digest in the list of files changed")
def _changed_list(scene: Scene) -> None:
    def change(data: bytes) -> bytes:
        at = data.index(b'"sha256":"') + len(b'"sha256":"')
        return data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]

    edit(_list_of(scene), change)


@tamper("a line of the list of files removed")
def _shorter_list(scene: Scene) -> None:
    scene.file(A).unlink()
    edit(_list_of(scene), lambda data: b"".join(data.splitlines(keepends=True)[1:]))


@tamper("a forged statement, signed by a stranger")
def _forged(scene: Scene) -> None:
    _rewrite(scene, lambda text: text.replace(b'"version":2', b'"version":3'), signer="stranger")


@tamper("a forged statement under the old signature")
def _forged_under_old(scene: Scene) -> None:
    _rewrite(scene, lambda text: text.replace(b'"version":2', b'"version":3'), signer=None)


@tamper("a stranger's signature under the key id of a trusted key")
def _key_id(scene: Scene) -> None:
    trusted = parse_envelope(scene.manifest.read_bytes()).signatures[0].key_id
    _rewrite(scene, lambda text: text, signer="stranger", key_id=trusted)


@tamper("another payload type, signed by the trusted key")
def _payload_type(scene: Scene) -> None:
    document = json.loads(scene.manifest.read_bytes())
    kind = "application/vnd.other+json"
    payload = base64.b64decode(document["payload"])
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    (signature,) = _sign(scene, "signing", message)
    document["payloadType"] = kind
    document["signatures"] = [{"keyid": signature[0], "sig": base64.b64encode(signature[1]).decode()}]
    scene.manifest.write_bytes(json.dumps(document).encode())


@tamper("no signatures")
def _unsigned(scene: Scene) -> None:
    document = json.loads(scene.manifest.read_bytes())
    document["signatures"] = []
    scene.manifest.write_bytes(json.dumps(document).encode())


@tamper("an expired statement")
def _expired(scene: Scene) -> None:
    scene.become(scene.world.expired)


@tamper("a statement without end")
def _endless(scene: Scene) -> None:
    with scene.manifest.open("ab") as file:
        file.truncate(64 << 20)


# ---- encryption ----


@tamper("a plaintext file in the place of an encrypted one", seen=True)
def _plaintext_file(scene: Scene) -> None:
    scene.take(A, scene.world.plain / A)


@tamper("a file under the attacker's key", seen=True)
def _attackers_key(scene: Scene) -> None:
    _encrypt_over(scene, columns={name: scene.world.reference("own") for name in ("secret", "salary")})


@tamper("a file whose encrypted column is plaintext")
def _plaintext_column(scene: Scene) -> None:
    _encrypt_over(scene, columns={"salary": scene.world.reference("pay")})


@tamper("the footer rebuilt without its encryption", readable=True, seen=True)
def _rebuilt(scene: Scene) -> None:
    edit(scene.file(A), _without_encryption)


@tamper("statistics of a plaintext column changed", readable=True, seen=True)
def _statistics(scene: Scene) -> None:
    def change(data: bytes) -> bytes:
        at = data.index(b"city-", parts_of(data).body_end)
        return data[: at + 5] + b"9" + data[at + 6 :]

    edit(scene.file(A), change)


@tamper("key metadata exchanged between columns", readable=True, seen=True)
def _key_metadata_of_columns(scene: Scene) -> None:
    def change(data: bytes) -> bytes:
        keys = parts_of(data).key_metadata
        return _exchange_texts(data, keys[0, SECRET], keys[0, SALARY])

    edit(scene.file(A), change)


@tamper("key metadata of another file", readable=True, seen=True)
def _key_metadata_of_files(scene: Scene) -> None:
    other = parts_of(scene.file(B).read_bytes()).key_metadata[0, SECRET]
    edit(scene.file(A), lambda data: data.replace(parts_of(data).key_metadata[0, SECRET], other))


# ---- parts of files ----


@tamper("pages exchanged in a chunk", readable=True, seen=True)
def _pages(scene: Scene) -> None:
    def change(data: bytes) -> bytes:
        modules = modules_of(data, parts_of(data).pages[0, SALARY])
        return exchange(data, modules[1], modules[3])

    edit(scene.file(A), change)


@tamper("a column's chunks exchanged between row groups", readable=True, seen=True)
def _chunks(scene: Scene) -> None:
    edit(scene.file(A), lambda data: exchange(data, *(parts_of(data).pages[group, SALARY] for group in (0, 1))))


@tamper("a plaintext column's chunks exchanged between row groups", readable=True)
def _plain_chunks(scene: Scene) -> None:
    edit(scene.file(A), lambda data: exchange(data, *(parts_of(data).pages[group, CITY] for group in (0, 1))))


@tamper("row groups exchanged", readable=True, seen=True)
def _row_groups(scene: Scene) -> None:
    def change(data: bytes) -> bytes:
        pages = parts_of(data).pages
        for column in range(4):
            data = exchange(data, pages[0, column], pages[1, column])
        return data

    edit(scene.file(A), change)


@tamper("a chunk of another file", readable=True, seen=True)
def _foreign_chunk(scene: Scene) -> None:
    other = scene.file(B).read_bytes()
    edit(scene.file(A), lambda data: _replace_part(data, other, SALARY))


@tamper("a plaintext chunk of another file", readable=True)
def _foreign_plain_chunk(scene: Scene) -> None:
    other = scene.file(B).read_bytes()
    edit(scene.file(A), lambda data: _replace_part(data, other, CITY))


@tamper("a chunk of the file's own old version", readable=True, seen=True)
def _old_chunk(scene: Scene) -> None:
    other = (scene.world.first / A).read_bytes()
    edit(scene.file(A), lambda data: _replace_part(data, other, SALARY))


@tamper("a plaintext value changed", readable=True)
def _plain_value(scene: Scene) -> None:
    def change(data: bytes) -> bytes:
        at = data.index(b"city-0", parts_of(data).pages[0, CITY].start)
        return data[: at + 5] + b"9" + data[at + 6 :]

    edit(scene.file(A), change)


def _register_parts() -> None:
    for kind in (SegmentKind.BLOOM_FILTER, SegmentKind.COLUMN_INDEX, SegmentKind.OFFSET_INDEX):
        for name, column in (("an encrypted", SECRET), ("a plaintext", CITY)):
            what = kind.name.lower().replace("_", " ")
            seen = column == SECRET
            tamper(f"the {what} of {name} column", readable=True, seen=seen, hidden=True)(_flip_part(kind, column))


def _flip_part(kind: SegmentKind, column: int) -> Apply:
    def apply(scene: Scene) -> None:
        def change(data: bytes) -> bytes:
            at = parts_of(data).others[0, column, kind].end - 1
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

        edit(scene.file(A), change)

    return apply


_register_parts()


# ---- tools ----


def _list_of(scene: Scene) -> Path:
    version = sorted((scene.manifest.parent / "files").glob("2-*.jsonl"))
    assert len(version) == 1
    return version[0]


def _sign(scene: Scene, name: str, message: bytes) -> list[tuple[str, bytes]]:
    signer = open_signer(scene.world.reference(name), scene.world.credentials)
    return [(each.key_id, each.value) for each in make_signatures([signer], message)]


def _rewrite(scene: Scene, change: Apply | Callable[[bytes], bytes], *, signer: str | None, key_id: str = "") -> None:
    envelope = parse_envelope(scene.manifest.read_bytes())
    payload = change(envelope.payload)  # type: ignore[arg-type]
    signatures = envelope.signatures
    if signer is not None:
        opened = open_signer(scene.world.reference(signer), scene.world.credentials)
        signatures = make_signatures([opened], message_to_sign(payload))
    if key_id:
        signatures = tuple(type(each)(key_id, each.value) for each in signatures)
    scene.manifest.write_bytes(encode_envelope(payload, signatures))


def _encrypt_over(scene: Scene, columns: dict[str, str]) -> None:
    """Put a file of the attacker's own making in the place of A; it is bound to no dataset that anybody signed."""
    policy = pc.Policy(columns=columns, footer=scene.world.footer)
    made = scene.data.parent / "made.parquet"
    pc.encrypt(scene.world.plain / A, made, policy, overwrite=True, credentials=scene.world.credentials)
    scene.take(A, made)


def _without_encryption(data: bytes) -> bytes:
    stored = read_stored_footer(MemorySource(data))
    assert stored.metadata is not None
    for chunks in every_row_group(RowGroups(stored.metadata, "a file")):
        for chunk in chunks:
            chunk.entry.remove(ColumnChunk.CRYPTO_METADATA)
            chunk.entry.remove(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
    return PLAIN_MAGIC + data[4 : stored.body_end] + b"".join(encode_plain_footer(stored.metadata))


def _exchange_texts(data: bytes, one: bytes, two: bytes) -> bytes:
    first, second = data.index(one), data.index(two)
    assert len(one) == len(two)
    changed = bytearray(data)
    changed[first : first + len(one)], changed[second : second + len(two)] = two, one
    return bytes(changed)


def _replace_part(data: bytes, other: bytes, column: int) -> bytes:
    mine, theirs = parts_of(data).pages[0, column], parts_of(other).pages[0, column]
    assert mine.length == theirs.length
    return data[: mine.start] + theirs.of(other) + data[mine.end :]
