"""The process of one contender: imports what it needs, times its work, and prints the measures as JSON."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cases import find_case
from benchmarks.suite import LeftOutError, Place, Work

__all__ = ["main"]

_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main() -> None:
    """Run the contender that the first argument names."""
    given = json.loads(sys.argv[1])
    case = find_case(given["case"])
    contender = case.contenders[given["contender"]]
    if given["base"] is not None:  # this package is imported, and stays; pipecrypt is not yet
        sys.path.insert(0, given["base"])
        os.chdir(given["base"])  # for commands, which look for pipecrypt there first
    try:
        base = None if given["base"] is None else Path(given["base"])
        work = contender.start(Place(Path(given["root"]), given["point"], given["scale"], base))
    except (ImportError, LeftOutError) as error:
        if contender.is_ours and given["base"] is None and isinstance(error, ImportError):
            raise
        print(json.dumps({"left out": str(error)}))
        return
    print("\n" + json.dumps(_measured(work)))


def _measured(work: Work) -> dict[str, float]:
    gc.collect()
    before, began = _cpu_seconds(), time.perf_counter()
    further = work() if callable(work) else _command(list(work))
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - before
    if callable(further):
        further = further()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    peak = max(children, _own_peak()) if callable(work) else children
    return {"seconds": seconds, "cpu": cpu, "peak": peak, **(further or {})}


def _command(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr.decode()[-4000:]}")


def _own_peak() -> float:
    """Return the peak memory of this process in MiB; in `getrusage` that of its parent counts too, until `exec`."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in _WHO]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
