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
from gateway.auth.keys import KeySpec, Scope, digest_of
from gateway.cli import init, initialize, serve
from gateway.cli.config import new_config_text
from gateway.cli.initialize import ProbeResult
from gateway.settings import Loaded, SettingsError, default_config_text, load

Captured = pytest.CaptureFixture[str]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOT_AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
NOW = datetime(2030, 1, 31, tzinfo=UTC)


@pytest.fixture(autouse=True)
def probes(monkeypatch: pytest.MonkeyPatch) -> dict[str, ProbeResult]:
    """The result of probing an address; no real Ollama is contacted."""
    probes: dict[str, ProbeResult] = {}

    def probe(url: str, *, setting: str) -> ProbeResult:
        return probes.get(url, ProbeResult(f"{url} probed.", f"Correct {setting}."))

    monkeypatch.setattr(initialize, "probe_ollama", probe)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return probes


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


def test_the_first_run_creates_everything(config: Path, capsys: Captured) -> None:
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


def test_only_the_two_fields_are_on_standard_output(config: Path, capsys: Captured) -> None:
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
def test_the_tunnel_host_completes_the_base_url(config: Path, capsys: Captured, host: str) -> None:
    """Also when a complete address was pasted."""
    _init("--config", str(config), "--tunnel-host", host)

    captured = capsys.readouterr()
    assert captured.out.startswith("Base URL  https://gw.example.com/k/ogw_")
    assert "<your tunnel>" not in captured.err


@pytest.mark.parametrize("host", ["a b", "http://host", "host/path", "user@host", ""])
def test_an_invalid_tunnel_host_is_wrong_usage(config: Path, capsys: Captured, host: str) -> None:
    """Nothing is created."""
    with pytest.raises(SystemExit) as caught:
        _init("--config", str(config), "--tunnel-host", host)

    assert caught.value.code == 2
    assert not config.exists()


def test_the_next_steps_can_be_pasted(config: Path, capsys: Captured) -> None:
    """They repeat the given config file and the address of the listener."""
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
    _init("--config", str(config))
    keys = config.with_name("keys.toml")
    before = (config.read_bytes(), keys.read_bytes(), keys.stat().st_mtime_ns)
    capsys.readouterr()

    assert _init("--config", str(config)) == 0

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"Nothing to do: {config} and the keys in {keys} already exist.",
        (
            "Keys are shown only once. To replace a lost one: "
            f"ollama-gateway keys rotate engramia --config {config}"
        ),
        f"http://127.0.0.1:11434 probed. Correct `url` below [ollama] in {config}.",
        f"Start the gateway: ollama-gateway serve --config {config}",
    ]
    assert before == (config.read_bytes(), keys.read_bytes(), keys.stat().st_mtime_ns)


def test_an_interrupted_run_is_completed(config: Path, capsys: Captured) -> None:
    """The config file and one key exist: only the other key is created and shown."""
    config.parent.mkdir(mode=0o700)
    config.write_text("[log]\nlevel = 'debug'", encoding="utf-8")
    keys = config.with_name("keys.toml")
    keyfile.create_key(keys, initialize.KEYS[0], NOW)

    assert _init("--config", str(config)) == 0

    captured = capsys.readouterr()
    assert captured.out.startswith("Base URL  https://")
    assert len(captured.out.splitlines()) == 1
    assert "The key engramia already exists." in captured.err
    assert config.read_text(encoding="utf-8") == "[log]\nlevel = 'debug'"
    assert {key.name for key in keyfile.load(keys)} == {"engramia", "engramia-discovery"}


def test_a_revoked_key_is_not_created_again(config: Path, capsys: Captured) -> None:
    """It was revoked on purpose."""
    _init("--config", str(config))
    keys = config.with_name("keys.toml")
    keyfile.revoke_key(keys, "engramia-discovery", now=NOW)
    before = keys.read_bytes()
    capsys.readouterr()

    assert _init("--config", str(config)) == 0

    assert keys.read_bytes() == before
    assert capsys.readouterr().err.splitlines()[2] == (
        "The key engramia-discovery is revoked. To create a new one: ollama-gateway keys create "
        f"engramia-discovery --scope discovery --config {config}"
    )


def test_the_keys_go_where_the_settings_say(config: Path, tmp_path: Path) -> None:
    config.parent.mkdir(mode=0o700)
    config.write_text(f"[keys]\nfile = '{tmp_path}/elsewhere/k.toml'", encoding="utf-8")

    assert _init("--config", str(config)) == 0

    assert len(keyfile.load(tmp_path / "elsewhere" / "k.toml")) == 2
    assert not config.with_name("keys.toml").exists()


