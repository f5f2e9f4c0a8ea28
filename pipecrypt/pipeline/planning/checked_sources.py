"""Find out what was signed about the sources of a decryption, once, in the driver. Comparing each file is left to task.

Workers get what was signed about their own file, already verified: they need no statement, no list of files, no keys to
trust, and all of them see the same version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.signed_sources import list_signed_sources
from pipecrypt.pipeline.request.request import DecryptRequest, EncryptRequest
from pipecrypt.pipeline.task.operation import Decryption, Task
from pipecrypt.storage.listing import SourceFile, list_sources
from pipecrypt.storage.pattern import Pattern

__all__ = ["compared", "find_sources"]


def find_sources(
    request: EncryptRequest | DecryptRequest, below: Pattern
) -> tuple[tuple[SourceFile, ...], Mapping[str, SignedFile], bool]:
    """Return the sources, what was signed about each, and whether the request names one file itself.

    A glob or a directory that happens to hold one file names none: tomorrow it may hold two.

    Returns:
        What was signed is by relative path, and empty where no key is trusted.

    Raises:
        NotTrustedError: nothing is signed there, or too few trusted keys signed it.
        IntegrityError: the statement, or which files there are, is not as it was signed.
        SourceNotFoundError: there is no source.
    """
    requirements = request.checks.requirements if isinstance(request, DecryptRequest) else None
    if requirements is None:
        sources = list_sources(request.source, below)
        return sources, {}, len(sources) == 1 and sources[0].location == request.source
    found = list_signed_sources(request.source, requirements, below)
    signed = {each.source.relative_path: each.signed for each in found}
    return tuple(each.source for each in found), signed, len(found) == 1 and found[0].is_named


def compared(tasks: Sequence[Task], signed: Mapping[str, SignedFile]) -> tuple[Task, ...]:
    """Return the tasks of a decryption, each with what its file is compared with."""
    return tuple(replace(task, operation=_compared(task, signed)) for task in tasks)


def _compared(task: Task, signed: Mapping[str, SignedFile]) -> Decryption:
    if not isinstance(task.operation, Decryption):
        raise AssertionError("only what is decrypted is compared")
    return replace(task.operation, signed=signed[task.source.relative_path])
