"""`python -m benchmarks`: run cases, judge promises, write the documentation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.cases import GROUPS, cases_of
from benchmarks.figures import load, save, table
from benchmarks.pages import write_page
from benchmarks.promises import PROMISES, judged
from benchmarks.suite import CaseResult, Options, run_case

__all__ = ["main"]

_RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command, and return 1 where a promise was not kept."""
    given = _parser().parse_args(arguments)
    if given.what == "docs":
        write_page(_RESULTS)
        return 0
    recorded = [result for path in given.results or () for result in load(path)[1]]
    return _judge(recorded if given.results else _run(given), fails=given.what == "check")


def _run(given: argparse.Namespace) -> list[CaseResult]:
    options = Options(given.scale, given.rounds, given.quick, given.base, given.scratch or Options().scratch)
    groups = GROUPS if given.what in {"all", "check"} else (given.what,)
    promised = {promise.case for promise in PROMISES}
    results: list[CaseResult] = []
    for group in groups:
        before = len(results)
        for case in cases_of(group):
            if (given.what == "check" and case.name not in promised) or given.only not in {None, case.name}:
                continue
            print(f"\n# {case.name}: {case.question}\n", flush=True)
            results.append(run_case(case, options, lambda text: print(text, file=sys.stderr, flush=True)))
            print("\n".join(table(results[-1])), flush=True)
            if given.json is not None:  # after each case: a later one may fail
                is_folder = given.json.is_dir()
                save(given.json / f"{group}.json" if is_folder else given.json, results[before if is_folder else 0 :])
    return results


def _judge(results: list[CaseResult], *, fails: bool) -> int:
    judgements = judged(results)
    for each in judgements:
        answer = "kept" if each.is_kept else "not measured" if each.found is None else "BROKEN"
        print(f"{answer:12} {each.promise}{'' if each.found is None else f': {each.found}'}")
    return int(fails and not all(each.is_kept for each in judgements))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=["all", *GROUPS, "check", "docs"], help="check: all that has a promise")
    parser.add_argument("--only", metavar="CASE", help="one case of them, by its name")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the sizes of inputs")
    parser.add_argument("--rounds", type=int, help="how often each contender runs")
    parser.add_argument("--quick", action="store_true", help="small inputs, two rounds: to see that all works")
    parser.add_argument("--base", type=Path, help="another tree of this project, whose pipecrypt joins in")
    parser.add_argument("--json", type=Path, help="write what was measured; into a directory, a file for each word")
    parser.add_argument("--results", type=Path, nargs="+", help="judge what was measured before, and run nothing")
    parser.add_argument("--scratch", type=Path, help="where files lie; default: in memory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
