import argparse
import os
import pwd
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.auth import keyfile
from gateway.auth.keys import NewKey, digest_of
from gateway.auth.principal import Scope
from gateway.cli import init, init_steps, serve
from gateway.cli import new_files as newfile
from gateway.cli.init_config import config_text
from gateway.cli.init_ollama import Sight
from gateway.settings import Loaded, SettingsError, default_config_text, load

Captured = pytest.CaptureFixture[str]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOT_AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
NOW = datetime(2030, 1, 31, tzinfo=UTC)


@pytest.fixture(autouse=True)
def sights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sight]:
    """What is found at which address; this machine's own Ollama is not asked."""
    sights: dict[str, Sight] = {}

    def look(url: str, *, setting: str) -> Sight:
        return sights.get(url, Sight(f"{url} looked at.", f"Correct {setting}."))

    monkeypatch.setattr(init_steps, "look", look)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return sights


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "ollama-gateway" / "gateway.toml"


def _init(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    init.register(parser.add_subparsers())
    parsed = parser.parse_args(["init", *arguments])
    code: int = parsed.run(parsed)
    return code


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_run_makes_everything(config: Path, capsys: Captured) -> None:
    """A config file that others may read, and keys that they may not."""
    assert _init("--config", str(config)) == 0

    keys = {key.name: key.scopes for key in keyfile.load(config.with_name("keys.toml"))}
    assert config.read_text(encoding="utf-8") == default_config_text()
    assert keys == {
        "engramia": {Scope.INFERENCE, Scope.DISCOVERY},
        "engramia-discovery": {Scope.DISCOVERY},
    }
    assert (_mode(config.parent), _mode(config)) == (0o700, 0o644)
    assert _mode(config.with_name("keys.toml")) == 0o600


def test_the_two_fields_alone_are_on_standard_output(config: Path, capsys: Captured) -> None:
    """Ready to paste: the discovery key in the path, the other as the API key."""
    _init("--config", str(config))

    base, api = capsys.readouterr().out.splitlines()
    discovery = re.fullmatch(r"Base URL +https://<your tunnel>/k/(ogw_[\w-]+)/v1", base)
    inference = re.fullmatch(r"API key +(ogw_[\w-]+)", api)
    digests = {key.name: key.digest for key in keyfile.load(config.with_name("keys.toml"))}
    assert discovery is not None
    assert inference is not None
    assert digests == {
        "engramia": digest_of(inference[1]),
        "engramia-discovery": digest_of(discovery[1]),
    }


@pytest.mark.parametrize("host", ["gw.example.com", "https://gw.example.com/"])
def test_the_tunnels_name_completes_the_address(config: Path, capsys: Captured, host: str) -> None:
    """Also when the whole address was pasted."""
    _init("--config", str(config), "--tunnel-host", host)

    captured = capsys.readouterr()
    assert captured.out.startswith("Base URL  https://gw.example.com/k/ogw_")
    assert "<your tunnel>" not in captured.err


@pytest.mark.parametrize("host", ["a b", "http://host", "host/path", "user@host", ""])
def test_what_is_no_host_name_is_wrong_usage(config: Path, capsys: Captured, host: str) -> None:
    """Before anything is made."""
    with pytest.raises(SystemExit) as caught:
        _init("--config", str(config), "--tunnel-host", host)

    assert caught.value.code == 2
    assert not config.exists()


def test_the_next_steps_can_be_pasted(config: Path, capsys: Captured) -> None:
    """They name the config file that was asked for, and the place that is listened at."""
    config.parent.mkdir(mode=0o700)
    config.write_text("[listen]\npublic = '0.0.0.0:8080'", encoding="utf-8")

    _init("--config", str(config))

    captured = capsys.readouterr()
    api_key = captured.out.split()[-1]
    assert f"ollama-gateway serve --config {config}" in captured.err
    assert "Point your tunnel at http://127.0.0.1:8080, " in captured.err
    assert "curl http://127.0.0.1:8080/v1/models" in captured.err
    assert f"'Authorization: Bearer {api_key}'" in captured.err


def test_the_second_run_changes_nothing(config: Path, capsys: Captured) -> None:
    """It says what is there, how a lost key is replaced, and what is next."""
    _init("--config", str(config))
    keys = config.with_name("keys.toml")
    before = (config.read_bytes(), keys.read_bytes(), keys.stat().st_mtime_ns)
    capsys.readouterr()

    assert _init("--config", str(config)) == 0

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"Nothing to make: {config} and the keys in {keys} are there.",
        (
            "Keys are shown once. Instead of a lost one: "
            f"ollama-gateway keys rotate engramia --config {config}"
        ),
        f"http://127.0.0.1:11434 looked at. Correct `url` below [ollama] in {config}.",
        f"Start the gateway: ollama-gateway serve --config {config}",
    ]
    assert before == (config.read_bytes(), keys.read_bytes(), keys.stat().st_mtime_ns)


