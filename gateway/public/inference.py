"""The routes that make Ollama work: from a request to a call, and the call through the pipeline."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from gateway.auth.principal import Principal
from gateway.client_timeout import Patience, declared_patience
from gateway.errors import CloudNotAllowed, ModelNotFound, NoModelsPulled
from gateway.models.listing import Model
from gateway.models.names import is_cloud_name, name_key
from gateway.proxy.inference import Call, Target
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.request import Asked, understand
from gateway.public.body import read_body
from gateway.public.context import Asking
from gateway.public.keepalive import Holding
from gateway.telemetry.record import Phase


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
        holding: Holding,
        whole_prompts: bool,
    ) -> None:
        """``whole_prompts``: Ollama is told not to cut a prompt, where it can be told."""
        self._catalog = catalog
        self._pipeline = pipeline
        self._limits = limits
        self._holding = holding
        self._whole_prompts = whole_prompts

    async def serve(self, asking: Asking) -> None:
        """Read, understand, resolve, perform. Raises a GatewayError for every way to fail."""
        patience = declared_patience(asking.request.headers)
        pulse = self._holding.pulse(asking.request, patience)
        held = self._holding.extends(patience, pulse)
        call = await self._call(asking, patience, held=held)
        missed = self._holding.missed(call, asking.exchange)
        if missed is not None:
            await self._holding.retell(missed, asking)
            return
        try:
            with self._holding.heartbeat(call, asking, pulse):
                await self._pipeline.perform(call, asking.answer, asking.exchange)
        except Exception as error:
            # Before the cut: the caller may come again at once.
            self._holding.failed(error, call, asking)
            raise
        finally:
            asking.exchange.heartbeats = asking.answer.beats

    async def _call(self, asking: Asking, patience: Patience | None, *, held: bool) -> Call:
        """The frozen call. What was parsed is let go of here, before anybody waits."""
        exchange = asking.exchange
        route = asking.route
        target = Target(route.template, route.dialect, can_stream=route.can_stream)
        asked = await self._understood(asking, target)
        exchange.streaming = asked.streaming
        if asked.dropped:
            asking.answer.headers["x-gateway-dropped"] = ", ".join(asked.dropped)
        exchange.phase = Phase.RESOLVE
        model = await self._resolve(asked.model, asking.principal)
        exchange.model = model.name if model.raw else None
        body = asked.body_for(model.name)
        asking.share.shrink(len(body))
        return Call(
            request_id=exchange.request_id,
            principal=asking.principal,
            target=target,
            model=model,
            streaming=asked.streaming,
            patience=None if patience is None else patience.seconds,
            body=body,
            prompt=asked.prompt,
            held=held,
            dropped=asked.dropped,
        )

    async def _understood(self, asking: Asking, target: Target) -> Asked:
        exchange = asking.exchange
        exchange.phase = Phase.BODY
        limits = self._limits
        data = await read_body(
            asking.request, asking.share, limit=limits.size, body_timeout=limits.timeout
        )
        exchange.arrived_at = asyncio.get_running_loop().time()
        exchange.bytes_in = len(data)
        exchange.phase = Phase.PARSE
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
