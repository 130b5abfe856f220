"""What requests to each model of one Ollama took, and how dense their prompts were.

There are two sources. The scheduler records how long a request used its slot, with and without a
load. The pipeline records an ``Observation`` of each request that ended: Ollama's own durations
count where it sends them (native API). Elsewhere the first byte of a stream comes after load and
prompt together, a complete response after everything together; what was learned before divides
them. A request that reached a timeout of the gateway took "at least so long".
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Final, Never, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.dialects import Timings
from gateway.estimate import Estimate, is_plausible
from gateway.files import replace_file
from gateway.models.listing import UNREADABLE
from gateway.timeouts import MeasuredTimes

N = TypeVar("N", int, float)

MAX_MODELS: Final = 256

SHORTEST_LOAD: Final = 0.25
"""Seconds. Ollama reports milliseconds of "loading" for a model that is loaded already."""

_SHORTEST_SPAN: Final = 1e-3

_VALID_FOR: Final = 600.0
"""Seconds without a sample after which no request is rejected because of a slot time. Otherwise a
model that was slow once would be rejected for ever, and never be measured again."""
_VALID_TIMES: Final = 4.0
"""Slow models stay valid for so many mean slot times, if that is longer."""
_VALID_AT_MOST: Final = 3600.0
"""Seconds. The limit for slow models."""
_RESTORED_VALID_FOR: Final = 120.0
"""The same for slot times from before this start that were not measured again since."""

SAVE_INTERVAL: Final = 60.0
"""Seconds between two writes of the state file."""

MAX_FILE_BYTES: Final = 1024 * 1024
"""256 models with names of the longest letters take less."""

_NO_ESTIMATE: Final = Estimate()


class Observation(Struct, frozen=True, kw_only=True):
    """One request that was sent to Ollama, after it ended. Times are in seconds.

    Args:
        resident_before: the model was confirmed to be loaded when the request was sent.
        service: from sent to the last byte, or to the end of a response that was aborted.
        waited_for_first_byte: from sent to the first byte, for a stream that had one.
        complete: the response was complete and good.
        timed_out: a timeout of the gateway ended the request. A request that is neither complete
            nor timed out still tells when its first byte came.
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


class ModelStats(MeasuredTimes, frozen=True, kw_only=True):
    """What is known of one model on this machine; an estimate of count 0 is not known.

    The times on which timeouts depend are those of ``LearnedTimes``. Times are in seconds, rates in
    tokens per second.

    Args:
        slot_time: how long a successful request used its slot, if the model was loaded.
        slot_time_cold: the same if it was not.
        bytes_per_token: of the text of prompts that were read completely.
    """

    slot_time: Estimate = _NO_ESTIMATE
    slot_time_cold: Estimate = _NO_ESTIMATE
    prompt_rate: Estimate = _NO_ESTIMATE
    generation_rate: Estimate = _NO_ESTIMATE
    output_tokens: Estimate = _NO_ESTIMATE
    bytes_per_token: Estimate = _NO_ESTIMATE


_NO_STATS: Final = ModelStats()


