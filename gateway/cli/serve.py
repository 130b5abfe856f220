"""`ollama-gateway serve`: run the gateway until it is told to stop."""

import argparse
import asyncio
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import DONE, FAILED, command_name
from gateway.cli.runtime import new_loop, relax_garbage_collection, return_large_blocks

if TYPE_CHECKING:
    from gateway.settings import Loaded

_DESCRIPTION = """\
Run the gateway in front of Ollama. It listens for clients on `listen.public`, where the tunnel
points, and for you on `listen.admin`. SIGTERM or Ctrl-C stops it after the running requests have
ended (at most `timeouts.drain_timeout`). A second one stops it at once.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "serve",
        help="run the gateway",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="path of the config file")
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print every setting in force and where it comes from, and exit",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal. Return the exit code. Raises SettingsError."""
    # Not at the top: `--help` imports all commands.
    from gateway.cli.config import print_config  # noqa: PLC0415  - see above
    from gateway.settings import load  # noqa: PLC0415  - see above

    loaded = load(arguments.config)
    if arguments.print_config:
        print(print_config(loaded), end="")
        return DONE
    return serve(loaded, config=arguments.config)


def serve(loaded: "Loaded", *, config: Path | None) -> int:
    """Serve with these settings; ``config`` is the config file given with --config."""
    problem = _keys_problem(loaded, config)
    if problem is not None:
        return _failed(problem)
    return_large_blocks()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(loaded))


def _keys_problem(loaded: "Loaded", config: Path | None) -> str | None:
    """Return why no key is valid, or None if one is. Without keys the gateway does not start."""
    from gateway.auth.keyfile import KeyFileError  # noqa: PLC0415  - see run
    from gateway.auth.keyfile import load as load_keys  # noqa: PLC0415  - see run
    from gateway.auth.keys import KeyState  # noqa: PLC0415  - see run

    try:
        keys = load_keys(loaded.keys_file)
    except KeyFileError as error:
        return str(error)
    now = datetime.now(UTC)
    if any(key.state(now) is KeyState.ACTIVE for key in keys):
        return None
    what = "has no valid key" if keys else "has no key yet"
    option = "" if config is None else f" --config {shlex.quote(str(config))}"
    return (
        f"{loaded.keys_file} {what}, so no client could use the gateway. "
        f"`{command_name()} init{option}` creates the keys for Engramia, "
        f"`{command_name()} keys create NAME{option}` creates one key."
    )


async def _serve(loaded: "Loaded") -> int:
    from gateway.admin.app import admin_app  # noqa: PLC0415  - see run
    from gateway.app import build  # noqa: PLC0415  - see run
    from gateway.server import PortInUse, drain, serving, signals  # noqa: PLC0415  - see run
    from gateway.telemetry.log import LineWriter, configure  # noqa: PLC0415  - see run

    settings = loaded.settings
    lines = LineWriter(sys.stderr.buffer)
    log = configure(level=settings.log.level, log_format=settings.log.format, lines=lines)
    gateway = build(
        settings,
        keys_file=loaded.keys_file,
        state_file=loaded.state_file,
        version=version("ollama-gateway"),
        log=log,
        lines=lines,
    )
    stop = asyncio.Event()
    try:
        # Outermost: another Ctrl-C while the listeners close has no effect.
        with signals(first=stop.set, second=gateway.handler.abort_all):
            async with serving(gateway, admin_app(gateway)) as listening:
                relax_garbage_collection()
                log.info(
                    "gateway.started",
                    public=f"http://{listening.public}",
                    admin=f"http://{listening.admin}",
                    ollama=settings.ollama.url,
                    config=str(loaded.config_file or "defaults"),
                )
                await stop.wait()
                log.info("gateway.draining", timeout=settings.timeouts.drain_timeout)
                await drain(gateway)
    except PortInUse as error:
        return _failed(str(error))
    log.info("gateway.stopped")
    return DONE


def _failed(problem: str) -> int:
    print(f"ollama-gateway: {problem}", file=sys.stderr)
    return FAILED
