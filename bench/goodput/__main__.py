"""`python -m bench.goodput`: one GPU, two models, and who gets what of it."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bench.goodput.plans import FULL, QUICK
from bench.goodput.report import faults, of_closed, of_load, of_refusals, verdicts
from bench.goodput.result import Result
from bench.goodput.world import Contender, Spec
from bench.runs import Run, all_of, noise, write_json

_STOPPED = 130
"""What shells make of Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All results, in the order of the plan."""

    opened: list[Result]
    closed: list[Result]


def main() -> int:
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    specs = plan.specs(arguments.loads or plan.loads, arguments.contenders or tuple(Contender))
    if arguments.cold:
        specs = [replace(spec, statistics=0) for spec in specs]
    began_at = time.monotonic()
    print(f"{len(specs)} runs, {arguments.parallel} at a time; {noise()}", flush=True)
    try:
        results = asyncio.run(_run_all(specs, arguments.parallel))
    except KeyboardInterrupt:
        return _STOPPED
    seen = Seen(
        [one for one in results if one.spec.load], [one for one in results if not one.spec.load]
    )
    _print(seen)
    lag, worst = max(one.lag for one in results), max(one.worst_lag for one in results)
    print(f"\nIt took {time.monotonic() - began_at:.0f} s; {noise()}.")
    print(
        f"All times above are of a world that is {1 / plan.scale:g} times as fast. In it the "
        f"machine itself was late by up to {lag:.2f} s (99 %), {worst:.2f} s at worst."
    )
    _write(seen, arguments)
    broken = faults(results)
    for fault in broken:
        print(f"bench.goodput: a contender is broken: {fault}", file=sys.stderr)
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.goodput", description="How much of one GPU's work reaches callers in time."
    )
    parser.add_argument("--quick", action="store_true", help="shorter and less exact: 90 seconds")
    parser.add_argument("--cold", action="store_true", help="begin with nothing learned")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them there")
    parser.add_argument("--loads", type=_loads, metavar="0.5,1,2,3", help="in parts of capacity")
    parser.add_argument(
        "--contenders",
        type=_contenders,
        metavar="NAME,…",
        help=f"of {', '.join(kind.name.lower() for kind in Contender)}",
    )
    parser.add_argument(
        "--parallel", type=int, default=8, metavar="N", help="runs at a time (default: 8)"
    )
    return parser.parse_args()


def _loads(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def _contenders(text: str) -> tuple[Contender, ...]:
    try:
        return tuple(Contender[one.strip().upper()] for one in text.split(","))
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"there is no contender {error}") from None


async def _run_all(specs: Sequence[Spec], parallel: int) -> list[Result]:
    runs = [
        Run(
            "bench.goodput.run",
            msgspec.json.encode(spec),
            name=f"{_load(spec)}, {spec.contender}",
            timeout=60 + 2 * spec.seconds * spec.scale,
        )
        for spec in specs
    ]
    return [msgspec.json.decode(result, type=Result) for result in await all_of(runs, parallel)]


def _load(spec: Spec) -> str:
    return f"{spec.load:g}x" if spec.load else f"closed loop, {spec.max_loaded} loaded"


def _print(seen: Seen) -> None:
    for load in dict.fromkeys(one.spec.load for one in seen.opened):
        rows = [one for one in seen.opened if one.spec.load == load]
        print(f"\nAt {load:g}x of capacity:\n\n{of_load(rows)}")
    if seen.opened:
        print(f"\nRefused:\n\n{of_refusals(seen.opened)}")
    if seen.closed:
        print(f"\nTen callers in a closed loop, alternating:\n\n{of_closed(seen.closed)}")
    found = verdicts(seen.opened, seen.closed)
    if found:
        print("\nWanted of the gateway:\n")
        print("\n".join(map(str, found)))


def _write(seen: Seen, arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        write_json({"open": seen.opened, "closed": seen.closed}, arguments.json)
    if arguments.plot is not None:
        # Not at the top: drawing is the only thing that needs the library.
        from bench.goodput.plot import draw  # noqa: PLC0415  - see above

        draw(seen.opened, arguments.plot)


if __name__ == "__main__":
    sys.exit(main())