class Statistics:
    """The statistics of the ``max_models`` models that were observed last.

    Args:
        now: monotonic clock in seconds.
    """

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, max_models: int = MAX_MODELS
    ) -> None:
        self._now = now
        self._max_models = max_models
        # All mutable state. Models are in the order of their last observation.
        self._models: OrderedDict[str, ModelStats] = OrderedDict()
        self._revision = 0
        # Slot times of all models together; when each model was measured last; and the models
        # that were restored and not measured since.
        self._all_slot_times = _NO_ESTIMATE
        self._measured_at: dict[str, float] = {}
        self._restored: set[str] = set()

    def __repr__(self) -> str:
        return f"<Statistics {len(self._models)} models, revision {self._revision}>"

    @property
    def revision(self) -> int:
        """A number that grows with everything that is learned; 0 at the start."""
        return self._revision

    def get(self, model: str) -> ModelStats | None:
        """Return what is known of ``model``, None if nothing is."""
        return self._models.get(model)

    def snapshot(self) -> dict[str, ModelStats]:
        """Return everything, as ``restore`` takes it; the model observed last comes last."""
        return dict(self._models)

    def restore(self, models: Mapping[str, ModelStats]) -> None:
        """Begin with the statistics of an earlier run, instead of what there is."""
        self._models = OrderedDict(models)
        self._all_slot_times = _NO_ESTIMATE
        self._measured_at.clear()
        self._restored.clear()
        self._evict()
        now = self._now()
        for model, stats in self._models.items():
            for slot_time in (stats.slot_time, stats.slot_time_cold):
                if slot_time.count:
                    self._all_slot_times = self._all_slot_times.with_sample(slot_time.mean)
                    self._measured_at[model] = now
                    self._restored.add(model)

    # What the pipeline learns.

    def observe(self, seen: Observation) -> None:
        """Learn from one request. Implausible numbers count as unknown."""
        if is_plausible(seen.service):
            known = self._models.get(seen.model, _NO_STATS)
            self._keep(seen.model, _learn(known, _credible(seen)))

    def observe_bytes_per_token(self, model: str, bytes_per_token: float) -> None:
        """Learn from one prompt how many bytes of text a token stands for."""
        if is_plausible(bytes_per_token):
            known = self._models.get(model, _NO_STATS)
            measured = known.bytes_per_token.with_sample(bytes_per_token)
            self._keep(model, replace(known, bytes_per_token=measured))

    def bytes_per_token(self, model: str) -> Estimate:
        """Return the bytes of text for each token of a prompt."""
        return self._models.get(model, _NO_STATS).bytes_per_token

    # What the scheduler learns.

    def record_slot_time(self, model: str, seconds: float, *, loaded: bool) -> None:
        """Learn how long a successful request used its slot.

        Args:
            model: its name as Ollama lists it.
            seconds: from getting the slot to giving it back.
            loaded: the model was confirmed to be loaded when the request got its slot.
        """
        known = self._models.get(model, _NO_STATS)
        if (
            seconds < self.slot_time(model, loaded=loaded).mean / 2
            and (known.slot_time.count or known.slot_time_cold.count)
            and (model in self._restored or self._is_outdated(model))
        ):
            # What was known is of another machine, or of another model by that name.
            known = replace(known, slot_time=_NO_ESTIMATE, slot_time_cold=_NO_ESTIMATE)
        if loaded:
            known = replace(known, slot_time=known.slot_time.with_sample(seconds))
        else:
            known = replace(known, slot_time_cold=known.slot_time_cold.with_sample(seconds))
        self._all_slot_times = self._all_slot_times.with_sample(seconds)
        self._measured_at[model] = self._now()
        self._restored.discard(model)
        self._keep(model, known)

    def slot_time(self, model: str, *, loaded: bool = True) -> Estimate:
        """Return how long a request to ``model`` uses its slot, in seconds.

        Args:
            model: its name as Ollama lists it.
            loaded: False to include loading the model.

        Returns:
            The estimate for this case; where it is not known, that of the other case, then that
            of all models together, whose count is 0 at the start.
        """
        known = self._models.get(model)
        if known is not None:
            warm, cold = known.slot_time, known.slot_time_cold
            first, second = (warm, cold) if loaded else (cold, warm)
            if first.count:
                return first
            if second.count:
                return second
        return self._all_slot_times

    def has_slot_time(self, model: str) -> bool:
        """Return True if this very model was measured at all."""
        known = self._models.get(model)
        return known is not None and bool(known.slot_time.count or known.slot_time_cold.count)

    def knows_slot_time(self, model: str) -> bool:
        """Return True if this very model was measured often and recently enough to reject by it."""
        known = self._models.get(model)
        if known is None or not (known.slot_time.known or known.slot_time_cold.known):
            return False
        return not self._is_outdated(model)

    @property
    def mean_slot_time(self) -> float:
        """Mean seconds that a request of any model uses its slot."""
        return self._all_slot_times.mean

    # Inside.

    def _is_outdated(self, model: str) -> bool:
        valid_for = _RESTORED_VALID_FOR
        if model not in self._restored:
            valid_for = max(_VALID_FOR, _VALID_TIMES * self.slot_time(model).mean)
            valid_for = min(valid_for, _VALID_AT_MOST)
        return self._now() - self._measured_at.get(model, -inf) > valid_for

    def _keep(self, model: str, stats: ModelStats) -> None:
        self._models[model] = stats
        self._models.move_to_end(model)
        self._revision += 1
        self._evict()

    def _evict(self) -> None:
        while len(self._models) > self._max_models:
            model, _ = self._models.popitem(last=False)
            self._measured_at.pop(model, None)
            self._restored.discard(model)


def _credible(seen: Observation) -> Observation:
    """Return the observation without implausible counts and durations of Ollama's."""
    timings = seen.timings
    return replace(
        seen,
        waited_for_first_byte=_plausible(seen.waited_for_first_byte),
        tokens_in=_plausible(seen.tokens_in),
        tokens_out=_plausible(seen.tokens_out),
        timings=timings
        and Timings(
            load_duration=_plausible(timings.load_duration),
            prompt_eval_count=_plausible(timings.prompt_eval_count),
            prompt_eval_duration=_plausible(timings.prompt_eval_duration),
            eval_count=_plausible(timings.eval_count),
            eval_duration=_plausible(timings.eval_duration),
        ),
    )


