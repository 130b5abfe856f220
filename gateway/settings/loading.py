"""From a config file and the environment to settings, and where each came from."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from gateway.settings.messages import lines_of, unknown_line
from gateway.settings.paths import (
    FILE_NAME,
    KEYS_NAME,
    STATE_NAME,
    SettingsError,
    find_config,
    located,
    read_config,
    user_folder,
)
from gateway.settings.schema import Settings
from gateway.settings.tables import TrustedProxy
from gateway.settings.timeouts import ModelRule

PREFIX: Final = "GATEWAY_"
DEFAULT: Final = "default"

_ITEMS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {"models": ModelRule, "proxies.trusted": TrustedProxy}
)
"""The lists whose entries are tables."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force.

    ``sources`` tells for each setting, by dotted name, where its value is from: "default",
    "file PATH" or "environment GATEWAY_…". ``keys_file`` and ``state_file``
    may not be there yet.
    """

    settings: Settings
    config_file: Path | None
    sources: Mapping[str, str]
    keys_file: Path
    state_file: Path


def load(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read the config file, then the environment, which wins.

    ``config`` is a file asked for by name; without it the usual places are tried. Raises
    SettingsError with all mistakes of both.
    """
    if environ is None:
        environ = os.environ  # noqa: TID251  - the one place that reads it
    file = find_config(config, environ)
    written = {} if file is None else read_config(file)
    sources = _sources(written, file=file, environ=environ)
    settings = _validated(written, file=file, environ=environ, sources=sources)
    folder = user_folder(environ) if file is None else file.parent
    keys_file = located(settings.keys.file or KEYS_NAME, folder=folder, environ=environ)
    state_file = located(settings.state.file or STATE_NAME, folder=folder, environ=environ)
    return Loaded(settings, file, MappingProxyType(sources), keys_file, state_file)


def config_place(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The config file that ``load`` would read, or else where it is to be made."""
    if environ is None:
        environ = os.environ  # noqa: TID251  - as in load
    if config is not None:
        return located(str(config), folder=Path.cwd(), environ=environ)
    return find_config(None, environ) or user_folder(environ) / FILE_NAME


def setting_names() -> tuple[str, ...]:
    """The dotted names of all settings, in the order of the config file."""
    return tuple(
        f"{table}.{name}" if name else table
        for table, field in Settings.model_fields.items()
        for name in (_fields(field.annotation) or ("",))
    )


def variable_for(name: str) -> str | None:
    """The environment variable of a setting; None for ``models``, which is set in the file alone.

    Its variable would have no double underscore, and those names belong to others: Kubernetes
    makes some for every service that is called "gateway".
    """
    table, dot, field = name.partition(".")
    return f"{PREFIX}{table}__{field}".upper() if dot else None


def _fields(annotation: object) -> tuple[str, ...]:
    """What a table holds; nothing if it is not a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tuple(annotation.model_fields)
    return ()


def _variables() -> dict[str, str]:
    """From dotted name to environment variable."""
    pairs = ((name, variable_for(name)) for name in setting_names())
    return {name: variable for name, variable in pairs if variable is not None}


def _sources(
    written: Mapping[str, object], *, file: Path | None, environ: Mapping[str, str]
) -> dict[str, str]:
    """Where each setting comes from, by dotted name."""
    sources = dict.fromkeys(setting_names(), DEFAULT)
    in_file = {name for name in sources if _is_written(name, written)}
    sources |= dict.fromkeys(in_file, f"file {file}")
    for name, variable in _variables().items():
        if variable in environ:
            sources[name] = f"environment {variable}"
    return sources


def _is_written(name: str, written: Mapping[str, object]) -> bool:
    table, dot, field = name.partition(".")
    inner = written.get(table)
    return field in inner if dot and isinstance(inner, dict) else table in written


def _validated(
    written: Mapping[str, object],
    *,
    file: Path | None,
    environ: Mapping[str, str],
    sources: Mapping[str, str],
) -> Settings:
    where = f"file {file}"
    names = _all_names()
    mistakes = [
        unknown_line(table, dotted=table, known=names, origin=where)
        for table in written
        if table not in Settings.model_fields
    ]
    mistakes += _unknown_variables(environ)
    try:
        settings = Settings(**_merged(written, environ))
    except ValidationError as error:
        mistakes += lines_of(error, known=names, origin=lambda name: sources.get(name, where))
        raise SettingsError(mistakes) from None
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def _merged(written: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's tables with the environment's values in them.

    Without unknown names: pydantic-settings takes some for its own parameters.
    """
    tables: dict[str, Any] = {
        table: dict(inner) if isinstance(inner, dict) else inner
        for table, inner in written.items()
        if table in Settings.model_fields
    }
    for name, variable in _variables().items():
        table, _, field = name.partition(".")
        inner = tables.setdefault(table, {}) if variable in environ else None
        if isinstance(inner, dict):
            inner[field] = environ[variable]
    return tables


def _all_names() -> dict[str, str]:
    """Every name that can stand in the file, as it is called in a hint."""
    entries = (f"{name}.{field}" for name, item in _ITEMS.items() for field in item.model_fields)
    return {name: name for name in (*Settings.model_fields, *setting_names(), *entries)}


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = _variables()
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX).replace("__", ".", 1)
        if not variable.startswith(PREFIX) or "." not in name or variable in known.values():
            continue
        if name.lower().startswith("models."):
            yield f"{variable} is not a setting; [[models]] stands in the config file (environment)"
        else:
            yield unknown_line(variable, dotted=name.lower(), known=known, origin="environment")
