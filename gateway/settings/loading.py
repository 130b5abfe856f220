"""Reading the settings from a config file and the environment, and where each came from."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gateway.settings.messages import SettingsError, toml_line, unknown_line, validation_lines
from gateway.settings.paths import (
    CONFIG_NAME,
    KEYS_NAME,
    STATE_NAME,
    find_config,
    resolve,
    user_folder,
)
from gateway.settings.schema import ModelRule, Settings, TrustedProxy
from gateway.settings.types import ollama_address

PREFIX: Final = "GATEWAY_"
DELIMITER: Final = "__"
DEFAULT: Final = "default"

_ENTRIES: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {"models": ModelRule, "proxies.trusted": TrustedProxy}
)
"""The settings that are lists of sections."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force.

    Args:
        settings: the values.
        config_file: the file that was read, or None.
        sources: where each setting, by dotted name, comes from: "default", "file PATH" or
            "environment GATEWAY_…".
        keys_file: the key file, which may not exist yet.
        state_file: the file of measured speeds, which may not exist yet.
    """

    settings: Settings
    config_file: Path | None
    sources: Mapping[str, str]
    keys_file: Path
    state_file: Path


class _ConfigFile(TomlConfigSettingsSource):
    """pydantic-settings' TOML source, with our messages about a file that cannot be read.

    It also accepts the byte order mark with which editors on Windows begin a file. ``_read_file``
    is the abstract method of the base class in which a source parses its format.
    """

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return _read_config(file_path)


def load(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read the config file and the environment, which wins.

    Args:
        config: the file to read; by default that of the user, then that of the system.
        environ: the environment; the process's own by default.

    Raises:
        SettingsError: with all mistakes of both.
    """
    if environ is None:
        environ = os.environ  # noqa: TID251  - the one place that reads it
    file = find_config(config, environ)
    settings, sources = _read(file, environ)
    folder = user_folder(environ) if file is None else file.parent
    keys_file = resolve(settings.keys.file or KEYS_NAME, folder=folder, environ=environ)
    state_file = resolve(settings.state.file or STATE_NAME, folder=folder, environ=environ)
    return Loaded(settings, file, MappingProxyType(sources), keys_file, state_file)


def config_path(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Return the config file that ``load`` would read, or else where it is to be created."""
    if environ is None:
        environ = os.environ  # noqa: TID251  - as in load
    if config is not None:
        return resolve(str(config), folder=Path.cwd(), environ=environ)
    return find_config(None, environ) or user_folder(environ) / CONFIG_NAME


def ollama_host(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the URL in Ollama's own variable OLLAMA_HOST; None if it has none that is valid."""
    if environ is None:
        environ = os.environ  # noqa: TID251  - as in load
    written = environ.get("OLLAMA_HOST", "")
    try:
        return ollama_address(written) if written.strip() else None
    except ValueError:
        return None


def setting_names() -> tuple[str, ...]:
    """Return the dotted names of all settings, in the order of the config file."""
    return tuple(
        f"{section}.{name}" if name else section
        for section, field in Settings.model_fields.items()
        for name in (getattr(field.annotation, "model_fields", None) or ("",))
    )


def variable_for(name: str) -> str | None:
    """Return the environment variable of a setting; None for ``models``, which has none.

    Its name would be GATEWAY_MODELS, without a double underscore. Such names are not ours:
    Kubernetes sets GATEWAY_PORT and others for every service that is called "gateway".
    """
    section, dot, field = name.partition(".")
    return f"{PREFIX}{section}{DELIMITER}{field}".upper() if dot else None


def _variables() -> dict[str, str]:
    """Return the environment variables by dotted name."""
    pairs = ((name, variable_for(name)) for name in setting_names())
    return {name: variable for name, variable in pairs if variable is not None}


def _read(file: Path | None, environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """Return the settings and their sources by dotted name. Raises SettingsError."""
    given = {name: key for name, key in _variables().items() if key in environ}
    written: dict[str, Any] = {}

    class FileAndEnvironment(Settings, BaseSettings):
        # Lists in variables are decoded by their own type: the library would raise an error of its
        # own at the first one that is not JSON, without the other mistakes.
        model_config = SettingsConfigDict(
            env_prefix=PREFIX,
            env_nested_delimiter=DELIMITER,
            enable_decoding=False,
            case_sensitive=True,
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """Read the environment, then the file: the first source wins."""
            del init_settings, env_settings, dotenv_settings, file_secret_settings
            from_file = _ConfigFile(settings_cls, toml_file=file)
            written.update(from_file.toml_data)
            from_environ = EnvSettingsSource(settings_cls, case_sensitive=False)
            # Only variables with exactly our names. The library also takes GATEWAY_log__level, and
            # GATEWAY_LOG as JSON. And none of a section that is not one in the file, for the
            # variable would replace it, and the mistake in the file would go unnoticed.
            from_environ.env_vars = {
                key.lower(): environ[key]
                for name, key in given.items()
                if isinstance(written.get(name.partition(".")[0], {}), dict)
            }
            return from_environ, from_file

    # The library ignores unknown variables: a typo would go unnoticed.
    mistakes = list(_unknown_variables(environ))
    try:
        settings = Settings(**vars(FileAndEnvironment()))
    except ValidationError as error:
        sources = _sources(written, file, given)
        mistakes += validation_lines(
            error, known=_all_names(), origin=lambda name: sources.get(name, f"file {file}")
        )
        raise SettingsError(mistakes) from None
    if mistakes:
        raise SettingsError(mistakes)
    return settings, _sources(written, file, given)


def _sources(
    written: Mapping[str, Any], file: Path | None, given: Mapping[str, str]
) -> dict[str, str]:
    """Return where each setting comes from; ``given`` are the variables that are set."""
    sources = dict.fromkeys(setting_names(), DEFAULT)
    for name in sources:
        section, dot, field = name.partition(".")
        inner = written.get(section)
        if name in given:
            sources[name] = f"environment {given[name]}"
        elif field in inner if dot and isinstance(inner, dict) else section in written:
            sources[name] = f"file {file}"
    return sources


def _all_names() -> dict[str, str]:
    """Return every name that the file can hold, by itself, for suggestions."""
    entries = (f"{name}.{field}" for name, item in _ENTRIES.items() for field in item.model_fields)
    return {name: name for name in (*Settings.model_fields, *setting_names(), *entries)}


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = _variables()
    for key in sorted(environ):
        name = key.removeprefix(PREFIX).replace(DELIMITER, ".", 1)
        if not key.startswith(PREFIX) or "." not in name or key in known.values():
            continue
        if name.lower().startswith("models."):
            yield f"{key} is not a setting; write [[models]] in the config file (environment)"
        else:
            yield unknown_line(key, dotted=name.lower(), known=known, origin="environment")


def _read_config(path: Path) -> dict[str, Any]:
    """Return the sections of the file. Raises SettingsError with one line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError as error:
        line = (
            f"{path}: cannot be read: {error.strerror}; run this as its owner, or let others read "
            "it: `chmod a+r` for the file, `chmod a+x` for its folder"
        )
    except OSError as error:
        line = f"{path}: cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = f"{path}: is not UTF-8 text (byte {error.start + 1}); save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        line = toml_line(path, str(error))
    except RecursionError:
        line = f"{path}: is not valid TOML: nested too deep"
    except ValueError:  # Python's limit on the digits of an integer
        line = f"{path}: is not valid TOML: a number is far too long"
    raise SettingsError([line])
