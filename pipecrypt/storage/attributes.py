"""Give an open local file its permissions and time. Remembering what they were is left to parquet/.

As tar does for users other than root: permissions less the umask, and never the setuid, setgid and sticky bits, because
whoever wrote the encrypted file chose them.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import Final

__all__ = ["apply_attributes"]

_log = logging.getLogger(__name__)
_PERMISSION_BITS: Final = 0o777
_STRICT_UMASK: Final = 0o077
_STATUS: Final = "/proc/self/status"
_lock = threading.Lock()


def apply_attributes(descriptor: int, mode: int | None, mtime_ns: int | None, *, what: str) -> None:
    """Set permissions and time of an open file, as far as its file system lets.

    Args:
        descriptor: the file, open for writing.
        mode: permission bits; None leaves them.
        mtime_ns: time of the last change, in nanoseconds since 1970; None leaves it.
        what: what the log calls the file.
    """
    try:
        if mode is not None:
            os.fchmod(descriptor, mode & _PERMISSION_BITS & ~_umask())
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    except (OSError, OverflowError) as error:
        _log.warning("cannot restore permissions or time of %s: %s", what, error)


def _umask() -> int:
    # The system tells the umask only to who sets it, which other threads would notice. Linux has another way.
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:
            found = re.search(r"^Umask:\s*([0-7]+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1], 8)
    with _lock:
        umask = os.umask(_STRICT_UMASK)
        os.umask(umask)
    return umask
