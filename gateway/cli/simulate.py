"""`ollama-gateway simulate`: a simulated Ollama, to try the gateway without a GPU."""

import argparse
import asyncio
import math
import signal
import sys

from gateway.cli import DONE, FAILED, WRONG_USAGE
from gateway.cli.runtime import new_loop

_DEFAULT = "127.0.0.1:11434"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="run a simulated Ollama",
        description="Run a simulated Ollama with popular models. It has the routes and the "
        "response formats of the real one, and generates meaningless text.",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default=_DEFAULT,
        help=f"address to listen on; port 0 picks a free port (default: {_DEFAULT})",
    )
    parser.add_argument(
        "--version", metavar="V", help="version of Ollama to simulate: 0.24.0 or 0.33.0"
    )
    _add_hardware(parser)
    parser.set_defaults(run=run)


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--load-time",
        metavar="S",
        type=_not_negative,
        help="seconds to load a model (default: none)",
    )
    parser.add_argument(
        "--tokens-per-second",
        metavar="N",
        type=_positive,
        help="generated tokens per second (default: no delay)",
    )
    parser.add_argument(
        "--num-parallel",
        metavar="N",
        type=_at_least_one,
        default=1,
        help="requests that one model serves at once, as OLLAMA_NUM_PARALLEL (default: 1)",
    )
    parser.add_argument(
        "--max-loaded-models",
        metavar="N",
        type=_count,
        default=3,
        help="models in memory at once, 0 for no limit, as OLLAMA_MAX_LOADED_MODELS (default: 3)",
    )
    parser.add_argument(
        "--time-scale",
        metavar="X",
        type=_not_negative,
        default=1.0,
        help="real seconds per simulated second (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, which stop it at once, like Ollama."""
    # Not at the top: `ollama-gateway --help` imports all commands.
    from gateway.simulator import VERSIONS  # noqa: PLC0415  - see above

    if args.version is not None and args.version not in VERSIONS:
        print(f"simulate: --version must be one of {', '.join(VERSIONS)}", file=sys.stderr)
        return WRONG_USAGE
    address = _address(args.listen)
    if address is None:
        print(
            f"simulate: --listen {args.listen!r} must be HOST:PORT, such as {_DEFAULT}",
            file=sys.stderr,
        )
        return WRONG_USAGE
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(args, *address))


async def _serve(args: argparse.Namespace, host: str, port: int) -> int:
    from gateway.simulator import NEWEST, USUAL_MODELS, Simulator  # noqa: PLC0415  - as in run

    version = args.version or NEWEST
    models = [
        model.at_speed(load_time=args.load_time, tokens_per_second=args.tokens_per_second)
        for model in USUAL_MODELS
    ]
    simulator = Simulator(
        models,
        version=version,
        host=host,
        port=port,
        num_parallel=args.num_parallel,
        max_loaded_models=args.max_loaded_models,
        time_scale=args.time_scale,
        keep_requests=0,
    )
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        async with simulator:
            print(f"Simulated Ollama {version} at {simulator.url}", file=sys.stderr, flush=True)
            await ended.wait()
    except OSError as error:
        why = error.strerror or str(error)
        print(
            f"simulate: cannot listen on {host}:{port}: {why}. "
            "Choose another address with --listen.",
            file=sys.stderr,
        )
        return FAILED
    return DONE


def _address(text: str) -> tuple[str, int] | None:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        return None
    return host.strip("[]") or "127.0.0.1", int(port)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _at_least_one(text: str) -> int:
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value
