"""The context window of each model in tokens, as far as Ollama tells it.

``/api/ps`` tells it for a loaded model. ``/api/show`` tells what it will be if the Modelfile sets
``num_ctx``, and the maximum that the model supports. Each fact holds for one digest: a model that
was created anew under its old name is another model.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from gateway.models.listing import UNREADABLE, Model, decoded_object, named_entries

T = TypeVar("T")

MAX_MODELS: Final = 256

_MIN_TOKENS: Final = 16
_MAX_TOKENS: Final = 100_000_000
"""Numbers outside of these bounds are ignored."""


class _ShowBody(msgspec.Struct):
    parameters: object = None
    model_info: Mapping[str, msgspec.Raw] = {}


_show_body: Final = msgspec.json.Decoder(_ShowBody)
_number: Final = msgspec.json.Decoder(int)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelfileParams:
    """What ``/api/show`` says: the context that the Modelfile sets, and the model's maximum."""

    num_ctx: int | None = None
    maximum: int | None = None


_UNKNOWN: Final = ModelfileParams()


@dataclass(frozen=True, slots=True)
class _Listed:
    """What ``/api/ps`` said of one model: last, and at most."""

    digest: str
    last: int
    largest: int


_NEVER_LISTED: Final = _Listed("", 0, 0)


class ContextWindows:
    """Remembers what one Ollama said about contexts. All methods are synchronous."""

    def __init__(self, *, max_models: int = MAX_MODELS) -> None:
        self._max_models = max_models
        # All mutable state: by name, each with the digest it holds for, the oldest first.
        self._listed: OrderedDict[str, _Listed] = OrderedDict()
        self._params: OrderedDict[str, tuple[str, ModelfileParams]] = OrderedDict()
        self._overlong: OrderedDict[str, tuple[str, int]] = OrderedDict()
        # Models that are loaded, or will be, with a context that a request asked for.
        self._custom: OrderedDict[str, bool] = OrderedDict()

    def __repr__(self) -> str:
        known = ", ".join(f"{name} {listed.last}" for name, listed in self._listed.items())
        return f"<ContextWindows {known or 'nothing'}>"

    # What is learned.

    def update_from_ps(self, body: bytes) -> None:
        """Take over a body of ``/api/ps``, except for models with a custom context.

        Raises:
            UpstreamProtocolError: the body is not Ollama's.
        """
        for name, entry in named_entries(decoded_object(body, "/api/ps"), "/api/ps"):
            context, digest = _plausible(entry.get("context_length")), entry.get("digest")
            if context is not None and name not in self._custom:
                digest = digest if isinstance(digest, str) else ""
                before = self._listed.get(name, _NEVER_LISTED)
                largest = max(before.largest, context) if before.digest == digest else context
                self._keep(self._listed, name, _Listed(digest, context, largest))

    def update_from_show(self, model: Model, body: bytes) -> None:
        """Take over a body of ``/api/show``; one that cannot be read says nothing."""
        try:
            shown = _show_body.decode(body)
            maximum = _maximum(shown.model_info)
        except UNREADABLE:
            shown, maximum = _ShowBody(), None
        params = ModelfileParams(num_ctx=_num_ctx(shown.parameters), maximum=maximum)
        self._keep(self._params, model.name, (model.digest, params))

    def note_custom_context(self, model: Model) -> None:
        """Note that a request asks for a context of its own; the next request does not get it."""
        self._keep(self._custom, model.name, True)

    def note_default_context(self, model: Model) -> None:
        """Note that a request without ``num_ctx`` was served: the default context is loaded."""
        self._custom.pop(model.name, None)

    def note_overlong_prompt(self, model: Model, tokens: int) -> None:
        """Note a prompt of at most ``tokens`` that did not fit."""
        longest = max(self.longest_prompt(model) or 0, tokens)
        self._keep(self._overlong, model.name, (model.digest, longest))

    def forget(self) -> None:
        """Forget ``/api/ps``: Ollama may have restarted with another default context."""
        self._listed.clear()

    # What is known.

    def longest_prompt(self, model: Model) -> int | None:
        """Return the longest of the prompts that did not fit, None if there is none."""
        digest, tokens = self._overlong.get(model.name, ("", 0))
        return tokens if tokens and digest == model.digest else None

    def knows_params(self, model: Model) -> bool:
        """Return True if ``update_from_show`` was called for this digest."""
        return self._params.get(model.name, ("", _UNKNOWN))[0] == model.digest

    def in_force(self, model: Model, *, num_ctx: int | None = None) -> int | None:
        """Return the context of a request, None if it is unknown.

        What ``/api/ps`` said last holds until it says otherwise: the next load is like the last.

        Args:
            model: the model of the request.
            num_ctx: what the request asks for, None if it does not.
        """
        listed = self._listed.get(model.name, _NEVER_LISTED)
        if num_ctx is None and listed.last and listed.digest == model.digest:
            return listed.last
        context = self._params_of(model).num_ctx if num_ctx is None else num_ctx
        if context is None:
            return None
        maximum = self.maximum(model)
        return context if maximum is None else min(context, maximum)

    def upper_bound(self, model: Model, *, num_ctx: int | None = None) -> int | None:
        """Return the largest context that a request may get, None if it is unknown.

        It is larger than ``in_force`` if another client loaded the model with a small context for
        a request of its own, which a request without ``num_ctx`` does not get.
        """
        listed = self._listed.get(model.name, _NEVER_LISTED)
        if num_ctx is None and listed.last and listed.digest == model.digest:
            return max(listed.largest, self._params_of(model).num_ctx or 0)
        return self.in_force(model, num_ctx=num_ctx)

    def maximum(self, model: Model) -> int | None:
        """Return the largest context that the model supports, None if it is unknown."""
        details = model.raw.get("details")
        listed = details.get("context_length") if isinstance(details, Mapping) else None
        return self._params_of(model).maximum or _plausible(listed)

    # Inside.

    def _params_of(self, model: Model) -> ModelfileParams:
        digest, params = self._params.get(model.name, ("", _UNKNOWN))
        return params if digest == model.digest else _UNKNOWN

    def _keep(self, kept: OrderedDict[str, T], name: str, value: T) -> None:
        kept[name] = value
        kept.move_to_end(name)
        while len(kept) > self._max_models:
            kept.popitem(last=False)


def _maximum(info: Mapping[str, msgspec.Raw]) -> int | None:
    """Return the number under ``<architecture>.context_length``."""
    numbers = [raw for key, raw in info.items() if key.endswith(".context_length")]
    return _plausible(_number.decode(numbers[0])) if numbers else None


def _num_ctx(parameters: object) -> int | None:
    """Return ``num_ctx`` of ``parameters``, a text with a name and a value on each line."""
    if not isinstance(parameters, str):
        return None
    for line in parameters.splitlines():
        name, _, value = line.strip().partition(" ")
        # More digits than a context can have would take long to convert.
        if name == "num_ctx" and value.strip().isdecimal() and len(value.strip()) < 12:
            return _plausible(int(value))
    return None


def _plausible(value: object) -> int | None:
    return value if isinstance(value, int) and _MIN_TOKENS <= value <= _MAX_TOKENS else None