def _plausible(value: N | None) -> N | None:
    return value if is_plausible(value) else None


def _learn(known: ModelStats, seen: Observation) -> ModelStats:
    load = _load_of(known, seen)
    wait = _wait_without_load(load, seen)
    if load is not None and load >= SHORTEST_LOAD:
        known = replace(known, load=known.load.with_sample(load))
    if wait is not None:
        known = replace(known, first_byte=known.first_byte.with_sample(wait))
    if seen.complete:
        return _learn_rates(_learn_service(known, seen, load), seen, wait)
    return _learn_from_timeout(known, seen, load) if seen.timed_out else known


def _load_of(known: ModelStats, seen: Observation) -> float | None:
    """Return the seconds that this request spent on loading: 0 if none, None if unknown."""
    if seen.timings is not None and seen.timings.load_duration is not None:
        return seen.timings.load_duration
    if seen.resident_before:
        return 0.0
    if seen.waited_for_first_byte is not None:
        # What is left of the wait after a prompt of this length.
        prompt = known.first_byte.mean
        if seen.tokens_in and known.prompt_rate.mean > 0.0:
            prompt = seen.tokens_in / known.prompt_rate.mean
        load = seen.waited_for_first_byte - prompt
    elif seen.complete and known.service.count:
        # What is left of the service time after a response of this length.
        service = known.service.mean
        if seen.tokens_out and known.output_tokens.mean > 0.0:
            service *= seen.tokens_out / known.output_tokens.mean
        load = seen.service - service
    else:
        return None
    return load if load >= SHORTEST_LOAD else 0.0


def _wait_without_load(load: float | None, seen: Observation) -> float | None:
    """Return the wait for the first byte less the load, if Ollama reported the load."""
    reported = seen.timings is not None and seen.timings.load_duration is not None
    waited = seen.waited_for_first_byte
    if waited is None or load is None or (load and not reported):
        return None
    return max(0.0, waited - load)


def _learn_service(known: ModelStats, seen: Observation, load: float | None) -> ModelStats:
    service = max(0.0, seen.service - (load or 0.0))
    known = replace(known, service=known.service.with_sample(service))
    if seen.tokens_out:
        tokens = known.output_tokens.with_sample(float(seen.tokens_out))
        known = replace(known, output_tokens=tokens)
    return known


def _learn_rates(known: ModelStats, seen: Observation, wait: float | None) -> ModelStats:
    prompt = generation = None
    timings, waited = seen.timings, seen.waited_for_first_byte
    if timings is not None:
        prompt = _rate(timings.prompt_eval_count, timings.prompt_eval_duration)
        generation = _rate(timings.eval_count, timings.eval_duration)
    elif waited is not None:
        prompt = _rate(seen.tokens_in, wait)
        # The first token came with the first byte.
        generation = _rate((seen.tokens_out or 1) - 1, seen.service - waited)
    if prompt is not None:
        known = replace(known, prompt_rate=known.prompt_rate.with_sample(prompt))
    if generation is not None:
        known = replace(known, generation_rate=known.generation_rate.with_sample(generation))
    return known


def _rate(tokens: int | None, span: float | None) -> float | None:
    if not tokens or span is None or span < _SHORTEST_SPAN:
        return None
    rate = tokens / span
    return rate if is_plausible(rate) else None


def _learn_from_timeout(known: ModelStats, seen: Observation, load: float | None) -> ModelStats:
    """The request took longer than its timeout.

    If the model had to be loaded and nothing came, the load is taken for the reason.
    """
    if load is None:
        usual = known.first_byte if seen.streaming else known.service
        bound = max(0.0, seen.service - usual.mean)
        return replace(known, load=known.load.with_lower_bound(bound))
    if seen.streaming and seen.waited_for_first_byte is None:
        known = replace(known, first_byte=known.first_byte.with_lower_bound(seen.service))
    bound = max(0.0, seen.service - load)
    return replace(known, service=known.service.with_lower_bound(bound))


_KIND: Final = "ollama-gateway statistics"
_KINDS: Final = b'{"kind":"ollama-gateway '
"""How the state files of all versions begin."""
_VERSION: Final = 2
_MAX_NAME_LENGTH: Final = 600
_MAX_SAMPLES: Final = 1 << 53
"""More than any gateway lives to see; JSON's numbers can have thousands of digits."""


