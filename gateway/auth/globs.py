"""Which model names a list of globs means."""

import fnmatch
import re
from dataclasses import dataclass, field
from typing import Final

EVERY: Final = ("*",)
DEFAULT_TAG: Final = ":latest"


@dataclass(frozen=True, slots=True)
class ModelGlobs:
    """Globs over canonical model names: ``*`` is any text, ``?`` one character, all else itself.

    Ollama reads names without regard to case and takes ``foo`` for ``foo:latest``, so a glob for
    one holds the other; ``foo`` is not ``foo:7b``.
    """

    globs: tuple[str, ...]
    _every: bool = field(init=False, repr=False, compare=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Both are derived once, because a key's globs are asked on every request.
        every = "*" in self.globs
        object.__setattr__(self, "_every", every)
        object.__setattr__(self, "_pattern", _compiled(() if every else self.globs))

    def matches(self, model: str) -> bool:
        if self._every:
            return True
        return any(map(self._pattern.fullmatch, _spellings(model.casefold())))


def _spellings(name: str) -> tuple[str, ...]:
    """The name as it is, and with or without the default tag where that means the same."""
    if name.endswith(DEFAULT_TAG):
        return (name, name.removesuffix(DEFAULT_TAG))
    # A colon before the last slash belongs to a registry's port.
    if ":" in name.rpartition("/")[2]:
        return (name,)
    return (name, name + DEFAULT_TAG)


def _compiled(globs: tuple[str, ...]) -> re.Pattern[str]:
    # fnmatch's own translation cannot backtrack, which matters because callers choose the names;
    # of its wildcards the bracket is not ours.
    literal = (glob.casefold().replace("[", "[[]") for glob in globs)
    return re.compile("|".join(map(fnmatch.translate, literal)) or r"(?!)")
