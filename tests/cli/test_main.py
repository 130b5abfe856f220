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
"""Slow modules, which `--help` must not import."""


@pytest.fixture
def only_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace all commands by one called `act`, which runs the given function."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
            subparsers.add_parser("act").set_defaults(run=run)

        module = types.ModuleType("gateway.cli.act")
        module.register = register  # type: ignore[attr-defined]  # a fake module
        monkeypatch.setitem(sys.modules, "gateway.cli.act", module)
        monkeypatch.setattr(cli, "COMMANDS", ("act",))

    return install


def _python(code: str, *arguments: str, stdout: int) -> subprocess.CompletedProcess[str]:
    # -E: the environment must not decide whether Python buffers its output.
    return subprocess.run(
        [sys.executable, "-E", "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_the_exit_code_is_that_of_the_command(only_command: Callable[..., None]) -> None:
    only_command(lambda _arguments: 1)

    assert cli.main(["act"]) == 1


def test_without_a_command_the_help_goes_to_stderr(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only_command(lambda _arguments: 0)

    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: ollama-gateway")


def test_an_unknown_command_is_wrong_usage(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The message lists the commands."""
    only_command(lambda _arguments: 0)

    with pytest.raises(SystemExit) as caught:
        cli.main(["akt"])
    assert caught.value.code == 2
    assert "act" in capsys.readouterr().err


def test_wrong_settings_are_reported_line_by_line(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error; the exit code is that of wrong usage."""

    def run(_arguments: argparse.Namespace) -> int:
        raise SettingsError(["one is wrong", "another is too"])

    only_command(run)

    assert cli.main(["act"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ollama-gateway: one is wrong\nollama-gateway: another is too\n"


def test_a_missing_config_file_is_reported_with_the_command_that_creates_it(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ready to paste, also if the path has a blank."""

    def run(_arguments: argparse.Namespace) -> int:
        load(tmp_path / "my file.toml", {})
        return 0

    only_command(run)

    assert cli.main(["act"]) == 2
    assert capsys.readouterr().err == (
        f"ollama-gateway: {tmp_path}/my file.toml does not exist; "
        f"`ollama-gateway init --config '{tmp_path}/my file.toml'` creates it\n"
    )


def test_ctrl_c_prints_nothing(
    only_command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:

    def run(_arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    only_command(run)

    assert cli.main(["act"]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_unexpected_error_keeps_its_traceback(only_command: Callable[..., None]) -> None:
    """An OSError that is not about the output is a bug."""

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
def test_a_closed_pipe_is_no_error(length: int) -> None:
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
    """It has already reported what is wrong."""
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
def test_help_and_version_import_nothing_slow(option: str) -> None:
    commands = [name for name in cli.COMMANDS if find_spec(f"gateway.cli.{name}")]
    done = _python(_LISTS_MODULES, ",".join(commands), option, stdout=subprocess.PIPE)

    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "argparse" in loaded
    assert sorted(set(HEAVY) & set(loaded)) == []


def test_version_prints_program_and_number() -> None:
    done = _python(_LISTS_MODULES, "init", "--version", stdout=subprocess.PIPE)

    assert done.stdout.splitlines()[0].startswith("ollama-gateway 0.")


def test_help_lists_every_command() -> None:
    """With a line about each, and the first steps."""
    commands = [name for name in cli.COMMANDS if find_spec(f"gateway.cli.{name}")]
    done = _python(_LISTS_MODULES, ",".join(commands), "--help", stdout=subprocess.PIPE)

    for name in commands:
        assert f"\n    {name} " in done.stdout
    assert "first steps:" in done.stdout


def test_every_command_has_a_module() -> None:
    """`--help` would fail otherwise."""
    assert [name for name in cli.COMMANDS if not find_spec(f"gateway.cli.{name}")] == []


# The name in printed commands.


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an installed command that is not on PATH, below the working folder."""
    path = tmp_path / ".venv" / "bin" / "ollama-gateway"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return path


def called_as(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, "keys", "list"])
    return cli.command_name()


def test_on_path_the_plain_name_is_used(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(installed.parent))

    assert called_as(monkeypatch, str(installed)) == "ollama-gateway"


@pytest.mark.parametrize("absolute", [True, False])
def test_below_the_working_folder_the_relative_path_is_used(
    installed: Path, monkeypatch: pytest.MonkeyPatch, *, absolute: bool
) -> None:
    """As in the Makefile."""
    name = str(installed) if absolute else ".venv/bin/ollama-gateway"

    assert called_as(monkeypatch, name) == ".venv/bin/ollama-gateway"


def test_another_program_on_path_is_not_this_one(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain name would run the other."""
    other = tmp_path / "other" / "ollama-gateway"
    other.parent.mkdir()
    other.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(other.parent))

    assert called_as(monkeypatch, str(installed)) == ".venv/bin/ollama-gateway"


def test_elsewhere_the_absolute_path_is_used(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path.joinpath(*"abcdefghijklmnopqrstuvwxyz" * 2)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)

    assert called_as(monkeypatch, str(installed)) == str(installed)


def test_in_its_own_folder_a_slash_is_kept(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, the shell would look on PATH."""
    monkeypatch.chdir(installed.parent)

    assert called_as(monkeypatch, str(installed)) == "./ollama-gateway"


def test_a_path_with_spaces_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.defpath)

    assert called_as(monkeypatch, "my tools/ollama-gateway") == "'my tools/ollama-gateway'"


@pytest.mark.parametrize("name", ["/usr/lib/gateway/__main__.py", "-c", ""])
def test_otherwise_the_plain_name_is_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a module or by a test there is no command to repeat."""
    assert called_as(monkeypatch, name) == "ollama-gateway"
