"""What the gateway learns while it serves: what is loaded, and how fast each model is.

Joins the parts that learn to those that decide, which do not know each other.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from yarl import URL

from gateway.models.catalog import Catalog
from gateway.models.context_window import ContextWindows
from gateway.models.residency import ResidencyTracker, ResidencyWatcher
from gateway.models.statistics import Statistics, StatisticsFile
from gateway.settings import Settings
from gateway.telemetry.log import Logger


class Learning:
    """Everything that learns. ``run`` keeps looking at Ollama and saving what was learned."""

    def __init__(
        self, settings: Settings, *, state_file: Path | None, log: Logger, now: Callable[[], float]
    ) -> None:
        self._now = now
        self.residency_tracker = ResidencyTracker(
            max_loaded=settings.scheduler.max_loaded_models, now=now
        )
        self.contexts = ContextWindows()
        self.statistics = Statistics(now=now)
        self._file = (
            None if state_file is None else _file(state_file, self.statistics, settings, log)
        )

    def __repr__(self) -> str:
        return f"<Learning {self.residency_tracker!r}>"

    def load(self) -> None:
        """Read what was learned before, if it can be read."""
        if self._file is not None:
            self._file.load()

    def save(self) -> None:
        if self._file is not None:
            self._file.save()

    async def watch(
        self, catalog: Catalog, *, busy: Callable[[], bool], looked: Callable[[], None]
    ) -> None:
        """Look at what is loaded, gently, for ever; ``looked`` is told of each answer."""

        async def ask() -> bytes:
            body = await catalog.ps()
            self.contexts.listed(body)
            return body

        watcher = ResidencyWatcher(
            ask, self.residency_tracker, busy=busy, on_update=looked, now=self._now
        )
        await watcher.run()

    def forget(self) -> None:
        """Ollama went away: what comes back may have nothing loaded, and another context."""
        self.residency_tracker.forget()
        self.contexts.forget()

    async def keep(self) -> None:
        """Save what was learned from time to time, for ever."""
        if self._file is not None:
            await self._file.run()
        await asyncio.Event().wait()


def _file(path: Path, statistics: Statistics, settings: Settings, log: Logger) -> StatisticsFile:
    url = URL(settings.ollama.url)
    return StatisticsFile(
        path,
        statistics,
        host=f"{url.host}:{url.port}",
        report=lambda line: log.warning("learned.file", reason=line),
    )