def test_without_config_option_the_folder_of_the_user_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The printed commands then need no option either."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("gateway.settings.paths.SYSTEM_FOLDER", tmp_path / "etc")

    assert _init() == 0

    assert (tmp_path / "xdg" / "ollama-gateway" / "keys.toml").exists()
    assert "serve\n" in capsys.readouterr().err


# The address of Ollama.


def test_the_ollama_option_is_written_to_the_file(config: Path, capsys: Captured) -> None:
    """It is the only setting that is not commented out."""
    assert _init("--config", str(config), "--ollama", "192.168.1.20") == 0

    loaded = load(config, environ={})
    written = [name for name, source in loaded.sources.items() if source != "default"]
    assert (written, loaded.settings.ollama.url) == (["ollama.url"], "http://192.168.1.20:11434")
    assert (
        "at their defaults, except ollama.url, which is http://192.168.1.20:11434 (--ollama).\n"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("variable", "written"),
    [("0.0.0.0:11500", 'url = "http://127.0.0.1:11500"'), ("127.0.0.1", "#url = ")],
)
def test_ollama_host_is_written_to_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str, written: str
) -> None:
    """Unless it is the default anyway, which stays commented out."""
    monkeypatch.setenv("OLLAMA_HOST", variable)
    assert _init("--config", str(config)) == 0

    text = config.read_text(encoding="utf-8")
    assert f"\n{written}" in text
    assert (text == default_config_text()) is written.startswith("#")


