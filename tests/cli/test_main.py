import argparse
import os
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway import cli
from gateway.settings import SettingsError, load

HEAVY = ("pydantic", "aiohttp", "tomlkit", "structlog", "prometheus_client", "msgspec")
"""What `--help` can do without."""


@pytest.fixture
def only_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces all commands by one called `act`, which does what the test says."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
            subparsers.add_parser("act").set_defaults(run=run)

        module = types.ModuleType("gateway.cli.act")
        module.register = register  # type: ignore[attr-defined]  # a module made up for the test
        monkeypatch.setitem(sys.modules, "gateway.cli.act", module)
        monkeypatch.setattr(cli, "COMMANDS", ("act",))

    return install


def _python(code: str, *arguments: str, stdout: int) -> subprocess.CompletedProcess[str]:
    # -E: whether Python buffers its output must not depend on who runs the tests.
    return subprocess.run(
        [sys.executable, "-E", "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_the_exit_code_is_the_commands(only_command: Callable[..., None]) -> None:
    """0 done, 1 failed: a command returns which."""
    only_command(lambda _arguments: 1)

    assert cli.main(["act"]) == 1


def test_without_a_command_the_help_is_an_error(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes to standard error, for nothing was done."""
    only_command(lambda _arguments: 0)

    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: ollama-gateway")


def test_an_unknown_command_is_wrong_usage(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the commands that there are."""
    only_command(lambda _arguments: 0)

    with pytest.raises(SystemExit) as caught:
        cli.main(["akt"])
    assert caught.value.code == 2
    assert "act" in capsys.readouterr().err


def test_wrong_settings_are_told_line_by_line(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, and the exit code is that of wrong usage."""

    def run(_arguments: argparse.Namespace) -> int:
        raise SettingsError(["one is wrong", "another is too"])

    only_command(run)

    assert cli.main(["act"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ollama-gateway: one is wrong\nollama-gateway: another is too\n"


def test_a_missing_config_file_comes_with_the_command_that_makes_it(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ready to paste, also when the path has a blank in it."""

    def run(_arguments: argparse.Namespace) -> int:
        load(tmp_path / "my file.toml", {})
        return 0

    only_command(run)

    assert cli.main(["act"]) == 2
    assert capsys.readouterr().err == (
        f"ollama-gateway: {tmp_path}/my file.toml does not exist; "
        f"`ollama-gateway init --config '{tmp_path}/my file.toml'` creates it\n"
    )


def test_ctrl_c_is_quiet(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever pressed it knows."""

    def run(_arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    only_command(run)

    assert cli.main(["act"]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_error_that_is_ours_keeps_its_traceback(only_command: Callable[..., None]) -> None:
    """An OSError that has nothing to do with the output is a bug, and looks like one."""

    def run(_arguments: argparse.Namespace) -> int:
        raise TimeoutError

    only_command(run)

    with pytest.raises(TimeoutError):
        cli.main(["act"])


_PRINTS = """
import sys, types
from gateway import cli

def run(arguments):
    print("x" * int(sys.argv[1]))
    return int(sys.argv[2])

module = types.ModuleType("gateway.cli.act")
module.register = lambda subparsers: subparsers.add_parser("act").set_defaults(run=run)
sys.modules["gateway.cli.act"] = module
cli.COMMANDS = ("act",)
sys.exit(cli.main(["act"]))
"""


@pytest.mark.parametrize("length", [1, 1_000_000])
def test_a_reader_who_left_is_no_error(length: int) -> None:
    """As in `ollama-gateway keys list | head -1`, whether the text fits into a buffer or not."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = _python(_PRINTS, str(length), "0", stdout=writing)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("length", [1, 1_000_000])
def test_output_that_cannot_be_written_is_a_failure(length: int) -> None:
    """A full disk under `ollama-gateway keys list > file` is one line, not a traceback."""
    with Path("/dev/full").open("w") as full:
        done = _python(_PRINTS, str(length), "0", stdout=full.fileno())

    assert done.returncode == 1
    assert done.stderr == (
        "ollama-gateway: the output cannot be written: No space left on device\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_command_that_failed_anyway_keeps_its_code() -> None:
    """It has said already what is wrong."""
    with Path("/dev/full").open("w") as full:
        done = _python(_PRINTS, "1", "2", stdout=full.fileno())

    assert (done.returncode, done.stderr) == (2, "")


_LISTS_MODULES = """
import sys
from gateway import cli

cli.COMMANDS = tuple(sys.argv[1].split(","))
try:
    cli.main(sys.argv[2:])
except SystemExit:
    print("loaded:", *sorted(sys.modules))
"""


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    """That is what makes them answer at once."""
    commands = [name for name in cli.COMMANDS if find_spec(f"gateway.cli.{name}")]
    done = _python(_LISTS_MODULES, ",".join(commands), option, stdout=subprocess.PIPE)

    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "argparse" in loaded
    assert sorted(set(HEAVY) & set(loaded)) == []


def test_version_names_program_and_number() -> None:
    """On one line, for scripts."""
    done = _python(_LISTS_MODULES, "init", "--version", stdout=subprocess.PIPE)

    assert done.stdout.splitlines()[0].startswith("ollama-gateway 0.")


def test_help_shows_every_command() -> None:
    """With a line about each, and the first steps."""
    commands = [name for name in cli.COMMANDS if find_spec(f"gateway.cli.{name}")]
    done = _python(_LISTS_MODULES, ",".join(commands), "--help", stdout=subprocess.PIPE)

    for name in commands:
        assert f"\n    {name} " in done.stdout
    assert "first steps:" in done.stdout


def test_a_module_of_ours_is_behind_every_command() -> None:
    """Or `--help` itself would fail."""
    assert [name for name in cli.COMMANDS if not find_spec(f"gateway.cli.{name}")] == []
