"""Where statements and file lists lie, and which paths a file list may hold.

A path in a file list is relative, with `/` between its parts, and is put behind the place of a dataset by readers. So
it must not lead out of there or into `_pipecrypt/`, on any system, and must mean one thing only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from pipecrypt.errors import UsageError
from pipecrypt.vocabulary.documents import DocumentError
from pipecrypt.vocabulary.printable import quoted

__all__ = [
    "GRANTS_PATH",
    "GRANTS_SUFFIX",
    "LOCK_DIRECTORY",
    "MANIFEST_PATH",
    "MAX_PATH_BYTES",
    "RESERVED_DIRECTORY",
    "ROTATION_LOCK_SUFFIX",
    "RUNS_DIRECTORY",
    "RUN_TIME_FORMAT",
    "SIGNATURE_SUFFIX",
    "attempts_path",
    "check_file_name",
    "check_inside",
    "check_path",
    "check_signable_paths",
    "file_list_path",
    "is_reserved",
    "parse_run_id",
    "run_path",
    "signature_path",
    "staged_path",
]


RESERVED_DIRECTORY: Final = "_pipecrypt"
MANIFEST_PATH: Final = f"{RESERVED_DIRECTORY}/manifest.json"
SIGNATURE_SUFFIX: Final = ".sig.json"
RUNS_DIRECTORY: Final = f"{RESERVED_DIRECTORY}/runs"
RUN_TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
LOCK_DIRECTORY: Final = f"{RESERVED_DIRECTORY}/lock"
GRANTS_PATH: Final = f"{RESERVED_DIRECTORY}/grants.json"
GRANTS_SUFFIX: Final = ".grants.json"
ROTATION_LOCK_SUFFIX: Final = ".rotation.lock"
# The longest key of S3; paths of file systems end at 4,096, names at 255.
MAX_PATH_BYTES: Final = 1024
_DIGEST_DIGITS: Final = 16
# C0 and C1 controls with NUL, newline and DEL; surrogates, which UTF-8 cannot write; and `\`, a separator on Windows.
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")
_EMPTY_OR_DOTS: Final = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)")
_DRIVE: Final = re.compile(r"\A[A-Za-z]:")
# Until the year 8999: a later id has to be left for the next run.
_RUN_ID: Final = re.compile(r"[0-8]\d{7}T\d{6}Z-[0-9a-f]{8}", re.ASCII)
_RESERVED: Final = re.compile(r"\A_pipecrypt(?:/|\Z)", re.IGNORECASE | re.ASCII)


def file_list_path(version: int, list_sha256: str) -> str:
    """Return where the file list of a version lies; no two lists of different content share a name."""
    return f"{RESERVED_DIRECTORY}/files/{version}-{list_sha256[:_DIGEST_DIGITS]}.jsonl"


def parse_run_id(run_id: str) -> datetime:
    """Return when a run began, in UTC, from its id: that time, and what tells it from others of that second.

    Raises:
        DocumentError: it is not such an id; what leads out of the directory of runs is not, in particular.
    """
    if isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) is not None:
        with contextlib.suppress(ValueError):
            return datetime.strptime(run_id.partition("-")[0], RUN_TIME_FORMAT).replace(tzinfo=UTC)
    raise DocumentError("the id of the run is not of the form 20260131T120000Z-0123abcd")


def run_path(run_id: str, name: str) -> str:
    """Return where a file about a run lies."""
    return f"{RUNS_DIRECTORY}/{run_id}/{name}"


def staged_path(run_id: str) -> str:
    """Return the directory where files of a version lie that have not reached their places yet."""
    return run_path(run_id, "staged")


def attempts_path(run_id: str) -> str:
    """Return the directory where files of attempts lie whose results have not come yet."""
    return run_path(run_id, "attempts")


def signature_path(file_path: str) -> str:
    """Return where the statement of a single file lies: beside it."""
    return file_path + SIGNATURE_SUFFIX


def is_reserved(path: str) -> bool:
    """Return whether a path below a dataset is ours rather than data, and so never stands in a file list."""
    return path == RESERVED_DIRECTORY or path.startswith(RESERVED_DIRECTORY + "/")


def check_path(path: str) -> None:
    """Pass if a file list may hold `path`.

    Two paths that differ in case only are allowed, since object stores hold both. Where a file system cannot, one of
    the two has the other's digest.

    Raises:
        DocumentError: absolute, with an empty part, `.` or `..`, a backslash, a control character, a drive letter, too
            long, or under `_pipecrypt/` in any case, because some file systems ignore case.
    """
    if _FORBIDDEN.search(path) is not None:
        raise DocumentError(f"path {quoted(path)} holds a backslash or a control character, or is not Unicode")
    if _EMPTY_OR_DOTS.search(path) is not None:
        raise DocumentError(f"path {quoted(path)} is absolute, or has an empty part, '.' or '..'")
    if _DRIVE.match(path) is not None:
        raise DocumentError(f"path {quoted(path)} begins like one on a drive of Windows, with a letter and a colon")
    if _RESERVED.match(path) is not None:
        raise DocumentError(f"path {quoted(path)} is under {RESERVED_DIRECTORY}/")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise DocumentError(f"path {quoted(path)} is longer than {MAX_PATH_BYTES} bytes")


def check_inside(path: str) -> None:
    """Pass if `path` stays inside a dataset and out of `_pipecrypt/`; some names that no file list may hold pass too.

    Raises:
        DocumentError: absolute, with a NUL, an empty part, `.` or `..`, or under `_pipecrypt/` in any case.
    """
    if _EMPTY_OR_DOTS.search(path) is not None or "\0" in path:
        raise DocumentError(f"path {quoted(path)} is absolute, or has an empty part, '.' or '..'")
    if _RESERVED.match(path) is not None:
        raise DocumentError(f"path {quoted(path)} is under {RESERVED_DIRECTORY}/")


def check_file_name(name: str) -> None:
    """Pass if `name` is a path of one part, as the statement of a single file has.

    Raises:
        DocumentError: no such path, or of several parts.
    """
    check_path(name)
    if "/" in name:
        raise DocumentError(f"path {quoted(name)} is more than a file's name")


def check_signable_paths(paths: Iterable[str]) -> None:
    """Pass if files of these paths can be part of a signed dataset; for planning, before anything is written.

    Raises:
        UsageError: one of them cannot.
    """
    problems = []
    for path in paths:
        try:
            check_path(path)
        except DocumentError as error:
            problems.append(str(error))
    if problems:
        more = f"; {len(problems) - 1} more paths have names like that" if len(problems) > 1 else ""
        raise UsageError(f"{problems[0]}, so it cannot be signed{more}", hint="rename the file")
