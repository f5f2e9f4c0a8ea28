"""What is done to files alike on every store, by the methods of `Store` alone."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pipecrypt.errors import FormatError, IntegrityError, StorageError
from pipecrypt.store.protocol import Ranges, SourceFile, Store

__all__ = ["opened", "replace_exclusively", "rewrite_as", "rewrite_end"]

_PIECE_BYTES: Final = 8 << 20


@contextmanager
def opened(store: Store, source: SourceFile) -> Iterator[Ranges]:
    """Open a pinned file; on leaving the block, check that it is still the file that was pinned.

    The caller publishes what it made from the file only after leaving the block.

    Raises:
        ConflictError: the file is not, or no longer, the one that was pinned. This also replaces an error about the
            content, which a file that changes under the reader is bound to give.
        StorageError: the storage refused or failed.
    """
    ranges = store.open(source)
    try:
        ranges.check_unchanged()
        yield ranges
        ranges.check_unchanged()
    except (FormatError, IntegrityError):
        ranges.check_unchanged()
        raise
    finally:
        ranges.close()


def rewrite_end(store: Store, source: SourceFile, body_end: int, tail: bytes, *, mode: int | None = None) -> int:
    """Replace the end of a file by writing all of it once more; see `Store.replace_end`."""
    with store.write(overwrite=True) as sink:
        sink.restore_attributes(mode=mode, mtime_ns=None)
        with opened(store, source) as before:
            for start in range(0, body_end, _PIECE_BYTES):
                sink.write(before.read_range(start, min(_PIECE_BYTES, body_end - start)))
        sink.write(tail)
        sink.publish()
    return body_end + len(tail)


def rewrite_as(store: Store, target: Store) -> None:
    """Move a file by writing it once more and removing the old one; see `Store.move`.

    Args:
        store: whose root is the file.
        target: whose root is the new name.
    """
    source = _existing(store)
    with target.write(overwrite=True, expected_bytes=source.size_bytes) as sink:
        with opened(store, source) as before:
            for start in range(0, source.size_bytes, _PIECE_BYTES):
                sink.write(before.read_range(start, min(_PIECE_BYTES, source.size_bytes - start)))
        sink.publish()
    written = _existing(target).size_bytes
    if written != source.size_bytes:
        raise StorageError(f"the storage kept {written} of {source.size_bytes} bytes of {target.root.display}")
    store.remove()


def _existing(store: Store) -> SourceFile:
    found = store.stat().file()
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no file {store.root.display}")
    return found


def replace_exclusively(
    store: Store,
    change: Callable[[bytes | None], bytes | None],
    *,
    max_bytes: int,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Replace a small file by what `change` makes of it, while no other caller of this does.

    Args:
        store: whose root is the file.
        change: given its content, None where it does not exist, returns the new one, None to leave it as it is. It
            calls nothing slow: others wait.
        max_bytes: of the file.
        sleep: waits, in seconds, where another holds the lock.

    Raises:
        ConflictError: another holds the lock for too long, or replaced the file all the same.
        FormatError: the file is larger than `max_bytes`.
        StorageError: the storage refused or failed.
        IntegrityError: what was read back is not what was written.
    """
    with store.changing(sleep) as publish:
        before = store.read_revision(max_bytes=max_bytes)
        data = change(None if before is None else before.data)
        if data is None:
            return
        publish(data, before)
        if store.read_small(max_bytes=max_bytes) != data:
            raise IntegrityError(
                f"{store.root.display} is not what was written to it",
                hint="another program writes there too, or the storage serves old content; run again",
            )
