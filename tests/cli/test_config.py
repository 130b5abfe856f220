import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.cli.config import print_config
from gateway.settings import Loaded, Settings, load, setting_names

CONFIG = """
[listen]
admin_hosts = ["gateway"]
[keys]
file = "a \\"quoted\\" \\\\ ü.toml"
[limits]
body_bytes = 1000
read_ahead_bytes = "2KiB"
[timeouts]
head_timeout = 0.25
total_timeout = "5m"
[proxies]
trusted = [{ address = "10.0.0.0/8", header = "X-Forwarded-For" }]
[[models]]
match = "qwen*"
total_timeout = "20m"
[[models]]
match = "llama*"
max_active = 2
"""


def _loaded(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    file = folder / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {})


def test_every_setting_is_printed_with_its_source(tmp_path: Path) -> None:
    """On the same line."""
    loaded = _loaded(tmp_path, "[log]\nlevel = 'debug'", {"GATEWAY_TIMEOUTS__CEILING": "1h"})

    lines = print_config(loaded).splitlines()

    assert f'level = "debug"  # file {tmp_path}/gateway.toml' in lines
    assert 'format = "json"  # default' in lines
    assert "# environment GATEWAY_TIMEOUTS__CEILING" in next(
        line for line in lines if line.startswith("ceiling = 3600 ")
    )
    assert f"# config file: {tmp_path}/gateway.toml" in lines
    assert f"# keys file: {tmp_path}/keys.toml" in lines


def test_every_setting_is_printed(tmp_path: Path) -> None:
    tables = tomllib.loads(print_config(_loaded(tmp_path, "")))

    names = [f"{table}.{name}" for table, settings in tables.items() for name in settings]
    assert names == [name for name in setting_names() if name != "models"]


def test_the_output_is_a_config_file_with_the_same_settings(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, CONFIG)

    again = _loaded(tmp_path, print_config(loaded))

    assert again.settings == loaded.settings


def test_the_output_without_a_config_file_is_one(tmp_path: Path) -> None:
    loaded = load(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    loaded = replace(loaded, config_file=None)

    text = print_config(loaded)

    assert "# config file: none" in text.splitlines()
    assert _loaded(tmp_path, text).settings == loaded.settings


@given(
    file=st.text(st.characters(exclude_categories=("C", "Z"))),
    size=st.integers(1, 1 << 29),
    timeout=st.floats(0.001, 86_400),
    origin=st.text(),
)
def test_any_value_is_valid_toml(file: str, size: int, timeout: float, origin: str) -> None:
    """Quotes, letters and numbers, whatever the paths are called."""
    settings = Settings(
        keys={"file": file}, limits={"body_bytes": size}, timeouts={"head_timeout": timeout}
    )
    sources = dict.fromkeys(setting_names(), origin)
    loaded = Loaded(
        settings, Path(f"/a/{origin}"), sources, Path("/a/keys.toml"), Path("/a/state.json")
    )

    printed = print_config(loaded)

    # What looks like credentials is masked, and then is not what it was.
    if "***" not in printed:
        assert Settings(**tomllib.loads(printed)) == settings


def test_secrets_are_not_printed() -> None:
    """Neither text with the name of a secret, nor credentials within other text."""

    class Table(BaseModel):
        api_token: str = "hunter2"
        max_tokens: int = 5
        url: str = "http://me:hunter2@host"
        note: str = "ogw_hunter2hunter2hunter2"

    class All(Settings):
        extra: Table = Table()

    names = [*setting_names(), *(f"extra.{name}" for name in Table.model_fields)]
    loaded = Loaded(
        All(), None, dict.fromkeys(names, "default"), Path("/a/keys.toml"), Path("/a/state.json")
    )

    printed = print_config(loaded)

    assert "hunter2" not in printed
    assert tomllib.loads(printed)["extra"] == {
        "max_tokens": 5,
        "url": "http://***@host",
        "note": "***",
    }
