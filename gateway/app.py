"""The only place where things are made and wired to each other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from yarl import URL

from gateway.auth.authenticator import Authenticator
from gateway.auth.client_address import TrustedProxy
from gateway.auth.failures import Failures
from gateway.auth.rates import Rates
from gateway.auth.store import Change, KeyStore
from gateway.learning import Learning
from gateway.models.catalog import Catalog
from gateway.models.source import ShowReply
from gateway.proxy.guard import TruncationGuard
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.replay import FailureReplay
from gateway.public.discovery import Discovery
from gateway.public.handler import RequestHandler
from gateway.public.inference import Inference
from gateway.public.memory import MemoryBudget
from gateway.scheduler import Policy, Scheduler, select_next
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from gateway.telemetry.log import LineWriter, Logger, RequestLog, make_logger
from gateway.telemetry.metrics import Gauges, Metrics
from gateway.telemetry.recent import Recent
from gateway.telemetry.record import FinishedRequest
from gateway.upstream import Probes, Upstream

KEYS_EVERY = 1.0
"""Seconds between two looks at the key file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Everything that runs, made and wired; ``running`` brings it to life."""

    settings: Settings
    version: str
    keys: KeyStore
    catalog: Catalog
    scheduler: Scheduler
    learning: Learning
    upstream: Upstream
    handler: RequestHandler
    metrics: Metrics
    recent: Recent
    log: Logger

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the background work: the catalogue that keeps itself fresh, the key file watched."""
        async with self.upstream:
            tasks = [
                asyncio.create_task(self.catalog.run()),  # noqa: TID251 - owned right here
                asyncio.create_task(_watch(self.keys)),  # noqa: TID251 - owned right here
                asyncio.create_task(self._look_at_memory()),  # noqa: TID251 - owned right here
                asyncio.create_task(self.learning.keep()),  # noqa: TID251 - owned right here
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self.learning.save()

    async def _look_at_memory(self) -> None:
        queue = self.scheduler
        # What is seen there may let somebody go who waits for nothing else.
        await self.learning.watch(
            self.catalog, busy=lambda: not queue.idle, looked=queue.redispatch
        )


def build(
    settings: Settings,
    *,
    keys_file: Path,
    version: str,
    state_file: Path | None = None,
    log: Logger | None = None,
    lines: LineWriter | None = None,
    policy: Policy = select_next,
) -> Gateway:
    """Make a gateway for these settings, inside a running event loop. Nothing is contacted yet.

    Without a ``state_file`` what was learned is forgotten at the end. ``policy`` decides
    which request runs next.
    """
    now = asyncio.get_running_loop().time
    lines = lines or LineWriter(_Nowhere())
    level, log_format = settings.log.level, settings.log.format
    log = log or make_logger(lines, level=level, log_format=log_format)
    keys = KeyStore(keys_file, report=_key_report(log))
    upstream = Upstream(URL(settings.ollama.url), version=version)
    learning = Learning(settings, state_file=state_file, log=log, now=now)
    learning.load()
    catalog = Catalog(
        _Source(Probes(upstream)),
        ttl=settings.catalog.ttl,
        stale_limit=settings.catalog.stale_limit,
        now=now,
        on_change=_upstream_report(log, learning),
    )
    scheduler = Scheduler(
        settings.scheduler,
        now=now,
        residency=learning.residency_tracker,
        statistics=learning.statistics,
        policy=policy,
    )
    metrics = Metrics(
        snapshot=lambda: _gauges(scheduler, catalog, keys, lines, telemetry), version=version
    )
    recent = Recent()
    telemetry = Telemetry(
        report=_telemetry_report(log),
        now=now,
        log=RequestLog(lines, level=level, log_format=log_format),
        metrics=metrics,
        recent=recent,
    )
    observer = _Observer(telemetry, metrics, log)
    pipeline = Pipeline(
        queue=scheduler,
        upstream=upstream,
        settings=settings,
        statistics=learning.statistics,
        guard=TruncationGuard(
            settings.integrity,
            contexts=learning.contexts,
            statistics=learning.statistics,
            ps=partial(catalog.ps, within=0.0),
            show=partial(catalog.show, verbose=False),
        ),
        unreachable=_unreachable_report(catalog, learning),
        now=now,
    )
    handler = _front(settings, keys=keys, catalog=catalog, pipeline=pipeline, observer=observer)
    return Gateway(
        settings=settings,
        version=version,
        keys=keys,
        catalog=catalog,
        scheduler=scheduler,
        learning=learning,
        upstream=upstream,
        handler=handler,
        metrics=metrics,
        recent=recent,
        log=log,
    )


def _front(
    settings: Settings,
    *,
    keys: KeyStore,
    catalog: Catalog,
    pipeline: Pipeline,
    observer: "_Observer",
) -> RequestHandler:
    now = asyncio.get_running_loop().time
    failures = Failures(settings.limits.failures_per_minute, clock=now)
    return RequestHandler(
        settings=settings,
        authenticator=Authenticator(keys, failures, now=lambda: datetime.now(UTC)),
        rates=Rates(lambda: keys.names),
        trusted_proxies=[TrustedProxy(row.address, row.header) for row in settings.proxies.trusted],
        inference=Inference(
            settings=settings,
            catalog=catalog,
            pipeline=pipeline,
            failure_replay=FailureReplay(now=now),
        ),
        discovery=Discovery(catalog, settings=settings),
        memory_budget=MemoryBudget(settings.limits.buffered_bytes),
        observer=observer,
        now=now,
    )


def _gauges(
    scheduler: Scheduler,
    catalog: Catalog,
    keys: KeyStore,
    lines: LineWriter,
    telemetry: Telemetry,
) -> Gauges:
    queue = scheduler.snapshot()
    return Gauges(
        active=queue.active,
        queued=queue.queued,
        upstream_up=catalog.up,
        catalog_age=catalog.age(),
        keys_broken=keys.broken is not None,
        log_lines_lost=lines.lost,
        telemetry_errors=telemetry.errors,
    )


def _telemetry_report(log: Logger) -> Callable[[str, int, Exception], None]:
    def report(sink: str, errors: int, error: Exception) -> None:
        log.error("telemetry.failed", sink=sink, errors=errors, exc_info=error)

    return report


def _key_report(log: Logger) -> Callable[[Change], None]:
    def report(change: Change) -> None:
        if change.broken is not None:
            log.error("keys.broken", reason=change.broken, kept=change.keys)
        elif change.warning is not None:
            log.warning("keys.loaded", keys=change.keys, warning=change.warning)
        else:
            log.info("keys.loaded", keys=change.keys, missing=change.missing)

    return report


def _upstream_report(log: Logger, learning: Learning) -> Callable[[bool, str], None]:
    def report(up: bool, reason: str) -> None:  # noqa: FBT001 - the catalogue's signature
        if up:
            log.info("upstream.up")
        else:
            learning.forget()
            log.warning("upstream.down", reason=reason)

    return report


def _unreachable_report(catalog: Catalog, learning: Learning) -> Callable[[], None]:
    def report() -> None:
        catalog.doubt()
        # A place was given for the model, and it was never asked for.
        learning.residency_tracker.forget()

    return report


async def _watch(keys: KeyStore) -> None:
    while True:
        await asyncio.sleep(KEYS_EVERY)
        keys.reload_if_changed()


class _Source:
    """What the catalogue asks, answered by the upstream's probes."""

    def __init__(self, probes: Probes) -> None:
        self.tags = probes.tags
        self.version = probes.version
        self.ps = probes.ps
        self._show = probes.show

    async def show(self, model: str, verbose: bool) -> ShowReply:  # noqa: FBT001 - the catalogue's signature
        status, body = await self._show(model, verbose=verbose)
        return ShowReply(status, body)


class _Observer:
    """Where the edge's facts go."""

    def __init__(self, telemetry: Telemetry, metrics: Metrics, log: Logger) -> None:
        self._telemetry = telemetry
        self._log = log
        self.auth_failed = metrics.auth_failed

    def finished(self, facts: FinishedRequest) -> None:
        self._telemetry.finished(facts)

    def crashed(self, request_id: str, error: Exception) -> None:
        self._log.error("request.crashed", request_id=request_id, exc_info=error)


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)
