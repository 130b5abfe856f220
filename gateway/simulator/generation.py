"""One generation: its checks, its slot, its numbers, and how it ended."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.simulator.answer import Answer
from gateway.simulator.asked import MULTIMODAL_REFUSAL, Ask, Final, Piece, Refusal, gathered
from gateway.simulator.dialects import Dialect, Encoder
from gateway.simulator.faults import Fault
from gateway.simulator.gpu import Gpu
from gateway.simulator.models import SimulatedModel
from gateway.simulator.runner import Busy, Runner, RunnerDied
from gateway.simulator.stats import Stats
from gateway.simulator.text import TEMPLATE_TOKENS, Plan, huge, plan, prompt_tokens
from gateway.simulator.turn import GONE, Ended, Progress, Stage, Turn
from gateway.simulator.versions import Wire

BUSY = "server busy, please try again.  maximum pending requests exceeded"
TOO_LONG = "the input length exceeds the context length"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a request says nothing. Seconds are simulated ones."""

    answer_tokens: int
    context: int
    keep_alive: float


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama tells it; never 0, for it would leave that out."""
    return max(1000, int(seconds * 1e9))


def check(ask: Ask, model: SimulatedModel, wire: Wire) -> None:
    """Raise ``Refusal`` for what the model cannot do."""
    short = f'"{ask.model}" does not support'
    full = f"registry.ollama.ai/library/{model.canonical_name} does not support"
    for wrong, refusal in (
        ("completion" not in model.capabilities, f"{short} {ask.task}"),
        (bool(ask.tools) and "tools" not in model.capabilities, f"{full} tools"),
        (ask.suffix and "insert" not in model.capabilities, f"{full} insert"),
        (ask.think is True and not model.thinks, f"{short} thinking"),
    ):
        if wrong:
            raise Refusal(400, refusal)
    if ask.wrong_option:
        raise Refusal(500, ask.wrong_option)
    if ask.images and wire.refuses_images and "vision" not in model.capabilities:
        raise Refusal(400, MULTIMODAL_REFUSAL)


class Generator:
    """Runs generations on the GPU and writes them in the words of a dialect."""

    def __init__(
        self, *, wire: Wire, gpu: Gpu, stats: Stats, stage: Stage, defaults: Defaults
    ) -> None:
        self._wire = wire
        self._gpu = gpu
        self._stats = stats
        self._stage = stage
        self._clock = stage.clock
        self._defaults = defaults

    def context(self, model: SimulatedModel, asked: int | None) -> int:
        """The context that the model is loaded with, in tokens."""
        return min(asked or self._defaults.context, model.context_length)

    def lasting(self, asked: float | None) -> float:
        """How long it stays loaded, in seconds; negative is for ever."""
        return self._defaults.keep_alive if asked is None else asked

    @asynccontextmanager
    async def slot(
        self,
        model: SimulatedModel,
        *,
        num_ctx: int | None,
        keep_alive: float | None,
        streams: bool = False,
    ) -> AsyncIterator[Runner]:
        """A slot of the model, with defaults; raise ``Refusal`` where there is none to be had."""
        try:
            async with self._gpu.slot(
                model, num_ctx=self.context(model, num_ctx), keep_alive=self.lasting(keep_alive)
            ) as runner:
                yield runner
        except Busy:
            raise Refusal(503, BUSY) from None
        except RunnerDied:
            raise Refusal(500, GONE, in_stream=streams) from None

    async def load(
        self, model: SimulatedModel, *, num_ctx: int | None, keep_alive: float | None
    ) -> None:
        """Load a model, or renew its keep-alive; raise ``Refusal`` if too many wait."""
        try:
            await self._gpu.touch(
                model, num_ctx=self.context(model, num_ctx), keep_alive=self.lasting(keep_alive)
            )
        except Busy:
            raise Refusal(503, BUSY) from None

    async def run(
        self, ask: Ask, model: SimulatedModel, dialect: Dialect, answer: Answer, fault: Fault | None
    ) -> None:
        """Answer ``ask``; raise ``Refusal`` while nothing was written."""
        encoder = dialect.encoder(ask, self._wire)
        try:
            pieces, final = await self._generate(ask, model, encoder, answer, fault)
        except Ended:
            return
        if not ask.stream:
            answer.whole(200, encoder.whole(gathered(pieces, final)), encoder.whole_headers)

    async def _generate(
        self, ask: Ask, model: SimulatedModel, encoder: Encoder, answer: Answer, fault: Fault | None
    ) -> tuple[list[Piece], Final | None]:
        arrived, progress = self._clock.now(), Progress(ask.stream)
        slot = self.slot(model, num_ctx=ask.num_ctx, keep_alive=ask.keep_alive, streams=ask.stream)
        async with slot as runner:
            loaded = self._clock.now()
            with self._counted(progress):
                if fault is not None and fault.kind == "slow_headers":
                    await self._stage.pause(fault.seconds)
                prompt = await self._evaluate(ask, runner)
                evaluated = self._clock.now()
                turn = Turn(
                    self._stage,
                    runner,
                    encoder=encoder,
                    answer=answer,
                    progress=progress,
                    fault=fault,
                )
                said = self._said(ask, model, fault)
                pieces = await turn.speak(said)
                final = None
                if not said.repeats and not turn.repeated:
                    now = self._clock.now()
                    final = Final(
                        reason=said.reason,
                        prompt_tokens=prompt,
                        tokens=progress.tokens,
                        total_duration=nanoseconds(now - arrived),
                        load_duration=nanoseconds(loaded - arrived),
                        prompt_eval_duration=nanoseconds(evaluated - loaded),
                        eval_duration=nanoseconds(now - evaluated),
                    )
                turn.end(final)
                progress.ending = "finished" if final else "failed"
        return pieces, final

    def _said(self, ask: Ask, model: SimulatedModel, fault: Fault | None) -> Plan:
        if fault is not None and fault.kind == "huge":
            return huge(fault.size)
        return plan(ask, model, answer_tokens=self._defaults.answer_tokens)

    async def _evaluate(self, ask: Ask, runner: Runner) -> int:
        """Read the prompt; return how many of its tokens fitted."""
        length = TEMPLATE_TOKENS + prompt_tokens(ask.prompt)
        if length > runner.num_ctx and not ask.truncate:
            raise Refusal(400, TOO_LONG)
        taken = self._wire.prompt_tokens(length, runner.num_ctx)
        rate = runner.model.prompt_tokens_per_second
        if math.isfinite(rate):
            await self._clock.sleep(taken / rate)
        return taken

    @contextmanager
    def _counted(self, progress: Progress) -> Iterator[None]:
        """Count a generation by its ending; one that says nothing was left by its client."""
        self._stats.generations_started += 1
        started = self._clock.now()
        try:
            yield
        except (Refusal, Ended):
            progress.ending = "failed"
            raise
        except asyncio.CancelledError:
            progress.ending = "failed" if self._stage.stopping() else "abandoned"
            raise
        finally:
            self._count(progress, self._clock.now() - started)
            self._stage.changed()

    def _count(self, progress: Progress, seconds: float) -> None:
        stats = self._stats
        match progress.ending:
            case "finished":
                stats.generations_finished += 1
                stats.tokens_delivered += progress.tokens
            case "failed":
                stats.generations_failed += 1
            case "abandoned":
                stats.generations_abandoned += 1
                stats.tokens_abandoned += progress.tokens
                stats.abandoned_seconds += seconds
