"""Texts to vectors, on the GPU like everything else."""

import math

from gateway.simulator.asked import Refusal
from gateway.simulator.clock import Clock
from gateway.simulator.dialects.embeddings import EmbedAsk, Embedded
from gateway.simulator.faults import Fault
from gateway.simulator.generation import TOO_LONG, Generator, nanoseconds
from gateway.simulator.gpu import Gpu
from gateway.simulator.models import SimulatedModel
from gateway.simulator.text import embedding, prompt_tokens
from gateway.simulator.turn import GONE, Stage
from gateway.simulator.versions import Wire

EDGE_TOKENS = 2
"""Tokens that mark the beginning and the end of each text."""
NOT_AN_EMBEDDER = "This server does not support embeddings. Start it with `--embeddings`"


class Embedder:
    """Runs embedding requests; takes its slots where generations take theirs."""

    def __init__(self, *, wire: Wire, gpu: Gpu, stage: Stage, generator: Generator) -> None:
        self._wire = wire
        self._gpu = gpu
        self._stage = stage
        self._clock: Clock = stage.clock
        self._generator = generator

    async def run(self, ask: EmbedAsk, model: SimulatedModel, fault: Fault | None) -> Embedded:
        """Return the vectors; raise ``Refusal``."""
        if ask.wrong_option:
            raise Refusal(500, ask.wrong_option)
        arrived = self._clock.now()
        slot = self._generator.slot(model, num_ctx=ask.num_ctx, keep_alive=ask.keep_alive)
        async with slot as runner:
            loaded = self._clock.now()
            if not model.embeds and not self._wire.any_model_embeds:
                raise Refusal(501, NOT_AN_EMBEDDER)
            await self._misbehave(fault)
            if fault is not None and fault.kind == "die":
                self._gpu.bury(runner)
                raise Refusal(500, GONE)
            tokens = sum(self._tokens(text, ask, runner.num_ctx) for text in ask.inputs)
            if math.isfinite(model.prompt_tokens_per_second):
                await self._clock.sleep(tokens / model.prompt_tokens_per_second)
            name, width = model.canonical_name, model.width
            vectors = [embedding(text, model=name, length=width) for text in ask.inputs]
        return Embedded(
            vectors,
            tokens,
            total_duration=nanoseconds(self._clock.now() - arrived),
            load_duration=nanoseconds(loaded - arrived),
        )

    async def _misbehave(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind in ("slow_headers", "stall"):
            await self._stage.pause(fault.seconds)

    @staticmethod
    def _tokens(text: str, ask: EmbedAsk, context: int) -> int:
        length = EDGE_TOKENS + prompt_tokens(text)
        if length > context and not ask.truncate:
            raise Refusal(400, TOO_LONG)
        return min(length, context)
