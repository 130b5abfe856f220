"""What the scheduler makes of too much load, in virtual time.

    python -m bench.load [--seeds N] [--factor 0.65,0.75] [--modes respect] [--loads 1,3]

One GPU that holds one of two models, clients as in ``bench.goodput``, but only the scheduler is
real: no HTTP, no processes and no clock, so that the figures do not depend on the machine and an
hour takes seconds. ``--factor`` tries other values of ``SAFETY_FACTOR``.
"""

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean

from gateway.scheduler import scheduler
from tests.scheduler.simulated_load import JUDGE, WRITER, LoadResult, run_load

_HEADER = (
    "mode      load  useful         goodput  answered       writer judge  ratio        keys  "
    "late            rejected"
)


@dataclass(frozen=True, slots=True)
class Spec:
    """One run of so many seconds. ``mode`` is ``tunnel.client_timeout``."""

    factor: float
    mode: str
    load: float
    seed: int
    seconds: float


def run(spec: Spec) -> LoadResult:
    scheduler.SAFETY_FACTOR = spec.factor  # type: ignore[misc]  # in a process of its own
    return run_load(spec.load, extend=spec.mode == "extend", seconds=spec.seconds, seed=spec.seed)


def report(results: Iterable[tuple[Spec, list[LoadResult]]]) -> str:
    """One row for each mode and load: means over all seeds, and the worst seed in brackets."""
    lines = [_HEADER]
    for spec, runs in results:
        useful = [each.useful_share for each in runs]
        ratio = [each.model_ratio for each in runs]
        late = [each.late_share for each in runs]
        writer = fmean(each.answered_share(WRITER) for each in runs)
        judge = fmean(each.answered_share(JUDGE) for each in runs)
        lines.append(
            f"{spec.mode:8} {spec.load:4g}x  {fmean(useful):.3f} ({min(useful):.3f})  "
            f"{min(each.goodput for each in runs):.3f}  "
            f"{fmean(each.completed for each in runs):6.1f} of {len(runs[0].requests):4}  "
            f"{writer:.2f}   {judge:.2f}   {fmean(ratio):.2f} ({min(ratio):.2f})  "
            f"{min(each.key_ratio for each in runs):.2f}  {fmean(late):.2%} ({max(late):.2%})  "
            f"{fmean(len(each.rejected) for each in runs):.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.load", description="What the scheduler makes of too much load."
    )
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="arrivals: 1 to N")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of virtual time")
    parser.add_argument("--modes", default="extend,respect", help="tunnel.client_timeout")
    parser.add_argument("--loads", default="0.5,1,2,3", help="in parts of capacity")
    parser.add_argument("--factor", default=str(scheduler.SAFETY_FACTOR), help="safety factors")
    parser.add_argument("--parallel", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.parallel) as pool:
        for factor in map(float, arguments.factor.split(",")):
            rows = [
                [
                    Spec(factor, mode, load, seed, arguments.seconds)
                    for seed in range(1, arguments.seeds + 1)
                ]
                for mode in arguments.modes.split(",")
                for load in map(float, arguments.loads.split(","))
            ]
            futures = [[pool.submit(run, spec) for spec in row] for row in rows]
            results = [
                (row[0], [future.result() for future in own])
                for row, own in zip(rows, futures, strict=True)
            ]
            print(f"safety factor {factor:g}\n{report(results)}", flush=True)


if __name__ == "__main__":
    main()
