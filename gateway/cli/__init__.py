"""The command `ollama-gateway`: one module per subcommand, with one function `register`.

``register(subparsers)`` adds its parser and sets its default ``run``, a function that takes the
parsed arguments and returns the exit code: 0 done, 1 failed, 2 wrong usage or settings. What is
slow to import is imported inside of ``run``, for `--help` reads all of these modules.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from errno import EDQUOT, EIO, ENOSPC, EPIPE
from importlib import import_module
from typing import Protocol, cast

from gateway.cli.program import command_name

COMMANDS = ("init", "serve", "keys", "models", "demo", "simulate")

DONE = 0
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
"""What a shell reports for a program that ended by Ctrl-C: 128 and the signal's number."""
PIPE_CLOSED = 141
"""The same for a program whose reader left, as in `ollama-gateway keys list | head -1`."""

_OUTPUT_LOST = frozenset({EPIPE, ENOSPC, EDQUOT, EIO})
"""Not every OSError: asyncio's timeouts are some, and a bug must not pass for a full disk."""

_EXAMPLES = """\
first steps:
  ollama-gateway init                  make a config file and two keys; says what goes where
  ollama-gateway serve                 run the gateway in front of Ollama
  ollama-gateway demo                  see it work, without an Ollama

Each command explains itself: ollama-gateway keys --help
"""


class _Command(Protocol):
    def register(
        self, subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", /
    ) -> None: ...


class _Version(argparse.Action):
    """As argparse's own, but the package's metadata is only looked up when it is asked for."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del namespace, values, option_string
        print(f"ollama-gateway {_version()}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Wrong usage raises SystemExit(2), as in argparse."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] | None = getattr(arguments, "run", None)
    if run is None:
        parser.print_help(sys.stderr)
        return WRONG_USAGE
    return _guarded(run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ollama-gateway",
        description="The gateway in front of your Ollama: keys, an honest queue, deadlines, and "
        "truthful endings through any tunnel.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        cast("_Command", import_module(f"gateway.cli.{name}")).register(subparsers)
    return parser


def _guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Endings that are nobody's bug get a line, or none, instead of a traceback."""
    # Not at the top: it costs what --help and --version should not.
    from gateway.settings import ConfigFileMissing, SettingsError  # noqa: PLC0415  - see above

    try:
        return _flushed(run(arguments))
    except ConfigFileMissing as error:
        command = f"{command_name()} init --config {shlex.quote(str(error.path))}"
        return _settings_are_wrong([f"{error}; `{command}` makes it"])
    except SettingsError as error:
        return _settings_are_wrong(error.lines)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _OUTPUT_LOST:
            raise
        return _output_is_lost(error)


def _flushed(code: int) -> int:
    """The code, if the output got out as well; else the reason is raised here and not later, when
    nobody could do anything about it.
    """
    try:
        sys.stdout.flush()
    except OSError:
        if code == DONE:
            raise
        _forget_stdout()
    return code


def _settings_are_wrong(lines: Sequence[str]) -> int:
    for line in lines:
        print(f"ollama-gateway: {line}", file=sys.stderr)
    return WRONG_USAGE


def _output_is_lost(error: OSError) -> int:
    _forget_stdout()
    if error.errno == EPIPE:
        return PIPE_CLOSED
    print(f"ollama-gateway: the output cannot be written: {error.strerror}", file=sys.stderr)
    return FAILED


def _forget_stdout() -> None:
    """Python flushes stdout once more on its way out, and would complain about it there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  - for --version

    try:
        return version("ollama-gateway")
    except PackageNotFoundError:
        return "(not installed)"
