"""The routes that make Ollama work: from a request to a call, and the call through the pipeline."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from gateway.auth.principal import Principal
from gateway.errors import CloudNotAllowed, ModelNotFound, NoModelsPulled
from gateway.models.listing import Model
from gateway.models.names import is_cloud_name, name_key
from gateway.proxy.inference import Call, Target
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.request import Asked, understand
from gateway.public.body import read_body
from gateway.public.context import AuthorizedRequest
from gateway.public.keepalive import KeepAlive
from gateway.telemetry.record import Phase
from gateway.timeouts import ClientTimeout, declared_client_timeout


class Resolver(Protocol):
    """The catalogue, as far as a call needs it."""

    async def resolve(self, name: str, may_use: "MayUse") -> Model: ...


class MayUse(Protocol):
    def __call__(self, model: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """``size`` in bytes for one body, ``timeout`` in seconds for its arrival."""

    size: int
    timeout: float


class Inference:
    """Serves every route of scope inference, each in its dialect."""

    def __init__(
        self,
        *,
        catalog: Resolver,
        pipeline: Pipeline,
        limits: BodyLimits,
        keep_alive: KeepAlive,
        whole_prompts: bool,
    ) -> None:
        """``whole_prompts``: Ollama is told not to cut a prompt, where it can be told."""
        self._catalog = catalog
        self._pipeline = pipeline
        self._limits = limits
        self._holding = keep_alive
        self._whole_prompts = whole_prompts

    async def serve(self, asking: AuthorizedRequest) -> None:
        """Read, understand, resolve, perform. Raises a GatewayError for every way to fail."""
        client_timeout = declared_client_timeout(asking.request.headers)
        pulse = self._holding.pulse(asking.request, client_timeout)
        held = self._holding.extends(client_timeout, pulse)
        call = await self._call(asking, client_timeout, held=held)
        missed = self._holding.missed(call, asking.record)
        if missed is not None:
            await self._holding.replay(missed, asking)
            return
        try:
            with self._holding.heartbeat(call, asking, pulse):
                await self._pipeline.perform(call, asking.answer, asking.record)
        except Exception as error:
            # Before the cut: the caller may come again at once.
            self._holding.failed(error, call, asking)
            raise
        finally:
            asking.record.heartbeats = asking.answer.heartbeats

    async def _call(
        self, asking: AuthorizedRequest, client_timeout: ClientTimeout | None, *, held: bool
    ) -> Call:
        """The frozen call. What was parsed is let go of here, before anybody waits."""
        record = asking.record
        route = asking.route
        target = Target(route.template, route.dialect, can_stream=route.can_stream)
        asked = await self._understood(asking, target)
        record.streaming = asked.streaming
        if asked.dropped:
            asking.answer.headers["x-gateway-dropped"] = ", ".join(asked.dropped)
        record.phase = Phase.RESOLVE
        model = await self._resolve(asked.model, asking.principal)
        record.model = model.name if model.raw else None
        body = asked.body_for(model.name)
        asking.share.shrink_to(len(body))
        return Call(
            request_id=record.request_id,
            principal=asking.principal,
            target=target,
            model=model,
            streaming=asked.streaming,
            client_timeout=None if client_timeout is None else client_timeout.seconds,
            body=body,
            prompt=asked.prompt,
            held=held,
            dropped=asked.dropped,
        )

    async def _understood(self, asking: AuthorizedRequest, target: Target) -> Asked:
        record = asking.record
        record.phase = Phase.BODY
        limits = self._limits
        data = await read_body(
            asking.request, asking.share, limit=limits.size, body_timeout=limits.timeout
        )
        record.arrived_at = asyncio.get_running_loop().time()
        record.bytes_in = len(data)
        record.phase = Phase.PARSE
        return understand(data, target, asking.principal, whole_prompts=self._whole_prompts)

    async def _resolve(self, name: str, principal: Principal) -> Model:
        """The model that Ollama would run, if this key may use it and it stays where it may."""
        spelt = name_key(name) or name
        if is_cloud_name(name) and not principal.may_reach_cloud(spelt):
            raise _stays_here()
        try:
            model = await self._catalog.resolve(name, principal.may_use)
        except (ModelNotFound, NoModelsPulled):
            # Ollama runs a cloud model that was never pulled.
            if is_cloud_name(name) and principal.may_use(spelt):
                return _unlisted(spelt)
            raise
        if model.leaves_the_machine and not principal.may_reach_cloud(model.name):
            raise _stays_here()
        return model


def _unlisted(name: str) -> Model:
    return Model(
        name=name, digest="", size_bytes=None, parameters=None, remote=True, created=0, raw={}
    )


def _stays_here() -> CloudNotAllowed:
    return CloudNotAllowed(
        "This model runs on ollama.com, on the account of this machine's owner, which this key "
        "may not. Use a model that runs here, or ask the owner for a key made with `--cloud`.",
        param="model",
    )
