"""`ollama-gateway demo`: the gateway in front of a simulated Ollama, ready to use."""

import argparse
import asyncio
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import DONE
from gateway.cli.runtime import new_loop

if TYPE_CHECKING:
    from gateway.server import Serving
    from gateway.settings import Settings

_DESCRIPTION = """\
Run the gateway in front of a simulated Ollama, without a GPU, a download or any configuration. It
prints a key, and requests to paste into another terminal. The generated text is meaningless;
everything else is real. It leaves no files behind.
"""
_MODEL = "llama3.2:1b"

_WELCOME = """
The gateway runs in front of a simulated Ollama.

  address   {url}
  key       {key}

In another terminal, send a request:

  curl {url}/v1/chat/completions \\
    -H "Authorization: Bearer {key}" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

For a stream, add "stream": true and call curl with -N. A request that lists the models, with a
discovery key in the path, as Engramia sends it:

  curl {url}/k/{discovery}/api/tags

Status page: {admin}/status

Press Ctrl-C to stop.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "demo",
        help="run the gateway in front of a simulated Ollama",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal. Return the exit code."""
    del arguments
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_demo())


async def _demo() -> int:
    from gateway.admin.app import admin_app  # noqa: PLC0415  - `--help` imports all commands
    from gateway.app import build  # noqa: PLC0415  - see above
    from gateway.server import serving, signals  # noqa: PLC0415  - see above
    from gateway.simulator import USUAL_MODELS, Simulator  # noqa: PLC0415  - see above
    from gateway.telemetry.log import LineWriter, configure  # noqa: PLC0415  - see above

    models = [model.at_speed(load_time=1.0, tokens_per_second=40.0) for model in USUAL_MODELS]
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        # Outermost: a second Ctrl-C must not leave the folder behind.
        stack.enter_context(signals(first=stop.set, second=stop.set))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ollama-gateway-")))
        simulator = await stack.enter_async_context(Simulator(models, output_tokens=40))
        settings = _settings(simulator.url)
        lines = LineWriter(sys.stderr.buffer)
        log = configure(level=settings.log.level, log_format=settings.log.format, lines=lines)
        key, discovery = _keys(folder)
        gateway = build(
            settings,
            keys_file=folder / "keys.toml",
            version=version("ollama-gateway"),
            log=log,
            lines=lines,
        )
        listening = await stack.enter_async_context(serving(gateway, admin_app(gateway)))
        print(_welcome(listening, key, discovery), flush=True)
        await stop.wait()
    return DONE


def _settings(ollama: str) -> "Settings":
    from gateway.settings import Settings  # noqa: PLC0415  - see _demo

    listen = {"public": _address(11435), "admin": _address(11436)}
    log = {"format": "console"}
    return Settings.model_validate({"listen": listen, "ollama": {"url": ollama}, "log": log})


def _address(port: int) -> str:
    """Return the default port, or any free one if it is in use, for example by the gateway."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            port = 0
    return f"127.0.0.1:{port}"


def _keys(folder: Path) -> tuple[str, str]:
    """Create a key that may run models and one that may only list them. Return their secrets."""
    from gateway.auth.keyfile import create_key  # noqa: PLC0415  - see _demo
    from gateway.auth.keys import KeySpec, Scope  # noqa: PLC0415  - see _demo

    file, now = folder / "keys.toml", datetime.now(UTC)
    both = frozenset({Scope.INFERENCE, Scope.DISCOVERY})
    discovery = frozenset({Scope.DISCOVERY})
    key = create_key(file, KeySpec(name="demo", scopes=both), now)
    return key, create_key(file, KeySpec(name="demo-discovery", scopes=discovery), now)


def _welcome(listening: "Serving", key: str, discovery: str) -> str:
    return _WELCOME.format(
        url=f"http://{listening.public}",
        admin=f"http://{listening.admin}",
        key=key,
        discovery=discovery,
        model=_MODEL,
    )
