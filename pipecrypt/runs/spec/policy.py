"""The policy as Python users write it, `pipecrypt.Policy`: what is encrypted under which key, and who signs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.dataset.sign.records import SigningOptions
from pipecrypt.dataset.statement.envelope import MAX_SIGNATURES
from pipecrypt.errors import PolicyError, UsageError
from pipecrypt.formats.options import DEFAULT_BATCH_ROWS, Codec, EncodeOptions
from pipecrypt.keys.service import check_key_reference
from pipecrypt.parquet.files import DEFAULT_BLOCK_BYTES, check_block_bytes
from pipecrypt.parquet.policy import ClearNotes, ColumnRule, EncryptionPolicy, FooterMode, KeyScope, Unlisted
from pipecrypt.runs.spec.options import choose

__all__ = ["DEFAULT_DIGEST", "Mode", "Policy", "listed_signing_keys", "make_signing_options", "parse_validity"]

DEFAULT_DIGEST: Final = DigestAlgorithm.SHA256.value
_MAX_VALIDITY: Final = timedelta(days=36_525)
_VALIDITY: Final = re.compile(r"(?P<count>[1-9][0-9]{0,6})(?P<unit>[dh])", re.ASCII)
_VALIDITY_HINT: Final = "write a number of days or hours, such as 30d or 12h, up to 100 years"
_UNITS: Final = {"d": timedelta(days=1), "h": timedelta(hours=1)}
_choose = partial(choose, error=PolicyError)  # every choice in a policy is the policy's own error


def listed_signing_keys(sign: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the key references of signing keys that a script gave as one text or several.

    Raises:
        PolicyError: they are not texts, one stands twice, or they are more than a statement holds.
    """
    if sign is None:
        return ()
    given = (sign,) if isinstance(sign, str) else tuple(sign) if isinstance(sign, Sequence) else None
    if not given or not all(isinstance(each, str) and each for each in given):
        raise PolicyError(
            "sign is a key reference or a list of them", hint='write sign="keystore://./keys.json#signing"'
        )
    for twice in {each for each in given if given.count(each) > 1}:
        raise PolicyError(f"{twice} is to sign twice", hint="name each signing key once")
    if len(given) > MAX_SIGNATURES:
        raise PolicyError(f"{len(given)} keys are to sign", hint=f"a statement has at most {MAX_SIGNATURES} signatures")
    return given


def make_signing_options(
    key_references: tuple[str, ...], digest: str, valid_for: timedelta | None
) -> SigningOptions | None:
    """Return how what a policy writes is signed; None where no key is to sign.

    Raises:
        PolicyError: digest or validity is not valid, or is given although no key signs.
        MissingExtraError: the package for the digest is not installed.
    """
    algorithm = _choose(DigestAlgorithm, digest, "digest")
    if not key_references:
        if algorithm.value != DEFAULT_DIGEST or valid_for is not None:
            hint = "name a signing key with sign, or leave digest and valid_for out"
            raise PolicyError("digest and valid_for say how to sign, but no key is to sign", hint=hint)
        return None
    Digester(algorithm)  # a missing package shows now, not after the last file
    return SigningOptions(key_references=key_references, digest=algorithm, valid_for=_checked_validity(valid_for))


def parse_validity(text: str) -> timedelta:
    """Return how long a statement is valid, from text such as `30d` or `12h`.

    Raises:
        UsageError: it is not such a text, or more than 100 years.
    """
    found = _VALIDITY.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:40]!a} is not a time to be valid for", hint=_VALIDITY_HINT)
    validity = int(found["count"]) * _UNITS[found["unit"]]
    if validity > _MAX_VALIDITY:
        raise UsageError(f"{text!a} is too long to be valid for", hint=_VALIDITY_HINT)
    return validity


def _checked_validity(valid_for: timedelta | None) -> timedelta | None:
    if valid_for is None:
        return None
    if not isinstance(valid_for, timedelta) or not timedelta() < valid_for <= _MAX_VALIDITY or valid_for.microseconds:
        raise PolicyError(
            "valid_for is not a timedelta of whole seconds up to 100 years", hint="write timedelta(days=30)"
        )
    return valid_for


class Mode(StrEnum):
    """What is encrypted: columns of tables, or files of any kind in chunks of bytes."""

    COLUMNS = "columns"
    CHUNKS = "chunks"


