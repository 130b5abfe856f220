"""What calls took, per model, and how dense their prompts were, learned from those that ended.

Ollama's own durations count where it sends them (native calls). Elsewhere a stream's first byte
tells of load and prompt together, an answer in one piece only of everything together; what was
learned before divides them. A call that a clock of ours cut says "at least so long".
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.dialects import Timings
from gateway.models.estimates import at_least, is_plausible, observed
from gateway.timeouts import Estimate, LearnedTimes

N = TypeVar("N", int, float)

MOST_MODELS: Final = 256

SHORTEST_LOAD: Final = 0.25
"""Seconds. Ollama reports milliseconds of "loading" for a model that is loaded; whatever takes no
longer than this was no load."""

_SHORTEST_SPAN: Final = 1e-3
_NOTHING: Final = Estimate()


class Observation(Struct, frozen=True, kw_only=True):
    """One call that was at Ollama, after it ended. Times are in seconds.

    ``resident_before``: the model was proven to be loaded when the call was sent.
    ``waited_for_first_byte`` is there for a stream that had one; ``service`` runs from sent to the
    last byte, or to where it was cut. ``complete``: the answer was whole and good; ``timed_out``:
    a clock of ours ended it. A call that is neither still tells when its first byte came.
    """

    model: str
    resident_before: bool
    streaming: bool
    service: float
    waited_for_first_byte: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    timings: Timings | None = None
    complete: bool = False
    timed_out: bool = False


class ModelStats(Struct, frozen=True, kw_only=True):
    """What is known of one model on this machine; an estimate of count 0 is not known.

    ``load`` and ``first_byte`` (of a stream, from sent) and ``service`` (sent to last byte) are in
    seconds, the latter two without the load; rates are tokens per second. ``bytes_per_token`` is of
    the text of prompts that were read whole.
    """

    load: Estimate = _NOTHING
    first_byte: Estimate = _NOTHING
    service: Estimate = _NOTHING
    prompt_rate: Estimate = _NOTHING
    generation_rate: Estimate = _NOTHING
    answer_tokens: Estimate = _NOTHING
    bytes_per_token: Estimate = _NOTHING


class Statistics:
    """The figures of the ``most`` models that were observed last."""

    def __init__(self, *, most: int = MOST_MODELS) -> None:
        self._most = most
        # All mutable state; in the order of their last observation.
        self._models: OrderedDict[str, ModelStats] = OrderedDict()
        self._observations = 0

    def __repr__(self) -> str:
        return f"<Learned {len(self._models)} models, {self._observations} observations>"

    @property
    def observations(self) -> int:
        """How many calls were learned from since the start: tells whether there is news."""
        return self._observations

    def observe(self, seen: Observation) -> None:
        """Learn from one call. Numbers that no call has, whoever sent them, count as unknown."""
        if is_plausible(seen.service):
            known = self._models.get(seen.model, ModelStats())
            self._keep(seen.model, _learn(known, _credible(seen)))

    def observe_density(self, model: str, bytes_per_token: float) -> None:
        """Learn from one prompt how many bytes of text a token stands for."""
        if is_plausible(bytes_per_token):
            known = self._models.get(model, ModelStats())
            density = observed(known.bytes_per_token, bytes_per_token)
            self._keep(model, replace(known, bytes_per_token=density))

    def density(self, model: str) -> Estimate:
        """Bytes of text for each token of a prompt; of count 0 where nothing is known."""
        known = self._models.get(model)
        return _NOTHING if known is None else known.bytes_per_token

    def figures(self, model: str) -> ModelStats | None:
        return self._models.get(model)

    def times(self, model: str) -> LearnedTimes | None:
        """The same as far as clocks are decided by it."""
        known = self._models.get(model)
        if known is None:
            return None
        return LearnedTimes(load=known.load, first_byte=known.first_byte, total=known.service)

    def expected_service(self, model: str, *, resident: bool) -> Estimate | None:
        """Seconds from sent to last byte, with a load unless ``resident``; None is unknown.

        A load that was never seen counts nothing.
        """
        known = self._models.get(model)
        if known is None or known.service.count == 0:
            return None
        return known.service if resident else known.load.plus(known.service)

    def snapshot(self) -> dict[str, ModelStats]:
        """Everything, as ``restore`` takes it; the model observed last stands last."""
        return dict(self._models)

    def restore(self, figures: Mapping[str, ModelStats]) -> None:
        """Begin with these, instead of what there is."""
        self._models = OrderedDict(figures)
        self._forget_oldest()

    def _keep(self, model: str, figures: ModelStats) -> None:
        self._models[model] = figures
        self._models.move_to_end(model)
        self._observations += 1
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._models) > self._most:
            self._models.popitem(last=False)


def _credible(seen: Observation) -> Observation:
    """The observation without what is implausible: counts and durations are Ollama's words."""
    told = seen.timings
    return replace(
        seen,
        waited_for_first_byte=_plausible(seen.waited_for_first_byte),
        tokens_in=_plausible(seen.tokens_in),
        tokens_out=_plausible(seen.tokens_out),
        timings=told
        and Timings(
            load_duration=_plausible(told.load_duration),
            prompt_eval_count=_plausible(told.prompt_eval_count),
            prompt_eval_duration=_plausible(told.prompt_eval_duration),
            eval_count=_plausible(told.eval_count),
            eval_duration=_plausible(told.eval_duration),
        ),
    )


