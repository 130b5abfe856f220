"""`ollama-gateway init`: create a config file and two keys, and print what to paste into Engramia.

This module holds the command line, because `--help` imports it; the work is in ``initialize``.
"""

import argparse
import re
from pathlib import Path
from typing import Final

_TUNNEL_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?")

_DESCRIPTION: Final = """\
Create what the gateway needs: a config file that explains every setting, and two keys for Engramia.
`engramia` may run models: paste it into the field "API key". `engramia-discovery` may only list the
models: it is part of the "Base URL".

Files and keys that already exist stay unchanged, so you can run this again at any time.
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
        help="create a config file and keys, and print what to paste into Engramia",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="path of the config file; created if missing; the keys go into its folder",
    )
    parser.add_argument(
        "--tunnel-host",
        type=_tunnel_host,
        metavar="HOST",
        help="public name of your tunnel, to print the complete Base URL",
    )
    parser.add_argument(
        "--ollama",
        type=_ollama,
        metavar="ADDRESS",
        help="address of Ollama for a new config file (default: OLLAMA_HOST, else this machine)",
    )
    parser.add_argument(
        "--serve", action="store_true", help="then run the gateway, like `ollama-gateway serve`"
    )
    parser.set_defaults(run=run)


def _tunnel_host(text: str) -> str:
    """Return the host name, also of a pasted https:// address."""
    host = text.strip().removeprefix("https://").rstrip("/")
    if not _TUNNEL_HOST.fullmatch(host):
        raise argparse.ArgumentTypeError(
            f'{_without_password(text)} is not a host name such as "gw.example.com"'
        )
    return host


def _ollama(text: str) -> str:
    from gateway.settings import ollama_address  # noqa: PLC0415  - slow, see gateway.cli

    try:
        return ollama_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{_without_password(text)} {error}") from None


def _without_password(text: str) -> str:
    """Return the text in quotes; everything up to the last @ may be a password."""
    _, at, host = text.rpartition("@")
    return repr(f"***@{host}" if at else text)


def run(arguments: argparse.Namespace) -> int:
    from gateway.cli.initialize import initialize  # noqa: PLC0415  - slow, see gateway.cli
    from gateway.cli.serve import serve  # noqa: PLC0415  - the same

    code, loaded = initialize(
        config=arguments.config,
        tunnel_host=arguments.tunnel_host,
        ollama=arguments.ollama,
        serves=arguments.serve,
    )
    if not arguments.serve or loaded is None:
        return code
    return serve(loaded, config=arguments.config)
