"""One generation: its checks, its slot, its numbers, and how it ended."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.simulator.dialects import Dialect, Encoder
from gateway.simulator.faults import Fault
from gateway.simulator.gpu import Busy, Gpu, Runner, RunnerDied
from gateway.simulator.models import SimulatedModel
from gateway.simulator.params import (
    MULTIMODAL_REFUSAL,
    Final,
    GenerateParams,
    Piece,
    Refusal,
    completion_of,
)
from gateway.simulator.response import Response
from gateway.simulator.stats import Stats
from gateway.simulator.text import TEMPLATE_TOKENS, Plan, huge, plan_text, prompt_tokens
from gateway.simulator.token_stream import GONE, Progress, Runtime, StreamEnded, TokenStream
from gateway.simulator.versions import Wire

BUSY = "server busy, please try again.  maximum pending requests exceeded"
TOO_LONG = "the input length exceeds the context length"


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values for requests that do not set them. Seconds are simulated seconds."""

    output_tokens: int
    context: int
    keep_alive: float


def nanoseconds(seconds: float) -> int:
    """Return a duration as Ollama reports it; never 0, which Ollama would omit."""
    return max(1000, int(seconds * 1e9))


def check(params: GenerateParams, model: SimulatedModel, wire: Wire) -> None:
    """Raise ``Refusal`` if the model cannot do what the request needs."""
    short = f'"{params.model}" does not support'
    full = f"registry.ollama.ai/library/{model.canonical_name} does not support"
    for wrong, refusal in (
        ("completion" not in model.capabilities, f"{short} {params.task}"),
        (bool(params.tools) and "tools" not in model.capabilities, f"{full} tools"),
        (params.suffix and "insert" not in model.capabilities, f"{full} insert"),
        (params.think is True and not model.thinks, f"{short} thinking"),
    ):
        if wrong:
            raise Refusal(400, refusal)
    if params.wrong_option:
        raise Refusal(500, params.wrong_option)
    if params.images and wire.refuses_images and "vision" not in model.capabilities:
        raise Refusal(400, MULTIMODAL_REFUSAL)


class Generator:
    """Runs generations on the GPU and writes them in a dialect."""

    def __init__(
        self, *, wire: Wire, gpu: Gpu, stats: Stats, runtime: Runtime, defaults: Defaults
    ) -> None:
        self._wire = wire
        self._gpu = gpu
        self._stats = stats
        self._runtime = runtime
        self._clock = runtime.clock
        self._defaults = defaults

    def context(self, model: SimulatedModel, requested: int | None) -> int:
        """Return the context that the model is loaded with, in tokens."""
        return min(requested or self._defaults.context, model.context_length)

    def keep_alive(self, requested: float | None) -> float:
        """Return how long it stays loaded, in seconds; negative means for ever."""
        return self._defaults.keep_alive if requested is None else requested

    @asynccontextmanager
    async def slot(
        self,
        model: SimulatedModel,
        *,
        num_ctx: int | None,
        keep_alive: float | None,
        streams: bool = False,
    ) -> AsyncIterator[Runner]:
        """Acquire a slot of the model, with defaults; raise ``Refusal`` if that is impossible."""
        try:
            async with self._gpu.slot(
                model, num_ctx=self.context(model, num_ctx), keep_alive=self.keep_alive(keep_alive)
            ) as runner:
                yield runner
        except Busy:
            raise Refusal(503, BUSY) from None
        except RunnerDied:
            raise Refusal(500, GONE, in_stream=streams) from None

    async def load(
        self, model: SimulatedModel, *, num_ctx: int | None, keep_alive: float | None
    ) -> None:
        """Load a model, or renew its keep-alive; raise ``Refusal`` if too many requests wait."""
        try:
            await self._gpu.touch(
                model, num_ctx=self.context(model, num_ctx), keep_alive=self.keep_alive(keep_alive)
            )
        except Busy:
            raise Refusal(503, BUSY) from None

    async def run(
        self,
        params: GenerateParams,
        model: SimulatedModel,
        dialect: Dialect,
        response: Response,
        fault: Fault | None,
    ) -> None:
        """Generate and write the response; raise ``Refusal`` only before anything was written."""
        encoder = dialect.encoder(params, self._wire)
        try:
            pieces, final = await self._generate(params, model, encoder, response, fault)
        except StreamEnded:
            return
        if not params.stream:
            response.send(
                200, encoder.complete(completion_of(pieces, final)), encoder.complete_headers
            )

    async def _generate(
        self,
        params: GenerateParams,
        model: SimulatedModel,
        encoder: Encoder,
        response: Response,
        fault: Fault | None,
    ) -> tuple[list[Piece], Final | None]:
        arrived, progress = self._clock.now(), Progress(params.stream)
        slot = self.slot(
            model, num_ctx=params.num_ctx, keep_alive=params.keep_alive, streams=params.stream
        )
        async with slot as runner:
            loaded = self._clock.now()
            with self._counted(progress):
                if fault is not None and fault.kind == "slow_headers":
                    await self._runtime.pause(fault.seconds)
                prompt = await self._evaluate(params, runner)
                evaluated = self._clock.now()
                tokens = TokenStream(
                    self._runtime,
                    runner,
                    encoder=encoder,
                    response=response,
                    progress=progress,
                    fault=fault,
                )
                plan = self._plan(params, model, fault)
                pieces = await tokens.run(plan)
                final = None
                if not plan.repeats and not tokens.repeated:
                    now = self._clock.now()
                    final = Final(
                        reason=plan.reason,
                        prompt_tokens=prompt,
                        tokens=progress.tokens,
                        total_duration=nanoseconds(now - arrived),
                        load_duration=nanoseconds(loaded - arrived),
                        prompt_eval_duration=nanoseconds(evaluated - loaded),
                        eval_duration=nanoseconds(now - evaluated),
                    )
                tokens.end(final)
                progress.ending = "finished" if final else "failed"
        return pieces, final

    def _plan(self, params: GenerateParams, model: SimulatedModel, fault: Fault | None) -> Plan:
        if fault is not None and fault.kind == "huge":
            return huge(fault.size)
        return plan_text(params, model, output_tokens=self._defaults.output_tokens)

    async def _evaluate(self, params: GenerateParams, runner: Runner) -> int:
        """Process the prompt; return how many of its tokens fit into the context."""
        length = TEMPLATE_TOKENS + prompt_tokens(params.prompt)
        if length > runner.num_ctx and not params.truncate:
            raise Refusal(400, TOO_LONG)
        taken = self._wire.prompt_tokens(length, runner.num_ctx)
        rate = runner.model.prompt_tokens_per_second
        if math.isfinite(rate):
            await self._clock.sleep(taken / rate)
        return taken

    @contextmanager
    def _counted(self, progress: Progress) -> Iterator[None]:
        """Count a generation by its ending; by default it was abandoned by its client."""
        self._stats.generations_started += 1
        started = self._clock.now()
        try:
            yield
        except (Refusal, StreamEnded):
            progress.ending = "failed"
            raise
        except asyncio.CancelledError:
            progress.ending = "failed" if self._runtime.stopping() else "abandoned"
            raise
        finally:
            self._count(progress, self._clock.now() - started)
            self._runtime.changed()

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
