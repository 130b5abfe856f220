"""The routes that use the GPU: which dialect, which model, which fault."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gateway.simulator.answer import Answer, Request
from gateway.simulator.asked import Ask, Final, Refusal, Whole
from gateway.simulator.cloud import unreachable
from gateway.simulator.dialects import GIN_JSON, Dialect
from gateway.simulator.dialects.anthropic import MESSAGES
from gateway.simulator.dialects.embeddings import (
    EMBED,
    EMBEDDINGS,
    V1_EMBEDDINGS,
    EmbedAsk,
    Embedded,
    EmbedDialect,
)
from gateway.simulator.dialects.native import CHAT, GENERATE, native_encoder
from gateway.simulator.dialects.openai import CHAT_COMPLETIONS, COMPLETIONS
from gateway.simulator.dialects.responses import RESPONSES
from gateway.simulator.embedding import Embedder
from gateway.simulator.faults import Fault, FaultQueue
from gateway.simulator.generation import Generator, check
from gateway.simulator.gpu import Gpu
from gateway.simulator.misbehaviour import Misbehaviour
from gateway.simulator.models import Library, SimulatedModel, is_cloud
from gateway.simulator.versions import Wire

_GENERATING: Mapping[str, Dialect] = MappingProxyType(
    {
        "/api/chat": CHAT,
        "/api/generate": GENERATE,
        "/v1/chat/completions": CHAT_COMPLETIONS,
        "/v1/completions": COMPLETIONS,
        "/v1/messages": MESSAGES,
        "/v1/responses": RESPONSES,
    }
)
_EMBEDDING: Mapping[str, EmbedDialect] = MappingProxyType(
    {"/v1/embeddings": V1_EMBEDDINGS, "/api/embed": EMBED, "/api/embeddings": EMBEDDINGS}
)
_INFLATED_BYTES = 20 << 20
_OLLAMA_COM = "ollama.com"


class Inference:
    """Takes a request from its body to an answer, or to a refusal in its dialect."""

    def __init__(
        self,
        *,
        wire: Wire,
        library: Library,
        gpu: Gpu,
        generator: Generator,
        embedder: Embedder,
        faults: FaultQueue,
        misbehaviour: Misbehaviour,
    ) -> None:
        self._wire = wire
        self._library = library
        self._gpu = gpu
        self._generator = generator
        self._embedder = embedder
        self._faults = faults
        self._misbehaviour = misbehaviour

    async def answer(self, route: str, request: Request, answer: Answer) -> None:
        embedding = _EMBEDDING.get(route)
        if embedding is not None:
            await self._embed(route, embedding, request, answer)
        else:
            await self._generate(route, _GENERATING[route], request, answer)

    async def _generate(
        self, route: str, dialect: Dialect, request: Request, answer: Answer
    ) -> None:
        stream = False
        try:
            ask = dialect.parse(_inflated(route, request))
            stream = ask.stream
            fault = self._take(route, ask.model)
            if await self._misbehaviour.before(fault, answer):
                return
            model = self._resolve(ask.model, missing=_not_found(ask))
            check(ask, model, self._wire)
            if ask.messages:
                await self._generator.run(ask, model, dialect, answer, fault)
            else:
                await self._idle(ask, model, dialect, answer)
        except Refusal as refusal:
            self._refuse(dialect, refusal, answer, stream=stream)
        except _Elsewhere as elsewhere:
            answer.whole(502, unreachable(route, elsewhere.host), GIN_JSON)

    async def _embed(
        self, route: str, dialect: EmbedDialect, request: Request, answer: Answer
    ) -> None:
        try:
            ask = dialect.parse(_inflated(route, request))
            fault = self._take(route, ask.model)
            if await self._misbehaviour.before(fault, answer):
                return
            if fault is not None and fault.kind == "cut":
                answer.cut()
                return
            missing = Refusal(404, f'model "{ask.model}" not found, try pulling it first')
            model = self._resolve(ask.model, missing=missing)
            done = await self._vectors(ask, model, fault)
            answer.whole(200, dialect.write(ask, done), dialect.headers)
        except Refusal as refusal:
            headers, body = dialect.error(refusal)
            answer.whole(refusal.status, body, headers)
        except _Elsewhere as elsewhere:
            answer.whole(502, unreachable(route, elsewhere.host), GIN_JSON)

    async def _vectors(self, ask: EmbedAsk, model: SimulatedModel, fault: Fault | None) -> Embedded:
        if ask.inputs:
            return await self._embedder.run(ask, model, fault)
        await self._generator.load(model, num_ctx=ask.num_ctx, keep_alive=ask.keep_alive)
        return Embedded([], 0, 0, 0)

    async def _idle(
        self, ask: Ask, model: SimulatedModel, dialect: Dialect, answer: Answer
    ) -> None:
        """A request without a prompt only loads, or with ``keep_alive: 0`` unloads."""
        reason = "unload" if ask.keep_alive == 0 else "load"
        if reason == "unload":
            self._gpu.expire(model.canonical_name)
        else:
            await self._generator.load(model, num_ctx=ask.num_ctx, keep_alive=ask.keep_alive)
        if dialect in (CHAT, GENERATE):
            answer.whole(200, native_encoder(ask, self._wire).idle(reason), GIN_JSON)
            return
        encoder = dialect.encoder(ask, self._wire)
        whole = Whole("", "", (), (), Final(reason, 0, 0, 0, 0, 0, 0))
        answer.whole(200, encoder.whole(whole), encoder.whole_headers)

    def _take(self, route: str, model: str) -> Fault | None:
        return self._faults.take(path=route, model=model, generates=True)

    def _resolve(self, name: str, *, missing: Refusal) -> SimulatedModel:
        if is_cloud(name):
            raise _Elsewhere(_OLLAMA_COM)
        model = self._library.find(name)
        if model is None:
            raise missing
        if model.remote_host is not None:
            host = model.remote_host.partition("://")[2] or model.remote_host
            raise _Elsewhere(host.partition(":")[0])
        return model

    @staticmethod
    def _refuse(dialect: Dialect, refusal: Refusal, answer: Answer, *, stream: bool) -> None:
        headers, body = dialect.error(refusal, stream)
        if refusal.in_stream:
            answer.stream(refusal.status, headers)
            answer.chunk(body)
            answer.end()
        else:
            answer.whole(refusal.status, body, headers)


class _Elsewhere(Exception):
    """The model would run on another host."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


def _not_found(ask: Ask) -> Refusal:
    if not ask.model and ask.task == "chat":
        return Refusal(400, "model is required")
    return Refusal(404, f"model '{ask.model}' not found")


def _inflated(route: str, request: Request) -> bytes:
    """Undo zstd, which ``/v1`` takes, where this Python can."""
    encoding = request.head.header("content-encoding")
    if encoding != "zstd" or not route.startswith("/v1/"):
        return request.body
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError:
        return request.body
    try:
        inflated = zstandard.ZstdDecompressor().stream_reader(request.body).read(_INFLATED_BYTES)
    except zstandard.ZstdError as error:
        raise Refusal(400, str(error), early=True) from None
    return bytes(inflated)