def test_an_interrupted_run_is_completed(config: Path, capsys: Captured) -> None:
    """The config file is there and one key: only the other one is made and shown."""
    config.parent.mkdir(mode=0o700)
    config.write_text("[log]\nlevel = 'debug'", encoding="utf-8")
    keys = config.with_name("keys.toml")
    keyfile.create_key(keys, init_steps.WANTED[0], NOW)

    assert _init("--config", str(config)) == 0

    captured = capsys.readouterr()
    assert captured.out.startswith("Base URL  https://")
    assert len(captured.out.splitlines()) == 1
    assert "The key engramia is there." in captured.err
    assert config.read_text(encoding="utf-8") == "[log]\nlevel = 'debug'"
    assert {key.name for key in keyfile.load(keys)} == {"engramia", "engramia-discovery"}


def test_a_revoked_key_is_not_brought_back(config: Path, capsys: Captured) -> None:
    """Whoever revoked it meant it; `serve` after `init` must not undo it."""
    _init("--config", str(config))
    keys = config.with_name("keys.toml")
    keyfile.revoke_key(keys, "engramia-discovery", now=NOW)
    before = keys.read_bytes()
    capsys.readouterr()

    assert _init("--config", str(config)) == 0

    assert keys.read_bytes() == before
    assert capsys.readouterr().err.splitlines()[2] == (
        "The key engramia-discovery is revoked. A new one: ollama-gateway keys create "
        f"engramia-discovery --scope discovery --config {config}"
    )


def test_the_keys_go_where_the_settings_say(config: Path, tmp_path: Path) -> None:
    """Not necessarily beside the config file."""
    config.parent.mkdir(mode=0o700)
    config.write_text(f"[keys]\nfile = '{tmp_path}/elsewhere/k.toml'", encoding="utf-8")

    assert _init("--config", str(config)) == 0

    assert len(keyfile.load(tmp_path / "elsewhere" / "k.toml")) == 2
    assert not config.with_name("keys.toml").exists()


def test_without_an_option_the_users_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Hints then need no option either."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("gateway.settings.paths.SYSTEM_FOLDER", tmp_path / "etc")

    assert _init() == 0

    assert (tmp_path / "xdg" / "ollama-gateway" / "keys.toml").exists()
    assert "serve\n" in capsys.readouterr().err


# Where Ollama is.


def test_an_address_that_was_said_is_in_force_in_the_file(config: Path, capsys: Captured) -> None:
    """It is the one setting in it that is no comment."""
    assert _init("--config", str(config), "--ollama", "192.168.1.20") == 0

    loaded = load(config, environ={})
    written = [name for name, source in loaded.sources.items() if source != "default"]
    assert (written, loaded.settings.ollama.url) == (["ollama.url"], "http://192.168.1.20:11434")
    assert (
        "at its default but for ollama.url, which is http://192.168.1.20:11434 (--ollama).\n"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("variable", "written"),
    [("0.0.0.0:11500", 'url = "http://127.0.0.1:11500"'), ("127.0.0.1", "#url = ")],
)
def test_ollamas_own_variable_is_heeded(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str, written: str
) -> None:
    """Unless it says what is the default anyway, which stays free to change."""
    monkeypatch.setenv("OLLAMA_HOST", variable)
    assert _init("--config", str(config)) == 0

    text = config.read_text(encoding="utf-8")
    assert f"\n{written}" in text
    assert (text == default_config_text()) is written.startswith("#")


