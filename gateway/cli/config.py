"""Settings as TOML text: the output of `serve --print-config`, and the config file of `init`.

The output of `--print-config` is a config file again, with the settings in force.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from gateway.settings import default_config_text, masked, names_a_secret, printable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gateway.settings import Loaded

_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def print_config(loaded: "Loaded") -> str:
    """Return the settings in force and the source of each; text that may be secret is left out."""
    return "\n".join(_lines(loaded)) + "\n"


def new_config_text(chosen: Mapping[str, object]) -> str:
    """Return the text of a new config file: all settings commented out, except ``chosen``.

    Args:
        chosen: values by the dotted name of the setting.

    Raises:
        LookupError: there is no such setting.
    """
    text = default_config_text()
    for name, value in chosen.items():
        section, _, field = name.partition(".")
        before, header, after = text.partition(f"\n[{section}]\n")
        commented = re.search(rf"(?m)^#{field} = .*$", after)
        if commented is None:
            raise LookupError(name)
        line = f"{field} = {toml_value(field, value)}"
        after = f"{after[: commented.start()]}{line}{after[commented.end() :]}"
        text = f"{before}{header}{after}"
    return text


def toml_value(name: str, value: object) -> str:
    """Return a value as TOML, in the unit that the name of the setting implies."""
    if value is None:
        return '"auto"'
    if isinstance(value, int):
        return _size(value) if name.endswith("_bytes") else str(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_item(item) for item in value)}]"
    return _text(value)


def _lines(loaded: "Loaded") -> Iterator[str]:
    yield "# The settings in force, and where each comes from."
    yield f"# config file: {printable(str(loaded.config_file or 'none'))}"
    yield f"# keys file: {printable(str(loaded.keys_file))}"
    for name in type(loaded.settings).model_fields:
        section = getattr(loaded.settings, name)
        yield ""
        if isinstance(section, tuple):
            yield from _entries(name, section, source=printable(loaded.sources[name]))
        else:
            yield f"[{name}]"
            sources = {field: loaded.sources[f"{name}.{field}"] for field in _values(section)}
            yield from _settings(_values(section), sources)


def _entries(name: str, entries: "tuple[BaseModel, ...]", *, source: str) -> Iterator[str]:
    if not entries:
        yield f"# no [[{name}]]  # {source}"
    for number, entry in enumerate(entries):
        values = {field: value for field, value in _values(entry).items() if value is not None}
        if number:
            yield ""
        yield f"[[{name}]]"
        yield from _settings(values, dict.fromkeys(values, source))


def _settings(values: Mapping[str, object], sources: Mapping[str, str]) -> Iterator[str]:
    written = {name: _assignment(name, value) for name, value in values.items()}
    width = max(map(len, written.values()), default=0)
    for name, assignment in written.items():
        yield f"{assignment:<{width}}  # {printable(sources[name])}"


def _assignment(name: str, value: object) -> str:
    if isinstance(value, str) and names_a_secret(name):
        return f"# {name} is set and not shown"
    return f"{name} = {toml_value(name, value)}"


def _item(item: object) -> str:
    if isinstance(item, str):
        return _text(item)
    fields = (f"{name} = {toml_value(name, value)}" for name, value in _values(item).items())
    return f"{{ {', '.join(fields)} }}"


def _size(size: int) -> str:
    """Return a size in the largest unit that divides it."""
    for unit, name in _UNITS:
        if size % unit == 0:
            return f'"{size // unit}{name}"'
    return str(size)


def _text(value: object) -> str:
    """Return a TOML string: the same as in JSON, except that TOML wants DEL escaped."""
    return masked(str(value)).replace("\x7f", "\\u007f")


def _values(section: object) -> dict[str, object]:
    fields: Mapping[str, object] = getattr(type(section), "model_fields", {})
    return {field: getattr(section, field) for field in fields}
