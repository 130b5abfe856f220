"""`python -m bench.tunnel`: long answers through a tunnel that cuts what is silent for 100 s."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.runs import Run, all_of, noise, write_json
from bench.tunnel.plans import FULL, QUICK, UNSCALED, Plan
from bench.tunnel.report import of_all, verdicts
from bench.tunnel.result import Result
from bench.tunnel.world import Spec, Way

_LONGEST = 12_000.0
"""Simulated seconds after which a run hangs: three calls of nine requests, each with a backlog."""

_STOPPED = 130
"""What shells make of Ctrl-C."""


def main() -> int:
    arguments = _arguments()
    plan: Plan = UNSCALED if arguments.unscaled else QUICK if arguments.quick else FULL
    specs = plan.specs(arguments.ways or tuple(Way))
    began_at = time.monotonic()
    print(f"{len(specs)} runs, {arguments.parallel} at a time; {noise()}", flush=True)
    try:
        results = asyncio.run(_run_all(specs, arguments.parallel))
    except KeyboardInterrupt:
        return _STOPPED
    results.sort(key=lambda one: plan.rows.index(one.spec.row))
    found = verdicts(results)
    print(f"\n{of_all(results)}\n")
    if found:
        print("Wanted of the gateway:\n")
        print("\n".join(map(str, found)))
    print(f"\nIt took {time.monotonic() - began_at:.0f} s; {noise()}.")
    if plan.scale != 1:
        print(f"All times above are of a world that is {1 / plan.scale:g} times as fast.")
    print(f"The machine was late by {max(one.lag for one in results):.1f} s at worst.")
    if arguments.json is not None:
        write_json(results, arguments.json)
    return 0 if all(verdict.met for verdict in found) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.tunnel", description="How many long answers survive a tunnel."
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="one call each, in a faster world")
    length.add_argument(
        "--unscaled",
        action="store_true",
        help="two lengths in real time; what is cut is tried again for 15 minutes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument(
        "--ways",
        type=_ways,
        metavar="NAME,…",
        help=f"of {', '.join(way.name.lower() for way in Way)}",
    )
    parser.add_argument(
        "--parallel", type=int, default=6, metavar="N", help="runs at a time (default: 6)"
    )
    return parser.parse_args()


def _ways(text: str) -> tuple[Way, ...]:
    try:
        return tuple(Way[one.strip().upper()] for one in text.split(","))
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"there is no way {error}") from None


async def _run_all(specs: Sequence[Spec], parallel: int) -> list[Result]:
    runs = [
        Run(
            "bench.tunnel.run",
            msgspec.json.encode(spec),
            name=f"{spec.row}, {spec.way}",
            timeout=60 + _LONGEST * spec.scale,
        )
        for spec in specs
    ]
    return [msgspec.json.decode(told, type=Result) for told in await all_of(runs, parallel)]


if __name__ == "__main__":
    sys.exit(main())
