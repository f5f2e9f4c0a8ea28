"""How much of a signed dataset a reader checks. Checking it is left to the readers.

A file of its own, because the command line names the modes in its help, which loads no cryptography.
"""

from __future__ import annotations

from enum import StrEnum

from pipecrypt.errors import UsageError

__all__ = ["VerifyMode", "parse_mode"]


class VerifyMode(StrEnum):
    """How much of a dataset is checked before it is used.

    FULL: also the digest of every whole file, before its first byte is used. READ: statement, list of files and
    footers, and of the data what is read, as it is read. OFF: nothing but what encryption itself authenticates.
    """

    FULL = "full"
    READ = "read"
    OFF = "off"


def parse_mode(text: str) -> VerifyMode:
    """Return the mode that a caller names.

    Raises:
        UsageError: there is no such mode.
    """
    try:
        return VerifyMode(text)
    except ValueError:
        raise UsageError(f"verify is {text!r}", hint='write verify="full", verify="read" or verify="off"') from None
