"""The only place where things are made and wired to each other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from gateway.auth.authenticator import Authenticator
from gateway.auth.limits import FailureLimiter, KeyRateLimiter
from gateway.auth.store import KeyFileStatus, KeyStore
from gateway.host import Host
from gateway.models.catalog import Catalog
from gateway.proxy.background import BackgroundLearning
from gateway.proxy.integrity import TruncationGuard
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.replay import FailureReplay
from gateway.public.body import MemoryBudget
from gateway.public.discovery import Discovery
from gateway.public.handler import Inference, RequestHandler
from gateway.scheduler import Policy, Scheduler, select_next
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from gateway.telemetry.log import LineWriter, Logger, RequestLog, make_logger
from gateway.telemetry.metrics import Gauges, Metrics
from gateway.telemetry.recent import Recent


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """All parts of a running gateway, made and wired; ``running`` starts its background work."""

    settings: Settings
    version: str
    keys: KeyStore
    host: Host
    background: BackgroundLearning
    handler: RequestHandler
    metrics: Metrics
    recent: Recent
    log: Logger

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks inside the block."""
        async with self.host.running():
            tasks = [
                asyncio.create_task(self.keys.watch()),  # noqa: TID251 - owned right here
                asyncio.create_task(self.background.run()),  # noqa: TID251 - owned right here
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                # Before the host saves its statistics.
                self.background.flush()


def build(
    settings: Settings,
    *,
    keys_file: Path,
    version: str,
    state_file: Path | None = None,
    log: Logger | None = None,
    lines: LineWriter | None = None,
    policy: Policy = select_next,
    watch_residency: bool = True,
) -> Gateway:
    """Make a gateway for these settings, inside a running event loop. Nothing is contacted yet.

    Args:
        settings: all of them.
        keys_file: where the keys are.
        version: of the gateway, for metrics and pages.
        state_file: where statistics are kept; without it they are forgotten at the end.
        log: without it one is made that writes to ``lines``.
        lines: where the log is written; without it nowhere.
        policy: decides which request runs next.
        watch_residency: see ``Host``; tests count the requests that Ollama gets.
    """
    now = asyncio.get_running_loop().time
    lines = lines or LineWriter(_Nowhere())
    level, log_format = settings.log.level, settings.log.format
    log = log or make_logger(lines, level=level, log_format=log_format)
    keys = KeyStore(keys_file, report=_key_report(log))
    host = Host(
        settings,
        version=version,
        log=log,
        now=now,
        state_file=state_file,
        policy=policy,
        watch_residency=watch_residency,
    )
    catalog, scheduler = host.catalog, host.scheduler
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
    guard = TruncationGuard(
        settings.integrity,
        contexts=host.context_windows,
        statistics=host.statistics,
        ps=partial(catalog.ps, max_age=0.0),
        show=catalog.show,
    )
    background = BackgroundLearning(
        guard,
        host.statistics,
        truncated_later=_truncation_report(metrics, recent),
        crashed=lambda error: log.error("learning.crashed", exc_info=error),
    )
    pipeline = Pipeline(
        scheduler=host.scheduler,
        upstream=host.upstream,
        settings=settings,
        statistics=host.statistics,
        guard=guard,
        background=background,
        on_unreachable=host.request_failed,
        now=now,
    )
    handler = RequestHandler(
        settings=settings,
        authenticator=Authenticator(
            keys,
            FailureLimiter(settings.limits.failures_per_minute, now=now),
            now=partial(datetime.now, UTC),
        ),
        rates=KeyRateLimiter(now=now),
        trusted_proxies=settings.proxies.trusted,
        inference=Inference(
            settings=settings,
            catalog=catalog,
            pipeline=pipeline,
            failure_replay=FailureReplay(now=now),
        ),
        discovery=Discovery(catalog, settings=settings),
        memory_budget=MemoryBudget(settings.limits.buffered_bytes),
        telemetry=telemetry,
        metrics=metrics,
        log=log,
        now=now,
    )
    return Gateway(
        settings=settings,
        version=version,
        keys=keys,
        host=host,
        background=background,
        handler=handler,
        metrics=metrics,
        recent=recent,
        log=log,
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


def _key_report(log: Logger) -> Callable[[KeyFileStatus], None]:
    def report(status: KeyFileStatus) -> None:
        if status.broken is not None:
            log.error("keys.broken", reason=status.broken, kept=status.keys)
        elif status.warning is not None:
            log.warning("keys.loaded", keys=status.keys, warning=status.warning)
        else:
            log.info("keys.loaded", keys=status.keys, missing=status.missing)

    return report


def _truncation_report(metrics: Metrics, recent: Recent) -> Callable[[str, str], None]:
    def report(model: str, key: str) -> None:
        metrics.prompt_truncated(model, key)
        recent.prompt_truncated(model, key)

    return report


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)
