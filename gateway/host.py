"""One Ollama, and everything that belongs to it. The gateway makes one ``Host`` for each.

Today the settings name one Ollama; nothing here or below knows that.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from yarl import URL

from gateway.models.catalog import Catalog
from gateway.models.context_window import ContextWindows
from gateway.models.residency import ResidencyTracker, ResidencyWatcher
from gateway.models.statistics import Statistics, StatisticsFile
from gateway.scheduler import Policy, Scheduler, select_next
from gateway.settings import Settings
from gateway.telemetry.log import Logger
from gateway.upstream import Probes, Upstream


class Host:
    """One Ollama: its connections, catalog, residency, context windows, statistics and slots.

    Nothing is contacted before ``running``.

    Args:
        settings: of the gateway; ``settings.ollama.url`` is this Ollama's address.
        version: of the gateway, for ``User-Agent``.
        log: told when Ollama comes up or goes down, and when the state file cannot be used.
        now: monotonic clock in seconds.
        state_file: where statistics are kept over a restart, None to forget them at the end.
        policy: decides which request runs next.
        watch_residency: False to ask Ollama only what requests need, never for what is loaded.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        version: str,
        log: Logger,
        now: Callable[[], float],
        state_file: Path | None = None,
        policy: Policy = select_next,
        watch_residency: bool = True,
    ) -> None:
        url = URL(settings.ollama.url)
        # Host and port without credentials: it stands in the log and in the state file.
        self.name = f"{url.host}:{url.port}"
        self._log = log
        self._now = now
        self._watch_residency = watch_residency
        self.upstream = Upstream(url, version=version)
        self.catalog = Catalog(
            Probes(self.upstream),
            ttl=settings.catalog.ttl,
            stale_limit=settings.catalog.stale_limit,
            now=now,
            on_change=self._changed,
        )
        self.residency = ResidencyTracker(max_loaded=settings.scheduler.max_loaded_models, now=now)
        self.context_windows = ContextWindows()
        self.statistics = Statistics(now=now)
        self._state_file: StatisticsFile | None = None
        if state_file is not None:
            self._state_file = StatisticsFile(
                state_file,
                self.statistics,
                host=self.name,
                report=lambda reason: log.warning("statistics.file", reason=reason),
            )
            self._state_file.load()
        self.scheduler = Scheduler(
            settings.scheduler,
            now=now,
            residency=self.residency,
            statistics=self.statistics,
            policy=policy,
        )

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.catalog!r}, {self.residency!r}, {self.scheduler!r}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks inside the block: refresh, watch and save."""
        async with self.upstream:
            tasks = [asyncio.create_task(self.catalog.run())]  # noqa: TID251 - owned right here
            if self._watch_residency:
                watch = self._residency_watcher().run()
                tasks.append(asyncio.create_task(watch))  # noqa: TID251 - owned right here
            if self._state_file is not None:
                save = self._state_file.run()
                tasks.append(asyncio.create_task(save))  # noqa: TID251 - owned right here
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._state_file is not None:
                    self._state_file.save()

    def request_failed(self) -> None:
        """Note that a request could not reach Ollama: check it now, and forget what is loaded.

        The request had its slot, so its model counts as loading, but Ollama never got to know.
        """
        self.catalog.mark_suspect()
        self.residency.forget()

    def _changed(self, up: bool, reason: str) -> None:  # noqa: FBT001 - called by the catalog
        if up:
            self._log.info("upstream.up")
            return
        # Ollama may restart with nothing loaded and another default context.
        self.residency.forget()
        self.context_windows.forget()
        self._log.warning("upstream.down", reason=reason)

    def _residency_watcher(self) -> ResidencyWatcher:
        async def fetch() -> bytes:
            body = await self.catalog.ps()
            self.context_windows.update_from_ps(body)
            return body

        return ResidencyWatcher(
            fetch,
            self.residency,
            busy=lambda: not self.scheduler.idle,
            # What is loaded now may let a queued request start.
            on_update=self.scheduler.redispatch,
            now=self._now,
        )
