"""How long a listing that nothing governed is kept."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipecrypt.reading import statements
from pipecrypt.reading.statements import Listing, UncheckedListings


def listing(directory: str, *names: str, whole: Iterable[str] = ()) -> Listing:
    return Listing(directory, {f"{directory}/{name}": "file" for name in names}, lambda file: file, set(whole))


def shown(kept: UncheckedListings, path: str, root: str) -> int:
    return len(list(kept.showing(path, root)))


def test_one_that_shows_no_more_makes_room_for_a_later_one() -> None:
    kept = UncheckedListings()
    for names in (("a",), ("a", "b"), ("c",)):
        kept.supersede(listing("up/ds", *names))
        kept.add(listing("up/ds", *names))
    assert [shown(kept, f"up/ds/{name}", "up/ds") for name in "abcd"] == [1, 1, 1, 0]
    kept.supersede(listing("up/ds", "a", "b", whole=["up/ds"]))
    assert [shown(kept, f"up/ds/{name}", "up/ds") for name in "abc"] == [0, 0, 1]


def test_a_part_is_one_until_its_dataset_is_listed_again() -> None:
    kept, part = UncheckedListings(), listing("up", "ds/a", "other/b")
    kept.add(part)
    kept.mark_partial(part, "up/ds")
    kept.supersede(listing("up/other", "b", whole=["up/other"]))
    assert part.partial == {"up/ds"}
    kept.supersede(listing("up/ds", "c", whole=["up/ds"]))
    assert (part.partial, shown(kept, "up/ds/a", "up/ds"), shown(kept, "up/other/b", "up/other")) == (set(), 0, 1)


def test_the_oldest_go_and_the_last_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_MOST_NAMES", 6)
    kept = UncheckedListings()
    for number in range(5):
        kept.add(listing(f"up/{number}", "a", "b", "c"))
    assert [shown(kept, f"up/{number}/a", f"up/{number}") for number in range(5)] == [0, 0, 0, 1, 1]
    kept.add(listing("up/large", *map(str, range(9))))
    assert [shown(kept, f"up/{number}/a", f"up/{number}") for number in range(5)] == [0] * 5
    assert shown(kept, "up/large/8", "up/large") == 1
