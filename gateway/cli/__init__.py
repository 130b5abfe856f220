"""The command `ollama-gateway`: one module per subcommand, each with a function `register`.

``register(subparsers)`` adds the parser and sets its default ``run``, which takes the parsed
arguments and returns the exit code: 0 done, 1 failed, 2 wrong usage or settings. `--help` imports
all of these modules, so they import slow modules only inside of ``run``.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from errno import EDQUOT, EIO, ENOSPC, EPIPE
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

PROGRAM: Final = "ollama-gateway"
COMMANDS = ("init", "serve", "keys", "models", "demo", "simulate")

DONE = 0
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
"""As shells report a program that ended by SIGINT: 128 plus the number of the signal."""
PIPE_CLOSED = 141
"""The same for SIGPIPE, as in `ollama-gateway keys list | head -1`."""

_OUTPUT_LOST = frozenset({EPIPE, ENOSPC, EDQUOT, EIO})
"""Errors of writing the output. Not every OSError: TimeoutError is one, and would be a bug."""

_EXAMPLES = """\
first steps:
  ollama-gateway init                  create a config file and two keys; print what goes where
  ollama-gateway serve                 run the gateway in front of Ollama
  ollama-gateway demo                  try it without an Ollama

Help for a command: ollama-gateway keys --help
"""


class _Command(Protocol):
    def register(
        self, subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", /
    ) -> None: ...


class _Version(argparse.Action):
    """Like argparse's own action, but reads the metadata of the package only when needed."""

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
        description="A gateway in front of Ollama: authentication, fair queueing, deadlines,\n"
        "and reliable responses through any tunnel.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        cast("_Command", import_module(f"gateway.cli.{name}")).register(subparsers)
    return parser


def _guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run the command; report expected errors in one line each instead of a traceback."""
    # Not at the top: it is slow, and --help and --version do not need it.
    from gateway.settings import ConfigFileMissing, SettingsError  # noqa: PLC0415  - see above

    try:
        return _flushed(run(arguments))
    except ConfigFileMissing as error:
        command = f"{command_name()} init --config {shlex.quote(str(error.path))}"
        return _report_settings([f"{error}; `{command}` creates it"])
    except SettingsError as error:
        return _report_settings(error.lines)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _OUTPUT_LOST:
            raise
        return _report_lost_output(error)


def _flushed(code: int) -> int:
    """Flush stdout and return the code. An error is raised here, where it can be reported."""
    try:
        sys.stdout.flush()
    except OSError:
        if code == DONE:
            raise
        _discard_stdout()
    return code


def _report_settings(lines: Sequence[str]) -> int:
    for line in lines:
        print(f"ollama-gateway: {line}", file=sys.stderr)
    return WRONG_USAGE


def _report_lost_output(error: OSError) -> int:
    _discard_stdout()
    if error.errno == EPIPE:
        return PIPE_CLOSED
    print(f"ollama-gateway: the output cannot be written: {error.strerror}", file=sys.stderr)
    return FAILED


def _discard_stdout() -> None:
    """Replace stdout by /dev/null: Python flushes it again at exit, and would print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  - for --version

    try:
        return version("ollama-gateway")
    except PackageNotFoundError:
        return "(not installed)"


def command_name() -> str:
    """Return ``ollama-gateway`` if the shell finds this program by that, else its path, quoted."""
    called = Path(sys.argv[0] if sys.argv else "")
    if called.name != PROGRAM or _is_found(called):
        return PROGRAM
    return shlex.quote(_shortest(called))


def _is_found(called: Path) -> bool:
    found = shutil.which(PROGRAM)
    return found is not None and Path(found).absolute() == called.absolute()


def _shortest(called: Path) -> str:
    """Return a relative path if it is below the working folder, else the absolute one."""
    absolute = str(called.absolute())
    relative = os.path.relpath(absolute)
    if relative.startswith("..") or Path.cwd() == Path("/"):
        return absolute
    # Without a slash the shell would look on PATH.
    return relative if "/" in relative else f"./{relative}"
