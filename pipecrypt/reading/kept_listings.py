"""Listings that nothing governed, until one of their files is opened. Comparing them: statements.

A run publishes the first version of a dataset file by file, and its statement last. So what was listed before the
statement and is opened after it may be a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["KeptListings", "Listing"]

_MOST_NAMES: Final = 100_000  # of all of them together; the last one is kept whatever it shows


@dataclass(eq=False, slots=True)
class Listing:
    """What a listing showed.

    Args:
        directory: below which was listed.
        found: the paths, and their types.
        shown_as: how each file had to be.
        whole: the roots of the datasets of which it is known to show all.
        partial: those of which it showed a part.
    """

    directory: str
    found: Mapping[str, str]
    shown_as: Callable[[str], str | None]
    whole: set[str]
    partial: set[str] = field(default_factory=set)


class KeptListings:
    """Keeps listings by their directories. Not safe to use from several threads."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._kept: dict[str, list[Listing]] = {}
        self._told: list[Listing] = []
        self._names = 0

    def supersede(self, latest: Listing) -> None:
        """Let go of what a later listing makes good.

        That is those of its directory that showed no more, and those that were told to show a part of its datasets.
        """
        before = self._kept.pop(latest.directory, [])
        kept = [each for each in before if not each.found.keys() <= latest.found.keys()]
        self._names += sum(len(each.found) for each in kept) - sum(len(each.found) for each in before)
        if kept:
            self._kept[latest.directory] = kept
        for each in self._told:
            each.whole |= each.partial & latest.whole
            each.partial -= latest.whole
        self._told = [each for each in self._told if each.partial]

    def add(self, listing: Listing) -> None:
        """Keep a listing."""
        self._kept.setdefault(listing.directory, []).append(listing)
        self._names += len(listing.found)
        while self._names > _MOST_NAMES and len(self._kept) > 1:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._names -= sum(len(each.found) for each in oldest)

    def tell(self, listing: Listing, root: str) -> None:
        """Note that a listing showed a part of a dataset: so it is until the dataset is listed again."""
        if not listing.partial:
            self._told.append(listing)
        listing.partial.add(root)

    def showing(self, path: str, root: str) -> Iterator[Listing]:
        """Yield the listings that show a file or its directory, and are not known to show all of its dataset."""
        directory = path
        while directory:
            directory = directory.rpartition("/")[0]
            for each in self._kept.get(directory, ()):
                if root not in each.whole and each.shown_as(path) in each.found:
                    yield each