@dataclass(frozen=True, slots=True)
class Policy:
    """Which columns are encrypted under which master key, and how.

    Args:
        columns: from a column's name, nested path (`customer.email`), root (`customer`) or glob (`card_*`) to the key
            reference of its master key.
        default: key reference for all other columns; None leaves them as `unlisted` says.
        footer: `plaintext`, so that readers without keys can read the other columns, or `encrypted`.
        data_keys: `batch`, one data key per column and row group, or `file`, one per column, which Spark needs.
        footer_key: key reference of the footer's master key; default: `default`, else the first column's.
        uniform: all columns under the footer's data key; takes a default and no columns.
        bind_path: bind dataset id and path into every page; DuckDB reads only files without.
        mode: `columns`, which encrypts columns of tables, or `chunks`, which encrypts files of any kind as they are.
            Chunks take a default and no columns, and their footer is always encrypted.
        unlisted: what becomes of columns that are not listed: `plaintext`; `encrypt`, under `default`, or where there
            is none under the one key of all columns; or `refuse`, which fails. Without it they go out in plaintext, but
            one that other files of the run, or earlier ones in the sink, do not have in plaintext stops the run.
        optional: those of `columns` that a file need not have. Without it, each must match a column of every file.
        clear_metadata: what becomes of key-value metadata that tells of encrypted columns beside a plaintext footer,
            such as bounds, defaults and labels: `strip` it from the entries of well-known writers, `drop` all entries
            of others too, `refuse` the file, or `keep` it readable. What goes is kept sealed, and decrypted again.
        batch_rows: rows of a row group, for sources that are not Parquet already.
        compression: of the pages of such sources, `zstd` (the default), `snappy` or `none`; of chunks, `none` (the
            default) or `zstd`.
        chunk_bytes: size of a chunk.
        also: key references of further master keys or recipients that shall open everything: in other regions, of
            partners, to break the glass. Each KEK is wrapped for them, too, as grants beside the data.
        sign: key reference of a signing key, or several; what is written then carries a signed statement.
        digest: of the files in that statement: `sha256`, or `blake3`, which needs an extra.
        valid_for: when that statement expires, counted from signing, in whole seconds; None for never.

    Raises:
        PolicyError: the policy contradicts itself.
        KeyReferenceError: a key reference is malformed, or has an unknown scheme.
        MissingExtraError: the package for the digest is not installed.
    """

    columns: Mapping[str, str] | None = field(default=None, hash=False)
    default: str | None = None
    footer: str = "plaintext"
    data_keys: str = "batch"
    _: KW_ONLY
    footer_key: str | None = None
    uniform: bool = False
    bind_path: bool = True
    mode: str = Mode.COLUMNS.value
    unlisted: str | None = None
    optional: Sequence[str] = ()
    clear_metadata: str = ClearNotes.STRIP.value
    batch_rows: int = DEFAULT_BATCH_ROWS
    compression: str | None = None
    chunk_bytes: int = DEFAULT_BLOCK_BYTES
    also: Sequence[str] = ()
    sign: str | Sequence[str] | None = field(default=None, hash=False)
    digest: str = DEFAULT_DIGEST
    valid_for: timedelta | None = None

    def __post_init__(self) -> None:
        """Refuse now what would fail at the first file, and keep a copy of the columns that nobody else changes."""
        if self.columns is not None and not isinstance(self.columns, Mapping):
            hint = 'write columns={"email": "keystore://./keys.json#pii"}'
            raise PolicyError("the columns of a policy map each name to a key reference", hint=hint)
        object.__setattr__(self, "columns", dict(self.columns or {}))
        object.__setattr__(self, "also", _listed(self.also, "also", "key references"))
        object.__setattr__(self, "optional", _listed(self.optional, "optional", "columns"))
        object.__setattr__(self, "sign", listed_signing_keys(self.sign) or None)
        for pattern, reference in (self.columns or {}).items():
            # A column may have an empty name: one that no file has is refused as every other is.
            _check_text(pattern, "a column's name", is_empty_allowed=True)
            _check_text(reference, f"the key reference of column {pattern}")
        self._check_optional()
        self._check_unlisted()
        for reference in (*self.engine_policy().key_references(), *self.also, *listed_signing_keys(self.sign)):
            check_key_reference(reference)
        if self.is_chunks:
            self._check_chunks()
        else:
            self.encode_options()

    @property
    def is_chunks(self) -> bool:
        """Whether files are encrypted as they are, whatever they hold."""
        return _choose(Mode, self.mode, "mode") is Mode.CHUNKS

    @property
    def signing(self) -> SigningOptions | None:
        """How what is written gets signed; None where it does not.

        Raises:
            PolicyError: as the policy itself.
        """
        return make_signing_options(listed_signing_keys(self.sign), self.digest, self.valid_for)

    def encode_options(self) -> EncodeOptions:
        """Return how row groups of sources that are not Parquet are written.

        Raises:
            PolicyError: the number of rows or the compression is not valid.
        """
        codec = Codec.ZSTD if self.compression is None else _choose(Codec, self.compression, "compression")
        return EncodeOptions(batch_rows=_whole(self.batch_rows, "batch_rows"), compression=codec)

    @property
    def compresses_chunks(self) -> bool:
        """Whether chunks are compressed with zstd before they are encrypted."""
        return self.compression == Codec.ZSTD.value

    @property
    def watches_unlisted(self) -> bool:
        """Whether it is left open what becomes of columns that no rule covers: then new ones stop a run."""
        return not self.is_chunks and self._default() is None and self.unlisted != Unlisted.PLAINTEXT.value

    def _default(self) -> str | None:
        """Return the key reference for all columns that are not listed."""
        if self.default is None and self.unlisted == Unlisted.ENCRYPT.value:
            return next(iter((self.columns or {}).values()), None)
        return self.default

    def _check_optional(self) -> None:
        strange = next((each for each in self.optional if each not in (self.columns or {})), None)
        if strange is not None:
            raise PolicyError(f"optional names {strange!r}, which columns does not", hint="list it there, with its key")

    def _check_unlisted(self) -> None:
        if self.unlisted is None:
            return
        unlisted = _choose(Unlisted, self.unlisted, "unlisted")
        if self.is_chunks:
            raise PolicyError("chunks have no columns that could be unlisted", hint="leave unlisted out")
        if unlisted is not Unlisted.ENCRYPT and self.default is not None:
            what = f"all columns that are not listed are under the default key, so unlisted cannot be {self.unlisted!r}"
            raise PolicyError(what, hint="leave out one of the two")
        if unlisted is Unlisted.ENCRYPT and self.default is None and len({*(self.columns or {}).values()}) > 1:
            raise PolicyError("the columns are under several keys, and unlisted ones need one", hint="give a default")

    def _check_chunks(self) -> None:
        if self.columns or self.default is None or self.uniform:
            raise PolicyError("chunks have no columns to choose", hint="give a default key only")
        if self.compression not in {None, Codec.NONE.value, Codec.ZSTD.value}:
            raise PolicyError(f"compression is {self.compression!r} for chunks", hint="it is 'none' or 'zstd'")
        check_block_bytes(_whole(self.chunk_bytes, "chunk_bytes"))

    def engine_policy(self) -> EncryptionPolicy:
        """Return the policy as the engine takes it."""
        signing = self.signing
        return EncryptionPolicy(
            rules=tuple(
                ColumnRule(pattern, reference, is_optional=pattern in self.optional)
                for pattern, reference in (self.columns or {}).items()
            ),
            default=self._default(),
            footer=FooterMode.ENCRYPTED if self.is_chunks else _choose(FooterMode, self.footer, "footer"),
            data_keys=_choose(KeyScope, self.data_keys, "data_keys"),
            footer_key=self.footer_key,
            uniform=self.uniform,
            bind_path=self.bind_path,
            digest=None if signing is None else signing.digest,
            refuses_unlisted=self.unlisted == Unlisted.REFUSE.value,
            clear_notes=_choose(ClearNotes, self.clear_metadata, "clear_metadata"),
        )


def _listed(value: object, name: str, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise PolicyError(f"{name} is {value!r}, but must be a list of {what}", hint=f"write {name}=[...]")
    return tuple(value)


def _check_text(value: object, what: str, *, is_empty_allowed: bool = False) -> None:
    if not isinstance(value, str) or not (value or is_empty_allowed):
        wanted = "a text" if is_empty_allowed else "a text that is not empty"
        raise PolicyError(f"{what} is {value!r}, but must be {wanted}", hint="see pipecrypt.Policy")


def _whole(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"{what} is {value!r} in the policy", hint="give a whole number")
    return value
