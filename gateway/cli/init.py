"""`ollama-gateway init`: a config file, two keys, and the two fields that Engramia asks for."""

import argparse
import re
from pathlib import Path
from typing import Final

from gateway.cli.init_report import PLACEHOLDER

_TUNNEL_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?")

_DESCRIPTION: Final = """\
Make what the gateway needs: a config file that explains every setting, and two keys for Engramia.
`engramia` may run models and goes into its field "API key"; `engramia-discovery` may only see which
models there are and stands in its "Base URL".

What exists is left as it is, so this can be repeated at any time.
"""
_EXAMPLES: Final = """\
examples:
  ollama-gateway init
  ollama-gateway init --tunnel-host gateway.example.com
  ollama-gateway init --ollama 192.168.1.20:11434
  sudo ollama-gateway init --config /etc/ollama-gateway/gateway.toml
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "init",
        help="make a config file and keys, and say what to paste into Engramia",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="where the config file is or shall be; the keys go beside it",
    )
    parser.add_argument(
        "--tunnel-host",
        type=_tunnel_host,
        metavar="HOST",
        help="the public name of your tunnel, to have the Base URL complete",
    )
    parser.add_argument(
        "--ollama",
        type=_ollama,
        metavar="ADDRESS",
        help="where Ollama is, for a new config file (default: OLLAMA_HOST, else this machine)",
    )
    parser.add_argument(
        "--serve", action="store_true", help="then run the gateway, as `ollama-gateway serve` does"
    )
    parser.set_defaults(run=run)


def _tunnel_host(text: str) -> str:
    """The host alone, also out of a whole address that was pasted."""
    host = text.strip().removeprefix("https://").rstrip("/")
    if not _TUNNEL_HOST.fullmatch(host):
        raise argparse.ArgumentTypeError(
            f'{_as_written(text)} is not a host name such as "gw.example.com"'
        )
    return host


def _ollama(text: str) -> str:
    from gateway.settings import ollama_address  # noqa: PLC0415  - slow, see gateway.cli

    try:
        return ollama_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{_as_written(text)} {error}") from None


def _as_written(text: str) -> str:
    """In quotes, without a name and password, which end with the last ``@``."""
    _, at, place = text.rpartition("@")
    return repr(f"***@{place}" if at else text)


def run(arguments: argparse.Namespace) -> int:
    from gateway.cli.init_steps import initialise  # noqa: PLC0415  - slow, see gateway.cli
    from gateway.cli.serve import serve  # noqa: PLC0415  - the same

    code, loaded = initialise(
        config=arguments.config,
        tunnel_host=arguments.tunnel_host or PLACEHOLDER,
        ollama=arguments.ollama,
        serves=arguments.serve,
    )
    if not arguments.serve or loaded is None:
        return code
    return serve(loaded, asked_for=arguments.config)
