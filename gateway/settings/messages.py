"""From what pydantic found to lines for the person who wrote the settings."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from gateway.settings.redaction import shown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Origin = Callable[[str], str]
"""Where a setting, by dotted name, comes from."""

_ALIKE: Final = 0.75
"""As `difflib` counts: one or two letters wrong in a usual name."""


def lines_of(error: "ValidationError", *, known: Mapping[str, str], origin: Origin) -> list[str]:
    """One line for each mistake; for ``known`` see ``unknown_line``."""
    return [_line(detail, known, origin) for detail in error.errors(include_url=False)]


def unknown_line(name: str, *, dotted: str, known: Mapping[str, str], origin: str) -> str:
    """``known`` has the names that exist, from dotted to how they are written in that place.

    The value is left out: under a name that means nothing to us it may be a secret.
    """
    return f"{name} is not a setting{_hint(dotted, known)} ({origin})"


def _hint(dotted: str, known: Mapping[str, str]) -> str:
    table, _, leaf = dotted.rpartition(".")
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
    # A setting is not mistaken for a table, whose name is a large part of its own.
    peers = [name for name in known if ("." in name) == ("." in dotted)]
    alike = get_close_matches(dotted, peers, n=1, cutoff=_ALIKE)
    if meant := next(iter(alike + elsewhere), None):
        return f"; did you mean {known[meant]}?"
    siblings = [written for name, written in known.items() if name.rpartition(".")[0] == table]
    if siblings:
        return f"; there are {', '.join(siblings)}"
    return ""


def _line(detail: "ErrorDetails", known: Mapping[str, str], origin: Origin) -> str:
    location = detail["loc"]
    name = _name(location)
    where = origin(_setting(location))
    match detail["type"]:
        case "extra_forbidden":
            return unknown_line(name, dotted=_dotted(location), known=known, origin=where)
        case "contradiction":
            return _contradiction(name, detail.get("ctx", {}), origin)
        case "missing":
            return f"{name} is missing ({where})"
        case "model_type":
            written = "{ name = value }" if isinstance(location[-1], int) else f"[{name}]"
            return f"{name} must be a table, written as {written} ({where})"
        case "tuple_type":
            return f"{name} must be a list of tables, written as [[{name}]] ({where})"
        case _:
            value = shown(name, detail["input"])
            return f"{name} = {value} {detail['msg'].removeprefix('Value error, ')} ({where})"


def _contradiction(name: str, context: Mapping[str, object], origin: Origin) -> str:
    values = context["values"]
    why = context["why"]
    if not isinstance(values, dict) or not values:
        return f"{name} {why} ({origin(name)})"
    written = (
        f"{name}.{setting} = {shown(setting, value)} ({origin(f'{name}.{setting}')})"
        for setting, value in values.items()
    )
    return f"{' and '.join(written)}: {why}"


def _name(location: tuple[int | str, ...]) -> str:
    """As a person would say it: `timeouts.ceiling`, `models, entry 2: match`."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f", entry {part + 1}"
        else:
            name += f"{_joint(name)}{part}"
    return name


def _joint(name: str) -> str:
    if not name:
        return ""
    return ": " if name[-1].isdigit() else "."


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(part for part in location if isinstance(part, str))


def _setting(location: tuple[int | str, ...]) -> str:
    """The dotted name up to the first list: what has an origin."""
    names: list[str] = []
    for part in location:
        if isinstance(part, int):
            break
        names.append(part)
    return ".".join(names)
