"""Store the grants that a run makes for further master keys, as its files appear. Making them is left to keys."""

from __future__ import annotations

from collections.abc import Iterable

from pipecrypt.dataset.share.grants import add_grants
from pipecrypt.dataset.statement.paths import GRANTS_PATH, GRANTS_SUFFIX
from pipecrypt.keys.grants import Grant
from pipecrypt.store.location import Location

__all__ = ["RunGrants"]


class RunGrants:
    """The grants of one run.

    Args:
        sink: a directory, or a file.
        is_single_file: whether it is a file; several, then, if it is rolled over.
    """

    def __init__(self, sink: Location, *, is_single_file: bool) -> None:
        """Store nothing yet."""
        self._sink = sink
        self._is_single_file = is_single_file
        self._made: tuple[Grant, ...] = ()

    def store(self, paths: Iterable[str], made: Iterable[Grant]) -> None:
        """Store what was made since the last call.

        Args:
            paths: of the files that appeared, below the sink; their names where the sink is a file.
            made: may be none: files under a KEK of an earlier one need its grants beside them.

        Raises:
            ConflictError: another command holds the lock of the grants.
            PipecryptError: the storage refused or failed; the files stay, and `pipecrypt grant` makes up for it.
        """
        new = tuple(made)
        self._made += new
        if not self._made:
            return
        if self._is_single_file:
            for path in paths:
                add_grants(self._sink.sibling(path + GRANTS_SUFFIX), self._made)
        elif new:
            add_grants(self._sink.child(GRANTS_PATH), new)
