import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.settings import (
    Address,
    Loaded,
    ModelRule,
    Settings,
    SettingsError,
    config_path,
    load,
    paths,
    setting_names,
    variable_for,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder without a config file, on a system without one."""
    monkeypatch.setattr(paths, "SYSTEM_FOLDER", tmp_path / "etc" / "ollama-gateway")
    home = tmp_path / "home"
    home.mkdir()
    return home


def _write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _load(file: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    return load(file, environ or {})


# Paths.


def test_defaults_apply_without_a_config_file(home: Path) -> None:
    """The key file is then in the folder of the user."""
    loaded = load(environ={"HOME": str(home)})

    assert loaded.settings == Settings()
    assert loaded.config_file is None
    assert loaded.keys_file == home / ".config" / "ollama-gateway" / "keys.toml"
    assert set(loaded.sources.values()) == {"default"}


def test_the_system_file_is_read_when_the_user_has_none(home: Path, tmp_path: Path) -> None:
    """The key file is in the folder of the file that was read."""
    file = _write(tmp_path / "etc" / "ollama-gateway" / "gateway.toml", "[log]\nlevel='debug'")

    loaded = load(environ={"HOME": str(home)})

    assert (loaded.config_file, loaded.settings.log.level) == (file, "debug")
    assert loaded.keys_file == file.with_name("keys.toml")


def test_the_file_of_the_user_wins_over_the_file_of_the_system(home: Path, tmp_path: Path) -> None:
    """Only one file is read."""
    _write(tmp_path / "etc" / "ollama-gateway" / "gateway.toml", "[log]\nlevel='debug'")
    file = _write(home / ".config" / "ollama-gateway" / "gateway.toml")

    loaded = load(environ={"HOME": str(home)})

    assert (loaded.config_file, loaded.settings.log.level) == (file, "info")


def test_xdg_config_home_is_used_if_it_is_absolute(home: Path, tmp_path: Path) -> None:
    """As the XDG Base Directory Specification requires."""
    file = _write(tmp_path / "xdg" / "ollama-gateway" / "gateway.toml")
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}

    assert load(environ=environ).config_file == file
    assert load(environ=environ | {"XDG_CONFIG_HOME": "xdg"}).config_file is None


def test_a_given_file_is_the_only_one_read(home: Path, tmp_path: Path) -> None:
    _write(home / ".config" / "ollama-gateway" / "gateway.toml", "nonsense")
    file = _write(tmp_path / "mine.toml")

    assert load(file, {"HOME": str(home)}).config_file == file


def test_a_given_file_may_be_relative_or_start_at_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its complete path is kept: keys may be read from another working directory later."""
    monkeypatch.chdir(tmp_path)
    file = _write(tmp_path / "mine.toml")
    other = _write(home / "mine.toml")

    assert load(Path("mine.toml"), {}).config_file == file
    assert load(Path("~/mine.toml"), {"HOME": str(home)}).config_file == other
    assert load(file, {}).keys_file == tmp_path / "keys.toml"


def test_a_given_file_must_exist(tmp_path: Path) -> None:
    """No other file is read instead."""
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path / "missing.toml")

    assert caught.value.lines == [f"{tmp_path}/missing.toml does not exist"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", "{folder}/keys.toml"),
        ("secret/k.toml", "{folder}/secret/k.toml"),
        ("/srv/keys.toml", "/srv/keys.toml"),
        ("~/keys.toml", "/home/me/keys.toml"),
    ],
)
def test_a_relative_key_file_starts_at_the_folder_of_the_config_file(
    tmp_path: Path, written: str, expected: str
) -> None:
    file = _write(tmp_path / "gateway.toml", f'[keys]\nfile = "{written}"')

    loaded = _load(file, {"HOME": "/home/me"})

    assert str(loaded.keys_file) == expected.format(folder=tmp_path)


def test_the_path_of_a_new_config_file(home: Path) -> None:
    """`init` creates it there: the given one, an existing one, or one of the user."""
    environ = {"HOME": str(home)}
    expected = home / ".config" / "ollama-gateway" / "gateway.toml"

    assert config_path(None, environ) == expected
    assert config_path(Path("/a/b.toml"), environ) == Path("/a/b.toml")
    system = _write(paths.SYSTEM_FOLDER / "gateway.toml")
    assert config_path(None, environ) == system


