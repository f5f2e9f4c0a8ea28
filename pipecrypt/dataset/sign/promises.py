"""What one written file promises about encryption, and what the files of a dataset promise together.

A sum promises of each column what every file keeps: where it is encrypted in one file, it is in all that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy
from pipecrypt.errors import ConflictError, UsageError
from pipecrypt.keys.session import FileKeys
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.report import FileReport
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["add_promises", "check_columns", "check_frame", "continue_promise", "note_file"]


_KeyIDs = tuple[str, ...]
_Path: TypeAlias = tuple[str, ...]
_HINT: Final = "encrypt into another sink, or replace all files of this one in one run"


def _never(path: _Path) -> bool:
    return False


def add_promises(promises: Sequence[PromisedPolicy]) -> PromisedPolicy:
    """Return the promise of files that were written under one policy.

    One policy treats a column alike in every file, so a column that only some promises list is one that only some of
    the files have.

    Args:
        promises: at least one.

    Raises:
        UsageError: a statement cannot hold the sum.
    """
    first = promises[0]
    paths = {column.path for promise in promises for column in promise.columns}
    if any(_frame(promise) != _frame(first) for promise in promises):
        raise RuntimeError("files of one run were written under different policies")
    return _sum(promises, {path: _union(promise.keys_of(path) for promise in promises) for path in paths})


def continue_promise(
    earlier: PromisedPolicy,
    new: PromisedPolicy,
    *,
    lacks_earlier: Callable[[_Path], bool] = _never,
    lacks_new: Callable[[_Path], bool] = _never,
) -> PromisedPolicy:
    """Return the promise of files that stay as they are and of new files beside them.

    A column that one of the two promises does not list may be in plaintext in its files, unless it is told otherwise.

    Args:
        earlier: of files that stay.
        new: of new files.
        lacks_earlier: says of a leaf column whether no file that stays has it in plaintext.
        lacks_new: the same of new files.

    Raises:
        ConflictError: there is none: the footer or a column is treated differently.
        UsageError: a statement cannot hold the sum.
    """
    if _frame(earlier) != _frame(new):
        raise ConflictError("the files that stay were encrypted under a policy that is too different", hint=_HINT)
    columns = {}
    for path in {column.path for promise in (earlier, new) for column in promise.columns}:
        keys = (earlier.keys_of(path), new.keys_of(path))
        if (keys[0] is None and not lacks_earlier(path)) or (keys[1] is None and not lacks_new(path)):
            where = "the new files" if keys[0] is None else "the files that stay"
            raise ConflictError(f"column {'.'.join(path)!a} is promised to be encrypted only in {where}", hint=_HINT)
        columns[path] = _union(keys)
    return _sum([earlier, new], columns)


def check_frame(earlier: PromisedPolicy, policy: EncryptionPolicy) -> None:
    """Pass if files under a policy may stand beside those of a promise, as far as no column is looked at.

    Raises:
        ConflictError: footer, binding of paths, or what happens to all other columns is different.
    """
    pairs = (
        ("the footer", earlier.footer.value, policy.footer.value),
        ("bind_path", earlier.bind_path, policy.bind_path),
        ("the default key", earlier.other_key_ids is not None, policy.default is not None),
    )
    for what, before, now in pairs:
        if before != now:
            raise ConflictError(f"{what} is another than that of the files that stay in the sink", hint=_HINT)


def check_columns(
    earlier: PromisedPolicy, columns: Iterable[tuple[_Path, bool]], *, lacks_earlier: Callable[[_Path], bool] = _never
) -> None:
    """Pass if columns are encrypted exactly where the promise says so.

    Args:
        earlier: of files that stay.
        columns: leaf columns of new files, and whether each will be encrypted.
        lacks_earlier: says of a leaf column whether no file that stays has it in plaintext.

    Raises:
        ConflictError: one is not, or one is although the files that stay may have it in plaintext.
    """
    for path, is_sealed in columns:
        if is_sealed != (earlier.keys_of(path) is not None) and not (is_sealed and lacks_earlier(path)):
            before, now = ("in plaintext", "encrypted") if is_sealed else ("encrypted", "in plaintext")
            what = f"column {'.'.join(path)!a} would be {now}, but was promised to be {before} in the files that stay"
            raise ConflictError(what, hint=_HINT)


def _frame(promise: PromisedPolicy) -> tuple[object, ...]:
    """Return what two promises must have in common."""
    return promise.footer, promise.bind_path, promise.other_key_ids is None


def _sum(promises: Sequence[PromisedPolicy], columns: Mapping[_Path, _KeyIDs]) -> PromisedPolicy:
    """Return the promise of all files; what the promises must have in common is that of the first."""
    first = promises[0]
    try:
        return replace(
            first,
            footer_key_ids=_union(promise.footer_key_ids for promise in promises),
            columns=tuple(PromisedColumn(path, columns[path]) for path in sorted(columns)),
            other_key_ids=first.other_key_ids and _union(promise.other_key_ids for promise in promises),
        )
    except DocumentError as error:
        raise UsageError(f"the dataset cannot be signed: {error}", hint=_HINT) from error


def _union(lists: Iterable[_KeyIDs | None]) -> _KeyIDs:
    return tuple(sorted({key_id for key_ids in lists if key_ids is not None for key_id in key_ids}))


def note_file(path: str, report: FileReport, digest: str, *, policy: EncryptionPolicy, keys: FileKeys) -> SignableFile:
    """Return what a signature will say about a file.

    Args:
        path: of the file below the dataset; the name of a single file.
        report: what the engine did.
        digest: of the whole file, of the algorithm in `policy`.
        policy: under which it was written.
        keys: under which it was written.

    Raises:
        UsageError: a statement cannot hold it, such as a column nested too deeply.
    """
    is_sha256 = policy.digest is DigestAlgorithm.SHA256
    try:
        entry = FileEntry(
            path=path,
            size_bytes=report.sink_bytes,
            rows=report.rows,
            sha256=digest if is_sha256 else None,
            footer_sha256=report.footer_sha256,
            kek_ids=keys.kek_ids,
            blake3=None if is_sha256 else digest,
        )
        return SignableFile(entry, _promise(report, policy, keys))
    except DocumentError as error:
        raise UsageError(f"{path!a} cannot be signed: {error}", hint="encrypt it without signing") from error


def _promise(report: FileReport, policy: EncryptionPolicy, keys: FileKeys) -> PromisedPolicy:
    footer_key_id = keys.master_key_id(policy.footer_key_reference())
    others = footer_key_id if policy.uniform else None
    if others is None and policy.default is not None:
        others = keys.master_key_id(policy.default)
    sealed = {column.path: keys.master_key_id(column.key_reference) for column in report.sealed_columns}
    return PromisedPolicy(
        footer=policy.footer,
        footer_key_ids=(footer_key_id,),
        columns=tuple(PromisedColumn(path, (sealed[path],)) for path in sorted(sealed) if sealed[path] != others),
        other_key_ids=None if others is None else (others,),
        bind_path=policy.bind_path,
    )
