"""What stands in clear about a Parquet file, for people: read without any key, and so unauthenticated.

Names of keys are shortened where they are long; `keys.observe_encryption` is for checks. Verdicts about readers are
those of pyarrow 26, Spark 4.3 (parquet-java 1.17), Polars 2.1 and DuckDB 2.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import PipecryptError
from pipecrypt.parquet.footer.entries import Originals, read_originals
from pipecrypt.parquet.footer.keys import KeyNames, read_key_names
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.stored import SealedFooter, read_stored_footer
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.wire.fields import ColumnCrypto, ColumnMetaData, FileMetaData
from pipecrypt.parquet.wire.thrift import Struct
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["ColumnSummary", "FileSummary", "KeySummary", "inspect_file"]

_LONGEST_TEXT: Final = 120


@dataclass(frozen=True, slots=True)
class KeySummary:
    """Whose data keys encrypt a column or the footer.

    Args:
        master_key_id: from PKMT1 key material; None where the file stores something else.
        key_metadata: what it stores instead, as text or `hex:...`.
        kek_ids: how many key encryption keys lie between.
        data_keys: how many different data keys.
        has_commitment: every data key has a commitment.
    """

    master_key_id: str | None
    key_metadata: str | None
    kek_ids: int
    data_keys: int
    has_commitment: bool


@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """One leaf column.

    Args:
        path: dotted.
        type: physical type.
        encrypted: in at least one row group.
        with_footer_key: encrypted under the footer's data key.
        keys: one entry per master key.
        stored_bytes: of all its pages.
    """

    path: str
    type: str
    encrypted: bool
    with_footer_key: bool
    keys: tuple[KeySummary, ...]
    stored_bytes: int

    @property
    def data_keys(self) -> int:
        """How many different data keys of its own the column has."""
        return sum(key.data_keys for key in self.keys)


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What a file shows without any key. `rows`, `batches` and `columns` are hidden by an encrypted footer.

    Args:
        name: the file.
        size_bytes: its size.
        encrypted: whether it is.
        footer_mode: `plaintext` or `encrypted`; None for a plaintext file.
        algorithm: the specification's name.
        rows: rows of the file.
        batches: row groups.
        created_by: the writer of the plaintext file.
        aad_prefix: as text or `hex:...`.
        dataset_id: from a prefix of ours.
        path: the path that the prefix binds.
        data_keys: `batch` or `file`, as our files say.
        overhead_bytes: what encryption added to the plaintext file, as our files say.
        footer_key: whose key protects the footer.
        columns: leaf columns.
        readers: which readers can open the file.
    """

    name: str
    size_bytes: int
    encrypted: bool
    footer_mode: str | None
    algorithm: str | None
    rows: int | None
    batches: int | None
    created_by: str | None
    aad_prefix: str | None
    dataset_id: str | None
    path: str | None
    data_keys: str | None
    overhead_bytes: int | None
    footer_key: KeySummary | None
    columns: tuple[ColumnSummary, ...]
    readers: tuple[ReaderSummary, ...]


def inspect_file(source: RangeSource) -> FileSummary:
    """Return what the file shows without any key, unauthenticated.

    Raises:
        FormatError: no Parquet file, truncated or malformed.
    """
    stored = read_stored_footer(source)
    sealed, metadata = stored.sealed, stored.metadata
    columns: tuple[ColumnSummary, ...] = ()
    batches = 0
    if metadata is not None:
        row_groups = RowGroups(metadata, source.name)
        columns, batches = _columns(row_groups), len(row_groups)
    prefix = sealed.algorithm.aad_prefix if sealed is not None else None
    context, originals = Context.from_aad_prefix(prefix or b""), _originals(metadata)
    return FileSummary(
        name=source.name,
        size_bytes=source.size_bytes,
        encrypted=sealed is not None,
        footer_mode=sealed.mode.value if sealed is not None else None,
        algorithm=sealed.algorithm.name if sealed is not None else None,
        rows=metadata.integer(FileMetaData.NUM_ROWS) if metadata is not None else None,
        batches=batches if metadata is not None else None,
        created_by=_text(metadata.binary(FileMetaData.CREATED_BY)) if metadata is not None else None,
        aad_prefix=_text(prefix),
        dataset_id=context.dataset_id if context else None,
        path=context.path if context else None,
        data_keys=_scope(originals, columns) if sealed is not None else None,
        overhead_bytes=source.size_bytes - originals.source_bytes if originals is not None else None,
        footer_key=_keys([sealed.key_metadata])[0] if sealed is not None else None,
        columns=columns,
        readers=_readers(sealed, columns),
    )


