import os
import sys
from pathlib import Path

import pytest

from gateway.cli.program import command_name


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed command that is not on PATH; the working folder is above it."""
    path = tmp_path / ".venv" / "bin" / "ollama-gateway"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return path


def called_as(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, "keys", "list"])
    return command_name()


def test_found_on_path_it_is_its_plain_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is how it was called."""
    monkeypatch.setenv("PATH", str(program.parent))

    assert called_as(monkeypatch, str(program)) == "ollama-gateway"


@pytest.mark.parametrize("absolute", [True, False])
def test_in_a_folder_below_it_is_the_relative_path(
    program: Path, monkeypatch: pytest.MonkeyPatch, *, absolute: bool
) -> None:
    """The Makefile's way, and typed by hand."""
    name = str(program) if absolute else ".venv/bin/ollama-gateway"

    assert called_as(monkeypatch, name) == ".venv/bin/ollama-gateway"


def test_another_one_on_path_is_not_this_one(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint with the plain name would run the other."""
    other = tmp_path / "other" / "ollama-gateway"
    other.parent.mkdir()
    other.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(other.parent))

    assert called_as(monkeypatch, str(program)) == ".venv/bin/ollama-gateway"


def test_from_far_away_it_is_the_absolute_path(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once that is shorter."""
    deep = tmp_path.joinpath(*"abcdefghijklmnopqrstuvwxyz" * 2)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)

    assert called_as(monkeypatch, str(program)) == str(program)


def test_in_its_own_folder_it_keeps_a_slash(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, the shell would look on PATH."""
    monkeypatch.chdir(program.parent)

    assert called_as(monkeypatch, str(program)) == "./ollama-gateway"


def test_a_path_with_spaces_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is quoted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.defpath)

    assert called_as(monkeypatch, "my tools/ollama-gateway") == "'my tools/ollama-gateway'"


@pytest.mark.parametrize("name", ["/usr/lib/gateway/__main__.py", "-c", ""])
def test_called_in_any_other_way_it_is_its_plain_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As a module or by a test there is no command to repeat."""
    assert called_as(monkeypatch, name) == "ollama-gateway"
