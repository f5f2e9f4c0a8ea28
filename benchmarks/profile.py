"""In which folder of pipecrypt the CPU time of a piece of work went, on all of its threads."""

from __future__ import annotations

import cProfile
import pstats
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

__all__ = ["stage_shares"]

_DEPTHS = {"parquet": 2, "runs": 1, "store": 1}  # how many folders a name has


def stage_shares(work: Callable[[], object]) -> dict[str, float]:
    """Return the percentages of the CPU time by folder; what others take counts where pipecrypt called them."""
    profiles: list[cProfile.Profile] = []

    def begin(frame: FrameType, event: str, argument: object) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()  # takes the place of this function, on this thread

    threading.setprofile(begin)
    here = cProfile.Profile(time.thread_time)
    profiles.append(here)
    here.enable()
    try:
        work()
    finally:
        here.disable()
        threading.setprofile(None)
        sys.setprofile(None)
    seconds = Counter[str]()
    for profile in profiles:
        profile.create_stats()
        _add(profile, seconds)
    total = sum(seconds.values())
    return {f"share of {name}": 100 * value / total for name, value in seconds.most_common(9)}


def _add(profile: cProfile.Profile, seconds: Counter[str]) -> None:
    for function, (_, _, own, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        stage = _stage(function[0])
        if stage is not None:
            seconds[stage] += own
            continue
        for caller, (_, _, share, _) in callers.items():
            seconds[_stage(caller[0]) or "others"] += share
        if not callers:
            seconds["others"] += own


def _stage(path: str) -> str | None:
    _, found, below = path.replace("\\", "/").rpartition("/pipecrypt/")
    if not found:
        return None
    room, *rest = below.removesuffix(".py").split("/")
    return "/".join([room, *rest[: _DEPTHS.get(room, 1) - 1]])
