"""What `serve --print-config` prints: the settings in force and where each comes from, as TOML.

The output is a config file again: whoever saves it has what is in force now.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from gateway.settings import masked, names_a_secret, printable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gateway.settings import Loaded

_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def print_config(loaded: "Loaded") -> str:
    """The text, with a line break at its end; texts that may be secrets are left out of it."""
    return "\n".join(_lines(loaded)) + "\n"


def _lines(loaded: "Loaded") -> Iterator[str]:
    yield "# The settings in force, and where each comes from."
    yield f"# config file: {printable(str(loaded.config_file or 'none'))}"
    yield f"# keys file: {printable(str(loaded.keys_file))}"
    for name in type(loaded.settings).model_fields:
        table = getattr(loaded.settings, name)
        yield ""
        if isinstance(table, tuple):
            yield from _entries(name, table, origin=printable(loaded.sources[name]))
        else:
            yield f"[{name}]"
            origins = {field: loaded.sources[f"{name}.{field}"] for field in _values(table)}
            yield from _settings(_values(table), origins)


def _entries(name: str, entries: "tuple[BaseModel, ...]", *, origin: str) -> Iterator[str]:
    if not entries:
        yield f"# no [[{name}]]  # {origin}"
    for number, entry in enumerate(entries):
        values = {field: value for field, value in _values(entry).items() if value is not None}
        if number:
            yield ""
        yield f"[[{name}]]"
        yield from _settings(values, dict.fromkeys(values, origin))


def _settings(values: Mapping[str, object], origins: Mapping[str, str]) -> Iterator[str]:
    written = {name: _assignment(name, value) for name, value in values.items()}
    width = max(map(len, written.values()), default=0)
    for name, assignment in written.items():
        yield f"{assignment:<{width}}  # {printable(origins[name])}"


def _assignment(name: str, value: object) -> str:
    if isinstance(value, str) and names_a_secret(name):
        return f"# {name} is set and not shown"
    return f"{name} = {toml_value(name, value)}"


def toml_value(name: str, value: object) -> str:
    """A setting's value as TOML has it, in the units that its name asks for."""
    if value is None:
        return '"auto"'
    if isinstance(value, int) and name.endswith("_bytes"):
        return _size(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_item(item) for item in value)}]"
    return _text(value)


def _item(item: object) -> str:
    if isinstance(item, str):
        return _text(item)
    fields = (f"{name} = {toml_value(name, value)}" for name, value in _values(item).items())
    return f"{{ {', '.join(fields)} }}"


def _size(size: int) -> str:
    """In the largest unit that divides it."""
    for unit, name in _UNITS:
        if size % unit == 0:
            return f'"{size // unit}{name}"'
    return str(size)


def _text(value: object) -> str:
    """TOML's basic strings are JSON's, but for one character that TOML wants escaped."""
    return masked(str(value)).replace("\x7f", "\\u007f")


def _values(table: object) -> dict[str, object]:
    fields: Mapping[str, object] = getattr(type(table), "model_fields", {})
    return {field: getattr(table, field) for field in fields}