def _columns(row_groups: RowGroups) -> tuple[ColumnSummary, ...]:
    row_groups.check_size()
    sealed, stored_bytes = Counter[int](), Counter[int]()
    own: list[list[bytes]] = [[] for _ in row_groups.leaves]  # key metadata
    for chunk in row_groups.each_chunk():
        stored_bytes[chunk.column] += chunk.metadata.integer(ColumnMetaData.TOTAL_COMPRESSED_SIZE) or 0
        sealed[chunk.column] += chunk.is_sealed
        if chunk.column_key is not None:
            own[chunk.column].append(chunk.column_key.binary(ColumnCrypto.KEY_METADATA) or b"")
    return tuple(
        ColumnSummary(
            path=leaf.dotted,
            type=leaf.physical_type,
            encrypted=bool(sealed[column]),
            with_footer_key=len(own[column]) < sealed[column],
            keys=_keys(own[column]),
            stored_bytes=stored_bytes[column],
        )
        for column, leaf in enumerate(row_groups.leaves)
    )


def _keys(all_metadata: Sequence[bytes]) -> tuple[KeySummary, ...]:
    by_owner: dict[tuple[str | None, str | None], list[tuple[bytes, KeyNames]]] = {}
    for key_metadata in all_metadata:
        names = read_key_names(key_metadata)
        is_named = names.master_key_id is not None
        owner = (_shortened(names.master_key_id or ""), None) if is_named else (None, _text(key_metadata))
        by_owner.setdefault(owner, []).append((key_metadata, names))
    return tuple(
        KeySummary(
            master_key_id=owner[0],
            key_metadata=owner[1],
            kek_ids=len({names.kek_id for _, names in found} - {None}),
            data_keys=len({key_metadata for key_metadata, _ in found}),
            has_commitment=all(names.has_commitment for _, names in found),
        )
        for owner, found in by_owner.items()
    )


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _shortened("hex:" + data.hex())
    return _shortened(text) if text.isprintable() else _shortened("hex:" + data.hex())


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."


def _originals(metadata: Struct | None) -> Originals | None:
    try:
        return read_originals(metadata) if metadata is not None else None
    except PipecryptError:
        return None  # a malformed entry is an error to decrypt; here it only tells nothing


def _scope(originals: Originals | None, columns: Sequence[ColumnSummary]) -> str | None:
    if originals is not None:
        return originals.data_keys.value
    if not columns:
        return None
    return "batch" if any(column.data_keys > 1 for column in columns) else "file"


_ALL: Final = "all"
_PLAINTEXT: Final = "plaintext columns"
_NO: Final = "no"
_ONE_KEY: Final = "takes one data key per column and file: use data_keys: file"
_NO_MATERIAL: Final = "the file stores no PKMT1 key material"


@dataclass(frozen=True, slots=True)
class ReaderSummary:
    """What one reader can open.

    Args:
        reader: its name.
        verdict: `all`, `plaintext columns` or `no`.
        reason: why, or what it needs.
    """

    reader: str
    verdict: str
    reason: str


def _readers(sealed: SealedFooter | None, columns: Sequence[ColumnSummary]) -> tuple[ReaderSummary, ...]:
    """Return one verdict for each reader that was measured; an encrypted footer hides what columns would tell."""
    if sealed is None:
        return (ReaderSummary("any Parquet reader", _ALL, "the file is not encrypted"),)
    encrypted = [column for column in columns if column.encrypted]
    keys = [*_keys([sealed.key_metadata]), *(key for column in encrypted for key in column.keys)]
    algorithm, is_hidden = sealed.algorithm, sealed.mode is FooterMode.ENCRYPTED
    partly = _NO if is_hidden or len(encrypted) == len(columns) else _PLAINTEXT
    has_prefix = algorithm.aad_prefix is not None or algorithm.prefix_is_supplied
    has_many = (any(column.data_keys > 1 for column in encrypted), _ONE_KEY)
    lacks_material = (any(key.master_key_id is None for key in keys), _NO_MATERIAL)

    def judge(reader: str, needs: str, *obstacles: tuple[bool, str]) -> ReaderSummary:
        reason = next((reason for is_there, reason in obstacles if is_there), None)
        return ReaderSummary(reader, _ALL, needs) if reason is None else ReaderSummary(reader, partly, reason)

    return (
        judge("pipecrypt", "with the keys"),
        judge("pyarrow, pandas, Dask", "with pipecrypt.decryption_properties(keys=[...])", lacks_material),
        judge("Spark, parquet-java", "with a KmsClient, if one data key serves each column", has_many, lacks_material),
        judge(
            "Polars",
            "with explicit keys, if one data key serves each column",
            (algorithm.ctr_pages, "does not read AES_GCM_CTR_V1"),
            has_many,
        ),
        judge(
            "DuckDB",
            "with the footer's data key, if the encryption is uniform and columns are flat",
            (has_prefix, "does not read files with an AAD prefix: use bind_path: false"),
            (not is_hidden, "decrypts only files with an encrypted footer"),
            (any("." in column.path for column in columns), "decrypts flat columns only"),
        ),
        ReaderSummary("any reader without keys", partly, "sees what is not encrypted"),
    )