def test_what_is_said_wins_over_the_variable(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line is nearer."""
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.1")
    _init("--config", str(config), "--ollama", "http://10.0.0.2:11434")

    assert load(config, environ={}).settings.ollama.url == "http://10.0.0.2:11434"


@pytest.mark.parametrize(
    "address",
    ["a b", "http://me:secret@host", "me:secret/@host:1", "host:70000", "http://h/v1"],
)
def test_what_is_no_address_is_wrong_usage(config: Path, capsys: Captured, address: str) -> None:
    """Before anything is made; and no password is repeated."""
    with pytest.raises(SystemExit) as caught:
        _init("--config", str(config), "--ollama", address)

    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "must be http:// or https://" in said
    assert "secret" not in said
    assert not config.exists()


def test_whoever_does_not_wait_for_ollama_loses_no_keys(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shown once: none are made as long as something can still end the run."""

    def look(url: str, *, setting: str) -> Sight:
        raise KeyboardInterrupt

    monkeypatch.setattr(init_steps, "look", look)
    with pytest.raises(KeyboardInterrupt):
        _init("--config", str(config))

    assert [each.name for each in config.parent.iterdir()] == [config.name]


def test_an_address_is_not_passed_over_in_silence(config: Path, capsys: Captured) -> None:
    """A config file that is there is left alone; whoever says the same again is told nothing."""
    _init("--config", str(config))
    capsys.readouterr()

    assert _init("--config", str(config), "--ollama", "127.0.0.1:11434") == 0
    capsys.readouterr()
    assert _init("--config", str(config), "--ollama", "10.0.0.2") == 1

    assert capsys.readouterr().err == (
        "ollama-gateway: Ollama is still looked for at http://127.0.0.1:11434: for "
        f"http://10.0.0.2:11434, correct `url` below [ollama] in {config}\n"
    )


def test_a_variable_of_ours_is_what_is_to_be_corrected(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """As in a container, where the file does not decide."""
    monkeypatch.setenv("GATEWAY_OLLAMA__URL", "http://ollama:11434")
    _init("--config", str(config))

    said = capsys.readouterr().err
    assert "http://ollama:11434 looked at.\n" in said
    assert "  1. Correct the variable GATEWAY_OLLAMA__URL.\n  2. Start the gateway: " in said


def test_an_ollama_that_is_well_is_no_step(
    config: Path, sights: dict[str, Sight], capsys: Captured
) -> None:
    """It is told all the same."""
    sights["http://127.0.0.1:11434"] = Sight("It answers.")
    _init("--config", str(config))

    said = capsys.readouterr().err
    assert "\nIt answers.\n" in said
    assert "\n  1. Start the gateway: " in said


def test_a_setting_that_is_not_there_cannot_be_chosen() -> None:
    """A misspelt name would else be lost in silence."""
    with pytest.raises(LookupError):
        config_text({"ollama.address": "http://127.0.0.1:11434"})


# Making and serving at once.


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Loaded, Path | None]]:
    """With what the gateway was started."""
    started: list[tuple[Loaded, Path | None]] = []

    def serves(loaded: Loaded, *, asked_for: Path | None) -> int:
        started.append((loaded, asked_for))
        return 7

    monkeypatch.setattr(serve, "serve", serves)
    return started


def test_it_can_start_the_gateway_itself(
    config: Path, capsys: Captured, started: list[tuple[Loaded, Path | None]]
) -> None:
    """Then it does not tell anybody to; the exit code is the gateway's. So it is each time."""
    codes = [_init("--config", str(config), "--serve")]
    first = capsys.readouterr().err
    codes.append(_init("--config", str(config), "--serve"))
    second = capsys.readouterr().err

    assert codes == [7, 7]
    assert [(loaded.config_file, asked_for) for loaded, asked_for in started] == [
        (config, config)
    ] * 2
    for said in (first, second):
        assert "Start the gateway" not in said
        assert said.endswith("The gateway starts now, at http://127.0.0.1:11435. Ctrl-C ends it.\n")
    assert "in another terminal:\n     curl " in first


def test_without_what_it_needs_it_is_not_started(
    tmp_path: Path, started: list[tuple[Loaded, Path | None]]
) -> None:
    """A config file that cannot be made, keys that cannot be read."""
    (tmp_path / "keys.toml").mkdir()
    (tmp_path / "file").touch()

    assert _init("--config", str(tmp_path / "file" / "gateway.toml"), "--serve") == 1
    assert _init("--config", str(tmp_path / "gateway.toml"), "--serve") == 1
    assert started == []


# What goes wrong.


def test_a_broken_config_file_is_left_alone(config: Path) -> None:
    """It is reported like everywhere else, and no key is made."""
    config.parent.mkdir()
    config.write_text("[log", encoding="utf-8")

    with pytest.raises(SettingsError):
        _init("--config", str(config))

    assert [path.name for path in config.parent.iterdir()] == ["gateway.toml"]


def test_a_broken_keys_file_is_left_alone(config: Path, capsys: Captured) -> None:
    """One line says what is wrong with it."""
    keys = config.with_name("keys.toml")
    config.parent.mkdir(mode=0o700)
    keys.write_text("[keys", encoding="utf-8")

    assert _init("--config", str(config)) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"ollama-gateway: {keys}: ")
    assert keys.read_text(encoding="utf-8") == "[keys"


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    """With what to do about it."""
    (tmp_path / "file").touch()
    config = tmp_path / "file" / "gateway.toml"

    assert _init("--config", str(config)) == 1

    assert capsys.readouterr() == (
        "",
        (
            f"ollama-gateway: {config} cannot be made: Not a directory. "
            "Choose another place with --config FILE.\n"
        ),
    )


