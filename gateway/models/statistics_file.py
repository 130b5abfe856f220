"""Keeps what was learned over a restart, in a file that may be lost at any time.

It holds names of models and how fast they are: no prompts, no callers. Whatever is wrong with it
is told in one line, and then it is as if it were not there. A file that is not ours is never
written over: the path may be a mistake.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Never

import msgspec

from gateway.models.estimates import is_plausible
from gateway.models.listing import UNREADABLE
from gateway.models.statistics import MOST_MODELS, ModelStats, Statistics

SAVE_EVERY: Final = 60.0
"""Seconds between two writings at the least."""

MOST_BYTES: Final = 1024 * 1024
"""256 models with names of the longest letters take less."""

_KIND: Final = "ollama-gateway learned figures"
_VERSION: Final = 1
_LONGEST_NAME: Final = 600
_MOST_OBSERVATIONS: Final = 1 << 53
"""More than any gateway lives to see; JSON's numbers can have thousands of digits."""


class _State(msgspec.Struct):
    # In this order, so that a file of ours is known by its first bytes even when it is cut short.
    kind: str
    version: int
    host: str
    models: dict[str, ModelStats]


_OURS: Final = msgspec.json.encode({"kind": _KIND})[:-1]


class _Unusable(Exception):
    """What is wrong with the file, and what to do if anything."""


class LearnedFile:
    """Reads ``learned`` from ``path`` once, and writes it there.

    ``host`` names the Ollama that the figures are of (without credentials, for it stands in the
    file); those of another one are not taken over. ``report`` is told what is wrong, on one line,
    and not again until something else is.
    """

    def __init__(
        self, path: Path, statistics: Statistics, *, host: str, report: Callable[[str], None]
    ) -> None:
        self._path = path
        self._learned = statistics
        self._host = host
        self._report = report
        # All mutable state. ``_saved`` is how much had been learned at the last writing;
        # ``_foreign``: what is there may be somebody else's, so nothing is ever written.
        self._saved = statistics.observations
        self._foreign = False
        self._told = ""

    def __repr__(self) -> str:
        state = "foreign" if self._foreign else "clean" if self._is_saved() else "to be saved"
        return f"<LearnedFile {self._path} {state}>"

    def load(self) -> None:
        """Take over what the file holds, if it is there, whole and ours."""
        try:
            figures = self._read()
        except FileNotFoundError:
            return
        except OSError as error:
            self._foreign = True
            self._tell(f"cannot be read: {error.strerror}. Nothing is kept over a restart")
        except _Unusable as unusable:
            self._tell(str(unusable))
        else:
            self._learned.restore(figures)

    def save(self) -> None:
        """Write the file, whole or not at all, if there is anything new to keep."""
        if self._foreign or self._is_saved():
            return
        observations = self._learned.observations
        try:
            self._write(self._encoded())
        except OSError as error:
            self._tell(f"cannot be written: {error.strerror}. What is learned ends with this run")
        else:
            self._saved = observations
            self._told = ""

    async def run(self) -> Never:
        """Save now and then. The last time is the caller's: ``save`` when everything has ended."""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            self.save()

    def _is_saved(self) -> bool:
        return self._saved == self._learned.observations

    def _read(self) -> dict[str, ModelStats]:
        # Opening a pipe would wait for a writer.
        if self._path.exists() and not self._path.is_file():
            self._foreign = True
            raise _Unusable("is no file. Nothing is kept over a restart")
        with self._path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if content and not content.startswith(_OURS):
            self._foreign = True
            raise _Unusable(
                "holds something else and is left alone. Nothing is kept over a restart"
            )
        return self._checked(content)

    def _checked(self, content: bytes) -> dict[str, ModelStats]:
        if len(content) > MOST_BYTES:
            raise _Unusable("is too big to be right and was ignored")
        try:
            version = msgspec.json.decode(content, type=_Version).version
            if version != _VERSION:
                raise _Unusable(
                    f"is of version {version}, which is not known here, and was ignored"
                )
            state = msgspec.json.decode(content, type=_State)
        except UNREADABLE:
            raise _Unusable("is broken and was ignored") from None
        if state.host != self._host:
            raise _Unusable("is about another Ollama and was ignored")
        sound = all(_is_sound(name, figures) for name, figures in state.models.items())
        if not sound or len(state.models) > MOST_MODELS:
            raise _Unusable("is broken and was ignored")
        return state.models

    def _encoded(self) -> bytes:
        models = {
            name: figures
            for name, figures in self._learned.snapshot().items()
            if len(name) <= _LONGEST_NAME
        }
        return msgspec.json.encode(_State(_KIND, _VERSION, self._host, models))

    def _write(self, content: bytes) -> None:
        # Not forced to the disk: a power cut may take it.
        descriptor, name = tempfile.mkstemp(
            dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".new"
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, self._path)  # noqa: PTH105  - the name comes from mkstemp
        except BaseException:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108  - as above
            raise

    def _tell(self, trouble: str) -> None:
        if trouble != self._told:
            self._told = trouble
            self._report(f"{self._path} {trouble}.")


class _Version(msgspec.Struct):
    version: int


def _is_sound(name: str, figures: ModelStats) -> bool:
    estimates = (getattr(figures, field) for field in ModelStats.__struct_fields__)
    return len(name) <= _LONGEST_NAME and all(
        is_plausible(one.mean)
        and is_plausible(one.deviation)
        and 0 <= one.count < _MOST_OBSERVATIONS
        for one in estimates
    )
