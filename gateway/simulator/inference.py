"""The routes that use the GPU: selects dialect, model and fault."""

import importlib
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gateway.simulator.dialects import GIN_JSON, Dialect
from gateway.simulator.dialects.anthropic import MESSAGES
from gateway.simulator.dialects.common import native_error
from gateway.simulator.dialects.embeddings import (
    EMBED,
    EMBEDDINGS,
    V1_EMBEDDINGS,
    Embedded,
    EmbedDialect,
    EmbedParams,
)
from gateway.simulator.dialects.native import CHAT, GENERATE, native_encoder
from gateway.simulator.dialects.openai import CHAT_COMPLETIONS, COMPLETIONS
from gateway.simulator.dialects.responses import RESPONSES
from gateway.simulator.embedding import Embedder
from gateway.simulator.faults import Fault, FaultQueue, Misbehaviour
from gateway.simulator.generation import Generator, check
from gateway.simulator.gpu import Gpu
from gateway.simulator.models import Library, SimulatedModel, is_cloud
from gateway.simulator.params import Completion, Final, GenerateParams, Refusal
from gateway.simulator.response import Request, Response
from gateway.simulator.versions import Wire


def unreachable(path: str, host: str) -> bytes:
    """Ollama's error if it would run a model on ``host`` and cannot resolve that name."""
    address = f"https://{host}:443{path}?ts={int(time.time())}"
    return native_error(f'Post "{address}": dial tcp: lookup {host}: no such host')


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
    """Responds to inference requests, with a generation or an error in their dialect."""

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

    async def respond(self, route: str, request: Request, response: Response) -> None:
        embedding = _EMBEDDING.get(route)
        if embedding is not None:
            await self._embed(route, embedding, request, response)
        else:
            await self._generate(route, _GENERATING[route], request, response)

    async def _generate(
        self, route: str, dialect: Dialect, request: Request, response: Response
    ) -> None:
        stream = False
        try:
            params = dialect.parse(_inflated(route, request))
            stream = params.stream
            fault = self._take(route, params.model)
            if await self._misbehaviour.before(fault, response):
                return
            model = self._resolve(params.model, missing=_not_found(params))
            check(params, model, self._wire)
            if params.messages:
                await self._generator.run(params, model, dialect, response, fault)
            else:
                await self._idle(params, model, dialect, response)
        except Refusal as refusal:
            self._refuse(dialect, refusal, response, stream=stream)
        except _RemoteModel as remote:
            response.send(502, unreachable(route, remote.host), GIN_JSON)

    async def _embed(
        self, route: str, dialect: EmbedDialect, request: Request, response: Response
    ) -> None:
        try:
            params = dialect.parse(_inflated(route, request))
            fault = self._take(route, params.model)
            if await self._misbehaviour.before(fault, response):
                return
            if fault is not None and fault.kind == "abort":
                response.abort()
                return
            missing = Refusal(404, f'model "{params.model}" not found, try pulling it first')
            model = self._resolve(params.model, missing=missing)
            done = await self._vectors(params, model, fault)
            response.send(200, dialect.write(params, done), dialect.headers)
        except Refusal as refusal:
            headers, body = dialect.error(refusal)
            response.send(refusal.status, body, headers)
        except _RemoteModel as remote:
            response.send(502, unreachable(route, remote.host), GIN_JSON)

    async def _vectors(
        self, params: EmbedParams, model: SimulatedModel, fault: Fault | None
    ) -> Embedded:
        if params.inputs:
            return await self._embedder.run(params, model, fault)
        await self._generator.load(model, num_ctx=params.num_ctx, keep_alive=params.keep_alive)
        return Embedded([], 0, 0, 0)

    async def _idle(
        self, params: GenerateParams, model: SimulatedModel, dialect: Dialect, response: Response
    ) -> None:
        """Load the model for a request without a prompt, or unload it for ``keep_alive: 0``."""
        reason = "unload" if params.keep_alive == 0 else "load"
        if reason == "unload":
            self._gpu.expire(model.canonical_name)
        else:
            await self._generator.load(model, num_ctx=params.num_ctx, keep_alive=params.keep_alive)
        if dialect in (CHAT, GENERATE):
            response.send(200, native_encoder(params, self._wire).idle(reason), GIN_JSON)
            return
        encoder = dialect.encoder(params, self._wire)
        completion = Completion("", "", (), (), Final(reason, 0, 0, 0, 0, 0, 0))
        response.send(200, encoder.complete(completion), encoder.complete_headers)

    def _take(self, route: str, model: str) -> Fault | None:
        return self._faults.take(path=route, model=model, generates=True)

    def _resolve(self, name: str, *, missing: Refusal) -> SimulatedModel:
        if is_cloud(name):
            raise _RemoteModel(_OLLAMA_COM)
        model = self._library.find(name)
        if model is None:
            raise missing
        if model.remote_host is not None:
            host = model.remote_host.partition("://")[2] or model.remote_host
            raise _RemoteModel(host.partition(":")[0])
        return model

    @staticmethod
    def _refuse(dialect: Dialect, refusal: Refusal, response: Response, *, stream: bool) -> None:
        headers, body = dialect.error(refusal, stream)
        if refusal.in_stream:
            response.begin_stream(refusal.status, headers)
            response.chunk(body)
            response.end()
        else:
            response.send(refusal.status, body, headers)


class _RemoteModel(Exception):
    """The model would run on another host."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


def _not_found(params: GenerateParams) -> Refusal:
    if not params.model and params.task == "chat":
        return Refusal(400, "model is required")
    return Refusal(404, f"model '{params.model}' not found")


def _inflated(route: str, request: Request) -> bytes:
    """Decompress zstd, which ``/v1`` accepts, if the library is installed."""
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
