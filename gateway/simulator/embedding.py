"""Embedding requests, which use the GPU like generations."""

import math

from gateway.simulator.clock import Clock
from gateway.simulator.dialects.embeddings import Embedded, EmbedParams
from gateway.simulator.faults import Fault
from gateway.simulator.generation import TOO_LONG, Generator, nanoseconds
from gateway.simulator.gpu import Gpu
from gateway.simulator.models import SimulatedModel
from gateway.simulator.params import Refusal
from gateway.simulator.text import embedding, prompt_tokens
from gateway.simulator.token_stream import GONE, Runtime
from gateway.simulator.versions import Wire

EDGE_TOKENS = 2
"""Tokens that mark the beginning and the end of each text."""
NOT_AN_EMBEDDER = "This server does not support embeddings. Start it with `--embeddings`"


class Embedder:
    """Runs embedding requests, in the same slots as generations."""

    def __init__(self, *, wire: Wire, gpu: Gpu, runtime: Runtime, generator: Generator) -> None:
        self._wire = wire
        self._gpu = gpu
        self._runtime = runtime
        self._clock: Clock = runtime.clock
        self._generator = generator

    async def run(
        self, params: EmbedParams, model: SimulatedModel, fault: Fault | None
    ) -> Embedded:
        """Return the vectors; raise ``Refusal``."""
        if params.wrong_option:
            raise Refusal(500, params.wrong_option)
        arrived = self._clock.now()
        slot = self._generator.slot(model, num_ctx=params.num_ctx, keep_alive=params.keep_alive)
        async with slot as runner:
            loaded = self._clock.now()
            if not model.embeds and not self._wire.any_model_embeds:
                raise Refusal(501, NOT_AN_EMBEDDER)
            await self._misbehave(fault)
            if fault is not None and fault.kind == "die":
                self._gpu.remove_dead(runner)
                raise Refusal(500, GONE)
            tokens = sum(self._tokens(text, params, runner.num_ctx) for text in params.inputs)
            if math.isfinite(model.prompt_tokens_per_second):
                await self._clock.sleep(tokens / model.prompt_tokens_per_second)
            name, width = model.canonical_name, model.width
            vectors = [embedding(text, model=name, length=width) for text in params.inputs]
        return Embedded(
            vectors,
            tokens,
            total_duration=nanoseconds(self._clock.now() - arrived),
            load_duration=nanoseconds(loaded - arrived),
        )

    async def _misbehave(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind in ("slow_headers", "stall"):
            await self._runtime.pause(fault.seconds)

    @staticmethod
    def _tokens(text: str, params: EmbedParams, context: int) -> int:
        length = EDGE_TOKENS + prompt_tokens(text)
        if length > context and not params.truncate:
            raise Refusal(400, TOO_LONG)
        return min(length, context)