def _plausible(value: N | None) -> N | None:
    return value if is_plausible(value) else None


def _learn(known: ModelStats, seen: Observation) -> ModelStats:
    load = _load_of(known, seen)
    wait = None if seen.waited_for_first_byte is None else _without(load, seen)
    if load is not None and load >= SHORTEST_LOAD:
        known = replace(known, load=observed(known.load, load))
    if wait is not None:
        known = replace(known, first_byte=observed(known.first_byte, wait))
    if seen.complete:
        return _learn_rates(_learn_service(known, seen, load), seen, wait)
    return _learn_from_cut(known, seen, load) if seen.timed_out else known


def _load_of(known: ModelStats, seen: Observation) -> float | None:
    """Seconds that this call spent loading its model: 0 if none, None if that cannot be told."""
    if seen.timings is not None and seen.timings.load_duration is not None:
        return seen.timings.load_duration
    if seen.resident_before:
        return 0.0
    if seen.waited_for_first_byte is not None:
        load = seen.waited_for_first_byte - _usual_prompt(known, seen)
    elif seen.complete and known.service.count:
        load = seen.service - _usual_service(known, seen)
    else:
        return None
    return load if load >= SHORTEST_LOAD else 0.0


def _usual_prompt(known: ModelStats, seen: Observation) -> float:
    if seen.tokens_in and known.prompt_rate.mean > 0.0:
        return seen.tokens_in / known.prompt_rate.mean
    return known.first_byte.mean


def _usual_service(known: ModelStats, seen: Observation) -> float:
    """What an answer of this length takes of a loaded model."""
    if seen.tokens_out and known.answer_tokens.mean > 0.0:
        return known.service.mean * seen.tokens_out / known.answer_tokens.mean
    return known.service.mean


def _without(load: float | None, seen: Observation) -> float | None:
    """The wait for the first byte less a load that is known for itself."""
    told = seen.timings is not None and seen.timings.load_duration is not None
    waited = seen.waited_for_first_byte
    if waited is None or load is None or (load and not told):
        return None
    return max(0.0, waited - load)


def _learn_service(known: ModelStats, seen: Observation, load: float | None) -> ModelStats:
    service = max(0.0, seen.service - (load or 0.0))
    known = replace(known, service=observed(known.service, service))
    if seen.tokens_out:
        tokens = observed(known.answer_tokens, float(seen.tokens_out))
        known = replace(known, answer_tokens=tokens)
    return known


def _learn_rates(known: ModelStats, seen: Observation, wait: float | None) -> ModelStats:
    prompt, generation = _told_rates(seen.timings)
    waited = seen.waited_for_first_byte
    if seen.timings is None and waited is not None:
        prompt = _rate(seen.tokens_in, wait)
        # The first token came with the first byte.
        generation = _rate((seen.tokens_out or 1) - 1, seen.service - waited)
    if prompt is not None:
        known = replace(known, prompt_rate=observed(known.prompt_rate, prompt))
    if generation is not None:
        known = replace(known, generation_rate=observed(known.generation_rate, generation))
    return known


def _told_rates(timings: Timings | None) -> tuple[float | None, float | None]:
    if timings is None:
        return None, None
    prompt = _rate(timings.prompt_eval_count, timings.prompt_eval_duration)
    return prompt, _rate(timings.eval_count, timings.eval_duration)


def _rate(tokens: int | None, span: float | None) -> float | None:
    if not tokens or span is None or span < _SHORTEST_SPAN:
        return None
    rate = tokens / span
    return rate if is_plausible(rate) else None


def _learn_from_cut(known: ModelStats, seen: Observation, load: float | None) -> ModelStats:
    """It took longer than our clock allowed. Before the first sign of life of a model that had to
    be loaded, that is put down to the load.
    """
    if load is None:
        usual = known.first_byte if seen.streaming else known.service
        return replace(known, load=at_least(known.load, max(0.0, seen.service - usual.mean)))
    if seen.streaming and seen.waited_for_first_byte is None:
        known = replace(known, first_byte=at_least(known.first_byte, seen.service))
    return replace(known, service=at_least(known.service, max(0.0, seen.service - load)))
