"""``make mutants``: changes a sample of lines, one at a time, and says which changes no test notices."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import reach
from .change import AREAS, Change
from .run import MISSED, NOTICED, Trials, Verdict
from .sample import sample

TREE = Path(__file__).resolve().parent.parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", default="", help="the same seed has the same sample (by chance, and printed)")
    parser.add_argument("--size", type=int, default=100, help="how many lines (100)")
    parser.add_argument("--workers", type=int, default=1, help="how many at a time (1)")
    parser.add_argument("--area", choices=AREAS, action="append", help="only of this area; may be repeated")
    parser.add_argument("--whole", action="store_true", help="the whole suite on what no test noticed that reaches it")
    parser.add_argument("--list", action="store_true", help="show the sample, and run nothing")
    parser.add_argument("--seconds", type=float, default=0, metavar="N",
                        help="be done in N seconds: without a recording, the main tests of the area only")  # fmt: skip
    return parser.parse_args()


def table(results: list[tuple[str, Change, Verdict]]) -> str:
    """Counts of each area, and of all."""
    lines = [f"{'area':<12}{'changes':>8}{'noticed':>9}{'timeout':>9}{'missed':>8}{'rate':>7}"]
    for area in (*AREAS, "all"):
        count = Counter(verdict.kind for of, _, verdict in results if area in (of, "all"))
        noticed, missed = sum(count[kind] for kind in NOTICED), sum(count[kind] for kind in MISSED)
        if noticed + missed:
            rate = f"{noticed / (noticed + missed):.0%}"
            lines.append(f"{area:<12}{noticed + missed:>8}{noticed:>9}{count['timeout']:>9}{missed:>8}{rate:>7}")
    return "\n".join(lines)


def main() -> int:
    args = arguments()
    if os.geteuid() != 0:
        sys.exit("the tests run real containers: they need root")
    seed = args.seed or f"{random.randrange(10**6)}"
    picked = sample(TREE, seed, args.size, args.area or list(AREAS))
    print(f"{len(picked)} changes, seed {seed}", flush=True)
    sources = {change.path: (TREE / change.path).read_bytes() for _, change in picked}
    if args.list:
        for area, change in picked:
            print(f"{area}: {change.path}:{change.line} {change.what}\n{change.diff(sources[change.path])}")
        return 0
    trials = Trials(TREE)
    try:
        cache = TREE / "build" / "mutants" / f"reach-{reach.key(TREE)}"
        if not cache.exists() and not args.seconds:
            print("recording what each test reaches: the whole suite runs once", flush=True)
            trials.record(cache, ["spec-tests"])
        if cache.exists():
            trials.reach = reach.load(cache)
        else:
            print("nothing is recorded: only the main tests of the area are asked", flush=True)
        budget = args.seconds / len(picked) * args.workers if args.seconds and picked else 0
        results: list[tuple[str, Change, Verdict]] = []

        def one(area: str, change: Change) -> None:
            verdict = trials.trial(area, change, args.whole, budget)
            results.append((area, change, verdict))
            place = f"{change.path}:{change.line} {change.what}"
            by = f" {verdict.by.strip().splitlines()[-1]}" if verdict.by else ""
            print(f"[{len(results)}/{len(picked)}] {verdict.kind}: {area}, {place} "
                  f"({verdict.tests} tests, {verdict.seconds:.0f} s){by}", flush=True)  # fmt: skip

        pool = ThreadPoolExecutor(args.workers)
        try:
            for job in [pool.submit(one, *pair) for pair in picked]:
                job.result()
        except KeyboardInterrupt:  # the rooms end by it, too
            print("interrupted", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        trials.close()
    for area, change, verdict in results:
        if verdict.kind not in NOTICED:
            print(f"\n{verdict.kind}: {area}, {change.path}:{change.line}, {change.what}")
            print(change.diff(sources[change.path]))
    unknown = sum(verdict.kind == "unknown" for *_, verdict in results)
    print(f"\n{table(results)}" + (f"\nnot noticed in the time there was: {unknown}" if unknown else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