def test_the_ollama_option_wins_over_the_variable(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.1")
    _init("--config", str(config), "--ollama", "http://10.0.0.2:11434")

    assert load(config, environ={}).settings.ollama.url == "http://10.0.0.2:11434"


@pytest.mark.parametrize(
    "address",
    ["a b", "http://me:secret@host", "me:secret/@host:1", "host:70000", "http://h/v1"],
)
def test_an_invalid_ollama_address_is_wrong_usage(
    config: Path, capsys: Captured, address: str
) -> None:
    """Nothing is created, and no password is repeated."""
    with pytest.raises(SystemExit) as caught:
        _init("--config", str(config), "--ollama", address)

    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "must be http:// or https://" in printed
    assert "secret" not in printed
    assert not config.exists()


def test_an_interrupt_while_probing_loses_no_keys(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets are shown once: no key is created before everything that may end the run."""

    def probe(url: str, *, setting: str) -> ProbeResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(initialize, "probe_ollama", probe)
    with pytest.raises(KeyboardInterrupt):
        _init("--config", str(config))

    assert [each.name for each in config.parent.iterdir()] == [config.name]


def test_an_address_that_differs_from_the_existing_file_is_an_error(
    config: Path, capsys: Captured
) -> None:
    """An existing config file is not changed."""
    _init("--config", str(config))
    capsys.readouterr()

    assert _init("--config", str(config), "--ollama", "127.0.0.1:11434") == 0
    capsys.readouterr()
    assert _init("--config", str(config), "--ollama", "10.0.0.2") == 1

    assert capsys.readouterr().err == (
        "ollama-gateway: The settings still point to http://127.0.0.1:11434. "
        f"To use http://10.0.0.2:11434, set `url` below [ollama] in {config}.\n"
    )


def test_a_variable_that_overrides_the_file_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """As in a container, where the file has no effect."""
    monkeypatch.setenv("GATEWAY_OLLAMA__URL", "http://ollama:11434")
    _init("--config", str(config))

    printed = capsys.readouterr().err
    assert "http://ollama:11434 probed.\n" in printed
    assert "  1. Correct the variable GATEWAY_OLLAMA__URL.\n  2. Start the gateway: " in printed


def test_a_reachable_ollama_needs_no_step(
    config: Path, probes: dict[str, ProbeResult], capsys: Captured
) -> None:
    """The finding is printed all the same."""
    probes["http://127.0.0.1:11434"] = ProbeResult("It is reachable.")
    _init("--config", str(config))

    printed = capsys.readouterr().err
    assert "\nIt is reachable.\n" in printed
    assert "\n  1. Start the gateway: " in printed


def test_an_unknown_setting_cannot_be_chosen() -> None:
    with pytest.raises(LookupError):
        new_config_text({"ollama.address": "http://127.0.0.1:11434"})


# init --serve.


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Loaded, Path | None]]:
    """Return what the gateway was started with."""
    started: list[tuple[Loaded, Path | None]] = []

    def fake_serve(loaded: Loaded, *, config: Path | None) -> int:
        started.append((loaded, config))
        return 7

    monkeypatch.setattr(serve, "serve", fake_serve)
    return started


def test_serve_starts_the_gateway_on_every_run(
    config: Path, capsys: Captured, started: list[tuple[Loaded, Path | None]]
) -> None:
    """The exit code is that of the gateway."""
    codes = [_init("--config", str(config), "--serve")]
    first = capsys.readouterr().err
    codes.append(_init("--config", str(config), "--serve"))
    second = capsys.readouterr().err

    assert codes == [7, 7]
    assert [(loaded.config_file, given) for loaded, given in started] == [(config, config)] * 2
    for printed in (first, second):
        assert "Start the gateway" not in printed
        assert printed.endswith(
            "Starting the gateway at http://127.0.0.1:11435. Press Ctrl-C to stop it.\n"
        )
    assert "in another terminal:\n     curl " in first


def test_the_gateway_is_not_started_after_a_failure(
    tmp_path: Path, started: list[tuple[Loaded, Path | None]]
) -> None:
    (tmp_path / "keys.toml").mkdir()
    (tmp_path / "file").touch()

    assert _init("--config", str(tmp_path / "file" / "gateway.toml"), "--serve") == 1
    assert _init("--config", str(tmp_path / "gateway.toml"), "--serve") == 1
    assert started == []


# Failures.


def test_an_invalid_config_file_stays_unchanged(config: Path) -> None:
    """No key is created."""
    config.parent.mkdir()
    config.write_text("[log", encoding="utf-8")

    with pytest.raises(SettingsError):
        _init("--config", str(config))

    assert [path.name for path in config.parent.iterdir()] == ["gateway.toml"]


def test_an_invalid_keys_file_stays_unchanged(config: Path, capsys: Captured) -> None:
    keys = config.with_name("keys.toml")
    config.parent.mkdir(mode=0o700)
    keys.write_text("[keys", encoding="utf-8")

    assert _init("--config", str(config)) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"ollama-gateway: {keys}: ")
    assert keys.read_text(encoding="utf-8") == "[keys"


def test_an_impossible_path_is_reported_with_advice(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    config = tmp_path / "file" / "gateway.toml"

    assert _init("--config", str(config)) == 1

    assert capsys.readouterr() == (
        "",
        (
            f"ollama-gateway: {config} cannot be created: Not a directory. "
            "Choose another path with --config FILE.\n"
        ),
    )


@NOT_AS_ROOT
def test_a_read_only_folder_is_reported_with_advice(tmp_path: Path, capsys: Captured) -> None:
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
def test_a_full_disk_leaves_no_partial_file(
    config: Path, monkeypatch: pytest.MonkeyPatch, error: int, expected: str
) -> None:

    def fail(_descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fail)

    problem = initialize.create_config(config)

    assert problem is not None
    assert problem.startswith(f"{config} cannot be created: {expected}")
    assert list(config.parent.iterdir()) == []


def test_a_created_key_is_shown_even_if_the_next_one_fails(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Its secret is nowhere else; the next run creates the other one."""
    create_key = keyfile.create_key

    def fail_for_discovery(path: Path, spec: KeySpec, now: datetime) -> str:
        if spec.name == "engramia-discovery":
            raise keyfile.KeyFileError("disk full")
        return create_key(path, spec, now)

    monkeypatch.setattr(initialize, "create_key", fail_for_discovery)

    assert _init("--config", str(config)) == 1

    captured = capsys.readouterr()
    assert captured.out.startswith("API key   ogw_")
    assert captured.err.splitlines()[-1] == (
        "ollama-gateway: disk full. Run this again to create what is missing."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_keys_that_could_not_be_shown_are_reported_as_lost(config: Path) -> None:
    """Standard output is a full disk."""
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


@AS_ROOT
def test_under_sudo_new_files_go_to_the_owner_of_the_folder(
    tmp_path: Path, capsys: Captured
) -> None:
    """New folders too: a service, or a user whose home it is, can read them."""
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    config = tmp_path / "a" / "gateway.toml"

    assert _init("--config", str(config)) == 0

    for path in (config.parent, config, config.with_name("keys.toml")):
        assert (path.stat().st_uid, path.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert _mode(config.with_name("keys.toml")) == 0o600