# File and environment.


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Setting by setting; the source of each is known."""
    file = _write(tmp_path / "g.toml", "[scheduler]\nmax_active = 2\nmax_queued = 100")
    environ = {"GATEWAY_SCHEDULER__MAX_ACTIVE": "3", "GATEWAY_TIMEOUTS__CEILING": "1h"}

    loaded = _load(file, environ)

    scheduler, timeouts = loaded.settings.scheduler, loaded.settings.timeouts
    assert (scheduler.max_active, scheduler.max_queued, timeouts.ceiling) == (3, 100, 3_600.0)
    assert loaded.sources["scheduler.max_active"] == "environment GATEWAY_SCHEDULER__MAX_ACTIVE"
    assert loaded.sources["scheduler.max_queued"] == f"file {file}"
    assert loaded.sources["scheduler.max_queued_per_key"] == "default"


def test_load_reads_the_process_environment_and_the_constructor_reads_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GATEWAY_LOG__FORMAT", "console")

    assert load().settings.log.format == "console"
    assert Settings().log.format == "json"


def test_lists_in_the_environment_are_json(tmp_path: Path) -> None:
    trusted = [{"address": "127.0.0.1", "header": "CF-Connecting-IP"}]
    environ = {
        "GATEWAY_PROXIES__TRUSTED": json.dumps(trusted),
        "GATEWAY_LISTEN__ADMIN_HOSTS": '["gateway"]',
    }

    settings = _load(_write(tmp_path / "g.toml"), environ).settings

    assert settings.listen.admin_hosts == ("gateway",)
    assert str(settings.proxies.trusted[0].address) == "127.0.0.1/32"


def test_foreign_variables_are_ignored(tmp_path: Path) -> None:
    """Kubernetes sets such names for every service called "gateway"."""
    environ = {"GATEWAY_PORT": "tcp://10.0.0.1:80", "GATEWAY_MODELS": "x", "OTHER__NAME": "1"}

    assert _load(_write(tmp_path / "g.toml"), environ).settings == Settings()


def test_every_setting_except_models_has_a_variable(tmp_path: Path) -> None:
    """Each of them accepts the default as text."""
    file = _write(tmp_path / "g.toml")
    without = [name for name in setting_names() if variable_for(name) is None]

    assert without == ["models"]
    for name in set(setting_names()) - {"models"}:
        table, _, field = name.partition(".")
        default = getattr(getattr(Settings(), table), field)
        text = {(): "[]", None: "auto"}.get(default, str(default))
        variable = f"GATEWAY_{table}__{field}".upper()
        loaded = _load(file, {variable: text})
        assert loaded.settings == Settings(), name
        assert loaded.sources[name] == f"environment {variable}"


def test_models_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """The first that matches applies."""
    text = '[[models]]\nmatch="a*"\ntotal_timeout="2m"\n[[models]]\nmatch="b"\nmax_active=2'

    loaded = _load(_write(tmp_path / "g.toml", text))

    assert loaded.settings.models == (
        ModelRule(match="a*", total_timeout=120),
        ModelRule(match="b", max_active=2),
    )
    assert loaded.sources["models"] == f"file {tmp_path}/g.toml"


def test_settings_are_frozen() -> None:
    settings = Settings.model_validate({"listen": {"public": "127.0.0.1:0"}})

    assert settings.listen.public == Address("127.0.0.1", 0)
    with pytest.raises(ValidationError):
        settings.log.level = "debug"  # type: ignore[misc]


# Fuzzing.

_scalars: st.SearchStrategy[object] = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([])
)
_names = st.sampled_from([name.rpartition(".")[2] for name in setting_names()])
_tables = st.dictionaries(st.one_of(_names, st.text(max_size=8)), _scalars, max_size=4)


@given(
    st.dictionaries(
        st.sampled_from(sorted({name.partition(".")[0] for name in setting_names()})),
        st.one_of(_scalars, _tables, st.lists(_tables, max_size=2)),
        max_size=5,
    )
)
def test_any_file_gives_settings_or_readable_messages(written: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = _write(Path(folder, "gateway.toml"), tomlkit.dumps(written))
        lines = _mistakes(file)

    assert all(line and line.isprintable() for line in lines)


def _mistakes(file: Path) -> list[str]:
    try:
        load(file, environ={})
    except SettingsError as error:
        return error.lines or [""]
    return []


def test_config_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    """A shell's ``<(...)`` names one. It would otherwise be ignored, and the defaults used."""
    pipe = tmp_path / "gateway.toml"
    os.mkfifo(pipe)

    with pytest.raises(SettingsError, match="is not a regular file"):
        load(pipe, environ={})
