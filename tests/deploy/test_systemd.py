"""The unit: what it starts, when it stops, and how little it may."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.cli import DONE, WRONG_USAGE, main
from gateway.files import SERVICE_USER
from gateway.settings import SYSTEM_FOLDER, Settings, default_config_text
from tests.deploy.paths import DEPLOY, DOCS, text

UNIT = DEPLOY / "systemd" / "ollama-gateway.service"
ANALYZE = shutil.which("systemd-analyze")

needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def _values(name: str) -> list[str]:
    pairs = (line.partition("=") for line in text(UNIT).splitlines() if not line.startswith("#"))
    return [value for key, equals, value in pairs if equals and key == name]


def _value(name: str) -> str:
    (value,) = _values(name)
    return value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoNewPrivileges", "true"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "true"),
        ("PrivateTmp", "true"),
        ("PrivateDevices", "true"),
        ("ProtectKernelLogs", "true"),
        ("ProtectKernelModules", "true"),
        ("ProtectKernelTunables", "true"),
        ("ProtectControlGroups", "true"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("RestrictNamespaces", "true"),
        ("MemoryDenyWriteExecute", "true"),
        ("LockPersonality", "true"),
        ("UMask", "0077"),
    ],
)
def test_unit_is_sandboxed(name: str, value: str) -> None:
    """Each line closes a way that the gateway has no use for."""
    assert _value(name) == value


def test_system_calls_are_a_positive_list() -> None:
    """The first line says what may be called, later ones only take from it."""
    first, *others = _values("SystemCallFilter")

    assert first == "@system-service"
    assert all(line.startswith("~") for line in others)


def test_unit_user_is_the_one_that_init_gives_files_to() -> None:
    """Keys made under sudo would otherwise be unreadable for it."""
    assert _value("User") == SERVICE_USER
    assert _value("Group") == SERVICE_USER
    assert "sudo useradd --system --user-group" in text(DOCS / "systemd.md")


def test_unit_uses_the_system_config_folder() -> None:
    """Where the commands find it, too."""
    words = shlex.split(_value("ExecStart"))

    assert words[1:] == ["serve", "--config", str(SYSTEM_FOLDER / "gateway.toml")]
    assert Path(words[0]).is_absolute()
    assert words[0] in text(DOCS / "systemd.md")


def test_unit_command_line_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the unit, with another folder for the system's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config = tmp_path / "gateway.toml"
    config.write_text(default_config_text(), encoding="utf-8")
    words = _value("ExecStart").replace(str(SYSTEM_FOLDER), str(tmp_path)).split()[1:]

    assert main([*words, "--print-config"]) == DONE
    assert str(config) in capsys.readouterr().out


def test_systemd_waits_for_the_drain() -> None:
    """It asks first, and kills only what is left long after the drain."""
    assert int(_value("TimeoutStopSec")) > Settings().timeouts.drain_timeout + 5
    assert _value("KillMode") == "mixed"
    assert _value("KillSignal") == "SIGTERM"


def test_unit_does_not_restart_on_wrong_settings() -> None:
    """A failure is; but settings that were wrong stay wrong."""
    assert _value("Restart") == "on-failure"
    assert _value("RestartPreventExitStatus") == str(WRONG_USAGE)


def test_unit_stops_before_ollama() -> None:
    """systemd stops in the reverse order of starting; running answers can end."""
    assert "ollama.service" in _value("After").split()


@pytest.fixture
def verifiable(tmp_path: Path) -> Path:
    """The unit with a program that is there on every machine."""
    program = shlex.split(_value("ExecStart"))[0]
    copy = tmp_path / UNIT.name
    copy.write_text(text(UNIT).replace(f"={program} ", "=/bin/true "), encoding="utf-8")
    return copy


@needs_analyze
def test_systemd_accepts_the_unit(verifiable: Path) -> None:
    """A misspelt line is a warning there, and does nothing."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(verifiable)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_systemd_rates_the_unit_as_well_protected(verifiable: Path) -> None:
    """Out of 10, where 10 is a service that may do everything, it gets at most 1.5."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager"]
    done = subprocess.run(
        [*command, str(verifiable)], capture_output=True, text=True, timeout=30, check=False
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot rate a file")

    assert done.returncode == 0, done.stdout