class _StateVersion(Struct):
    version: int


class _State(Struct):
    # ``kind`` comes first, so that even a truncated file is known to be ours.
    kind: str
    version: int
    host: str
    models: dict[str, ModelStats]


class _Unusable(Exception):
    """What is wrong with the state file, and what follows from it."""


class StatisticsFile:
    """Keeps statistics over a restart, in a file that may be deleted at any time.

    The file holds names of models and how fast they are: no prompts, no keys. If anything is wrong
    with it, one line is reported and the gateway starts without it. A file that is not a state file
    is never overwritten: the path may be a mistake.

    Args:
        host: host and port of Ollama, without credentials, because it is written to the file.
            Statistics of another host are ignored.
        report: called with what is wrong, on one line, once until something else is wrong.
    """

    def __init__(
        self, path: Path, statistics: Statistics, *, host: str, report: Callable[[str], None]
    ) -> None:
        self._path = path
        self._statistics = statistics
        self._host = host
        self._report = report
        # All mutable state. ``_foreign``: what is there may not be ours, so nothing is written.
        self._saved_revision = statistics.revision
        self._foreign = False
        self._reported = ""

    def __repr__(self) -> str:
        state = "foreign" if self._foreign else "clean" if self._is_saved() else "to be saved"
        return f"<StatisticsFile {self._path} {state}>"

    def load(self) -> None:
        """Restore the statistics from the file, if it exists and is valid."""
        try:
            models = self._read()
        except FileNotFoundError:
            return
        except OSError as error:
            self._foreign = True
            self._report_once(f"cannot be read: {error.strerror}. Nothing is kept over a restart")
        except _Unusable as unusable:
            self._report_once(str(unusable))
        else:
            self._statistics.restore(models)

    def save(self) -> None:
        """Write the file, atomically, if there is anything new to keep."""
        if self._foreign or self._is_saved():
            return
        revision = self._statistics.revision
        try:
            # Not durable: flushing would stall the event loop, and a power cut may take it.
            replace_file(self._path, self._encoded(), durable=False)
        except OSError as error:
            self._report_once(f"cannot be written: {error.strerror}. Statistics end with this run")
        else:
            self._saved_revision = revision
            self._reported = ""

    async def run(self) -> Never:
        """Save from time to time. The caller saves once more when everything has ended."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            self.save()

    def _is_saved(self) -> bool:
        return self._saved_revision == self._statistics.revision

    def _read(self) -> dict[str, ModelStats]:
        # Opening a pipe would wait for a writer.
        if self._path.exists() and not self._path.is_file():
            self._foreign = True
            raise _Unusable("is no file. Nothing is kept over a restart")
        with self._path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if content and not content.startswith(_KINDS):
            self._foreign = True
            raise _Unusable(
                "holds something else and is left alone. Nothing is kept over a restart"
            )
        return self._decoded(content)

    def _decoded(self, content: bytes) -> dict[str, ModelStats]:
        if len(content) > MAX_FILE_BYTES:
            raise _Unusable("is too large and was ignored")
        try:
            version = msgspec.json.decode(content, type=_StateVersion).version
            if version != _VERSION:
                raise _Unusable(f"is of version {version}, not {_VERSION}, and was ignored")
            state = msgspec.json.decode(content, type=_State)
        except UNREADABLE:
            raise _Unusable("is corrupt and was ignored") from None
        if state.host != self._host:
            raise _Unusable("is about another Ollama and was ignored")
        valid = all(_is_valid(name, stats) for name, stats in state.models.items())
        if not valid or len(state.models) > MAX_MODELS:
            raise _Unusable("is corrupt and was ignored")
        return state.models

    def _encoded(self) -> bytes:
        models = {
            name: stats
            for name, stats in self._statistics.snapshot().items()
            if len(name) <= _MAX_NAME_LENGTH
        }
        return msgspec.json.encode(_State(_KIND, _VERSION, self._host, models))

    def _report_once(self, trouble: str) -> None:
        if trouble != self._reported:
            self._reported = trouble
            self._report(f"{self._path} {trouble}.")


def _is_valid(name: str, stats: ModelStats) -> bool:
    estimates = (getattr(stats, field) for field in ModelStats.__struct_fields__)
    return len(name) <= _MAX_NAME_LENGTH and all(
        is_plausible(estimate.mean)
        and is_plausible(estimate.deviation)
        and 0 <= estimate.count < _MAX_SAMPLES
        for estimate in estimates
    )