@NOT_AS_ROOT
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    """With what to do about it."""
    tmp_path.chmod(0o500)

    assert _init("--config", str(tmp_path / "gateway.toml")) == 1

    assert "Permission denied. Run this as a user who may write there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (28, "No space left on device. Free some space and run this again."),
        (30, "Read-only file system. Run this as a user who may write there, or choose another"),
    ],
)
def test_a_config_file_is_made_whole_or_not_at_all(
    config: Path, monkeypatch: pytest.MonkeyPatch, error: int, expected: str
) -> None:
    """A disk that is full leaves nothing behind."""

    def fail(_descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fail)

    problem = init_steps.make_config(config)

    assert problem is not None
    assert problem.startswith(f"{config} cannot be made: {expected}")
    assert list(config.parent.iterdir()) == []


def test_a_key_that_was_made_is_shown_even_if_the_next_one_fails(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Its secret is nowhere else; the next run makes the other one."""
    create_key = keyfile.create_key

    def fail_for_discovery(path: Path, spec: NewKey, now: datetime) -> str:
        if spec.name == "engramia-discovery":
            raise keyfile.KeyFileError("disk full")
        return create_key(path, spec, now)

    monkeypatch.setattr(init_steps, "create_key", fail_for_discovery)

    assert _init("--config", str(config)) == 1

    captured = capsys.readouterr()
    assert captured.out.startswith("API key   ogw_")
    assert captured.err.splitlines()[-1] == (
        "ollama-gateway: disk full. What is missing is made when this is run again."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_keys_that_could_not_be_shown_are_not_lost_in_silence(config: Path) -> None:
    """The output went to a full disk: it says how to have others."""
    code = "import sys; from gateway import cli; cli.COMMANDS = ('init',); sys.exit(cli.main())"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-E", "-c", code, "init", "--config", str(config)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert "the new keys could not be shown and are lost" in done.stderr
    assert "keys rotate engramia-discovery" in done.stderr
    assert "Traceback" not in done.stderr


# Owners and modes.


def test_a_strict_umask_does_not_hide_the_config_file(config: Path) -> None:
    """The service is another user."""
    before = os.umask(0o077)
    try:
        newfile.make_file(config, "")
    finally:
        os.umask(before)

    assert _mode(config) == 0o644


def test_a_link_to_the_config_file_is_kept(tmp_path: Path) -> None:
    """It may lead to where the owner keeps his configuration."""
    link = tmp_path / "gateway.toml"
    link.symlink_to(tmp_path / "dotfiles" / "gateway.toml")

    newfile.make_file(link, "text")

    assert link.is_symlink()
    assert (tmp_path / "dotfiles" / "gateway.toml").read_text() == "text"


@AS_ROOT
def test_under_sudo_new_files_go_to_the_folders_owner(tmp_path: Path, capsys: Captured) -> None:
    """So do new folders: a service or a user whose home it is can read what is his."""
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    config = tmp_path / "a" / "gateway.toml"

    assert _init("--config", str(config)) == 0

    for path in (config.parent, config, config.with_name("keys.toml")):
        assert (path.stat().st_uid, path.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert _mode(config.with_name("keys.toml")) == 0o600


@AS_ROOT
def test_in_the_systems_folder_new_files_go_to_the_services_user(tmp_path: Path) -> None:
    """The folder itself stays root's: what the service cannot change it cannot be made to."""
    nobody = pwd.getpwnam("nobody")

    owner = newfile.owner_within(tmp_path, service_user="nobody", service_folder=tmp_path)

    assert owner == newfile.Owner(nobody.pw_uid, nobody.pw_gid)


@AS_ROOT
def test_without_the_services_user_they_stay_roots(tmp_path: Path) -> None:
    """There is nobody to give them to."""
    owner = newfile.owner_within(tmp_path, service_user="no-such-user", service_folder=tmp_path)

    assert owner == newfile.Owner(0, 0)


@AS_ROOT
def test_elsewhere_the_services_user_gets_nothing(tmp_path: Path) -> None:
    """A folder of root's somewhere is root's business."""
    owner = newfile.owner_within(
        tmp_path, service_user="nobody", service_folder=tmp_path / "elsewhere"
    )

    assert owner == newfile.Owner(0, 0)


@NOT_AS_ROOT
def test_without_root_there_is_no_choice_of_owner(tmp_path: Path) -> None:
    """Nothing is given away."""
    assert newfile.owner_within(tmp_path) is None
