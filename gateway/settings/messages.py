"""What is wrong with the settings, as lines for the person who wrote them, without secrets."""

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Origin = Callable[[str], str]
"""Returns where a setting, by dotted name, comes from."""

_HIDDEN: Final = "***"
_MAX_SHOWN: Final = 100
"""Characters of a value."""
_SIMILARITY: Final = 0.75
"""As difflib computes it: one or two letters wrong in a usual name."""

_SECRET_NAME: Final = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
# Up to the last @: an unencoded password can hold slashes, blanks and more of them.
_USERINFO: Final = re.compile(r"//.*@")
_USERINFO_WITHOUT_SCHEME: Final = re.compile(r'^"(?!\w+://).*:.*@')
_KEY: Final = re.compile(r"ogw_[\w-]{16,}")

_TOML_POSITION: Final = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|.*)\)"
)
_TOML_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Invalid value": 'text and durations need quotes, such as "info" and "5m"',
        "Expected newline": 'text and durations need quotes, such as "info" and "5m"',
        "Expected '=' after": "write a setting as name = value",
        "Cannot declare": "put all settings of that [section] below one such line",
        "Cannot overwrite": "remove the second line with that name",
    }
)
"""What to do about an error of tomllib, by the beginning of its message."""


class SettingsError(Exception):
    """The settings cannot be used: ``lines`` has one readable line for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [printable(line) for line in lines]
        super().__init__("\n".join(self.lines))


class ConfigFileMissing(SettingsError):
    """The config file given by name does not exist; ``path`` is where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__([f"{path} does not exist"])
        self.path = path


def names_a_secret(name: str) -> bool:
    """Return True if the last part of a dotted name is that of a secret; ``keys.file`` is not."""
    return _SECRET_NAME.search(name.rpartition(".")[2]) is not None


def masked(value: object) -> str:
    """Return a value as JSON, without credentials in URLs and without keys."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _KEY.sub(_HIDDEN, _USERINFO.sub(f"//{_HIDDEN}@", text))


def printable(text: str) -> str:
    """Return the text as one line: names and paths can contain line breaks and escape codes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def validation_lines(
    error: "ValidationError", *, known: Mapping[str, str], origin: Origin
) -> list[str]:
    """Return one line for each mistake that pydantic found; for ``known`` see unknown_line."""
    return [_line(detail, known, origin) for detail in error.errors(include_url=False)]


def unknown_line(name: str, *, dotted: str, known: Mapping[str, str], origin: str) -> str:
    """Return the line for a name that is not a setting.

    The value is left out: nothing tells whether it is a secret.

    Args:
        name: the name as written.
        dotted: the same as ``section.setting``.
        known: the existing names, from dotted to how they are written in that place.
        origin: where it is written.
    """
    return f"{name} is not a setting{_suggestion(dotted, known)} ({origin})"


def toml_line(path: Path, error: str) -> str:
    """Return the line for a file that is not valid TOML. ``error`` is the message of tomllib."""
    found = _TOML_POSITION.fullmatch(error)
    what = error if found is None else found["what"]
    hint = next((f"; {hint}" for start, hint in _TOML_HINTS.items() if what.startswith(start)), "")
    position = ""
    if found is not None and found["line"] is None:
        position = ", at the end of the file"
    elif found is not None:
        position = f", line {found['line']}, column {found['column']}"
    return f"{path}{position}: is not valid TOML: {what}{hint}"


def _suggestion(dotted: str, known: Mapping[str, str]) -> str:
    section, _, leaf = dotted.rpartition(".")
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    # Only names of the same depth: a section is always similar to the settings in it.
    peers = [name for name in known if ("." in name) == ("." in dotted)]
    similar = get_close_matches(dotted, peers, n=1, cutoff=_SIMILARITY)
    if meant := next(iter(similar + same_leaf), None):
        return f"; did you mean {known[meant]}?"
    siblings = [written for name, written in known.items() if name.rpartition(".")[0] == section]
    return f"; there are {', '.join(siblings)}" if siblings else ""


def _line(detail: "ErrorDetails", known: Mapping[str, str], origin: Origin) -> str:
    location = detail["loc"]
    name = _name(location)
    where = origin(_setting(location))
    value = _shown(name, detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            dotted = ".".join(part for part in location if isinstance(part, str))
            return unknown_line(name, dotted=dotted, known=known, origin=where)
        case "contradiction":
            return _contradiction(name, detail.get("ctx", {}), origin)
        case "missing":
            what = f"{name} is missing"
        case "model_type":
            inline = isinstance(location[-1], int)
            shape = (
                "table, written as { name = value }" if inline else f"section, written as [{name}]"
            )
            what = f"{name} must be a {shape}"
        case "tuple_type":
            what = f"{name} must be a list of sections, written as [[{name}]]"
        case "literal_error":
            allowed = detail["ctx"]["expected"].replace("'", '"')
            what = f"{name} = {value} must be {allowed}"
        case _:
            what = f"{name} = {value} {detail['msg'].removeprefix('Value error, ')}"
    return f"{what} ({where})"


def _contradiction(name: str, context: Mapping[str, object], origin: Origin) -> str:
    values = context["values"]
    why = context["why"]
    if not isinstance(values, dict) or not values:
        return f"{name} {why} ({origin(name)})"
    written = (
        f"{name}.{setting} = {_shown(setting, value)} ({origin(f'{name}.{setting}')})"
        for setting, value in values.items()
    )
    return f"{' and '.join(written)}: {why}"


def _shown(name: str, value: object) -> str:
    """Return a value as JSON, masked and short; nothing of one whose name is that of a secret."""
    if isinstance(value, str) and names_a_secret(name):
        return f'"{_HIDDEN}"'
    text = _USERINFO_WITHOUT_SCHEME.sub(f'"{_HIDDEN}@', masked(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _name(location: tuple[int | str, ...]) -> str:
    """Return a location in words: `timeouts.ceiling`, `models, entry 2: match`."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f", entry {part + 1}"
        else:
            separator = ": " if name[-1:].isdigit() else "." if name else ""
            name += f"{separator}{part}"
    return name


def _setting(location: tuple[int | str, ...]) -> str:
    """Return the dotted name up to the first list: sources are known for settings, not entries."""
    names: list[str] = []
    for part in location:
        if isinstance(part, int):
            break
        names.append(part)
    return ".".join(names)
