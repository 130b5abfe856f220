"""How long a prompt each model reads: its context in force, in tokens, as far as Ollama says.

``/api/ps`` tells it of a model that is loaded, ``/api/show`` what it will be where the model itself
sets ``num_ctx``, and the longest that the model can do. Each holds for one digest: a model made
anew under its old name is another one.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from gateway.models.listing import UNREADABLE, Model, decoded_object, named_entries

T = TypeVar("T")

MOST_MODELS: Final = 256

_LEAST: Final = 16
_LARGEST: Final = 100_000_000
"""Tokens. What is outside is nonsense, whoever says it."""


class _Shown(msgspec.Struct):
    parameters: object = None
    model_info: Mapping[str, msgspec.Raw] = {}


_shown: Final = msgspec.json.Decoder(_Shown)
_number: Final = msgspec.json.Decoder(int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What a model says of itself: the context that it asks for, and the longest that it can do."""

    num_ctx: int | None = None
    longest: int | None = None


_UNKNOWN: Final = Own()


@dataclass(frozen=True, slots=True)
class _Listed:
    """What ``/api/ps`` said of one model last, and the most that it said."""

    digest: str
    last: int
    most: int


_NEVER: Final = _Listed("", 0, 0)


class ContextWindows:
    """Remembers what Ollama said; all of it synchronous."""

    def __init__(self, *, most: int = MOST_MODELS) -> None:
        self._most = most
        # All mutable state: by name, with the digest that it holds for; the oldest first.
        self._listed: OrderedDict[str, _Listed] = OrderedDict()
        self._own: OrderedDict[str, tuple[str, Own]] = OrderedDict()
        self._too_long: OrderedDict[str, tuple[str, int]] = OrderedDict()
        # And the models that are loaded, or will be, as somebody wanted it for himself.
        self._tuned: OrderedDict[str, bool] = OrderedDict()

    def __repr__(self) -> str:
        known = ", ".join(f"{name} {listed.last}" for name, listed in self._listed.items())
        return f"<Contexts {known or 'nothing'}>"

    def listed(self, body: bytes) -> None:
        """Take over an answer of ``/api/ps``, but for models that are ``tuned``.

        Raises ``UpstreamProtocolError`` where it is not Ollama's.
        """
        for name, entry in named_entries(decoded_object(body, "/api/ps"), "/api/ps"):
            context, digest = _plausible(entry.get("context_length")), entry.get("digest")
            if context is not None and name not in self._tuned:
                digest = digest if isinstance(digest, str) else ""
                before = self._listed.get(name, _NEVER)
                most = max(before.most, context) if before.digest == digest else context
                self._keep(self._listed, name, _Listed(digest, context, most))

    def shown(self, model: Model, body: bytes) -> None:
        """Take over an answer of ``/api/show``; one that cannot be read says nothing."""
        try:
            told = _shown.decode(body)
            longest = _longest(told.model_info)
        except UNREADABLE:
            told, longest = _Shown(), None
        own = Own(num_ctx=_num_ctx(told.parameters), longest=longest)
        self._keep(self._own, model.name, (model.digest, own))

    def forget(self) -> None:
        """Ollama may have been started anew, with another context for all models."""
        self._listed.clear()

    def tuned(self, model: Model) -> None:
        """A call is sent that asks for a context of its own: the next one does not get that."""
        self._keep(self._tuned, model.name, True)

    def plain(self, model: Model) -> None:
        """A call was answered that asked for none: what is loaded now has the usual context."""
        self._tuned.pop(model.name, None)

    def too_long(self, model: Model, tokens: int) -> None:
        """A prompt of at most so many tokens did not fit."""
        longest = max(self.longest_prompt(model) or 0, tokens)
        self._keep(self._too_long, model.name, (model.digest, longest))

    def longest_prompt(self, model: Model) -> int | None:
        """The longest of the prompts that did not fit, in tokens; None if it is not known."""
        digest, tokens = self._too_long.get(model.name, ("", 0))
        return tokens if tokens and digest == model.digest else None

    def knows(self, model: Model) -> bool:
        """Whether ``shown`` was told of the model."""
        return self._own.get(model.name, ("", _UNKNOWN))[0] == model.digest

    def in_force(self, model: Model, *, num_ctx: int | None = None) -> int | None:
        """The context of a call to the model, None if unknown; ``num_ctx``: the call asks for it.

        What Ollama last listed holds until it says otherwise: the next load is like the last one.
        """
        listed = self._listed.get(model.name, _NEVER)
        if num_ctx is None and listed.last and listed.digest == model.digest:
            return listed.last
        found = self._of(model).num_ctx if num_ctx is None else num_ctx
        if found is None:
            return None
        longest = self.longest(model)
        return found if longest is None else min(found, longest)

    def at_most(self, model: Model, *, num_ctx: int | None = None) -> int | None:
        """The same at its largest: somebody else may have loaded the model with a smaller one for
        himself, and a call that asks for none does not get that.
        """
        listed = self._listed.get(model.name, _NEVER)
        if num_ctx is None and listed.last and listed.digest == model.digest:
            return max(listed.most, self._of(model).num_ctx or 0)
        return self.in_force(model, num_ctx=num_ctx)

    def longest(self, model: Model) -> int | None:
        """The most that the model itself can do, if that is known."""
        details = model.raw.get("details")
        listed = details.get("context_length") if isinstance(details, Mapping) else None
        return self._of(model).longest or _plausible(listed)

    def _of(self, model: Model) -> Own:
        digest, own = self._own.get(model.name, ("", _UNKNOWN))
        return own if digest == model.digest else _UNKNOWN

    def _keep(self, kept: OrderedDict[str, T], name: str, value: T) -> None:
        kept[name] = value
        kept.move_to_end(name)
        while len(kept) > self._most:
            kept.popitem(last=False)


def _longest(info: Mapping[str, msgspec.Raw]) -> int | None:
    """The number under ``<architecture>.context_length``."""
    told = [raw for key, raw in info.items() if key.endswith(".context_length")]
    return _plausible(_number.decode(told[0])) if told else None


def _num_ctx(parameters: object) -> int | None:
    """Of ``parameters``, a text with a name and a value in each line."""
    if not isinstance(parameters, str):
        return None
    for line in parameters.splitlines():
        name, _, value = line.strip().partition(" ")
        # More digits than it can have would take long to read.
        if name == "num_ctx" and value.strip().isdecimal() and len(value.strip()) < 12:
            return _plausible(int(value))
    return None


def _plausible(value: object) -> int | None:
    return value if isinstance(value, int) and _LEAST <= value <= _LARGEST else None
