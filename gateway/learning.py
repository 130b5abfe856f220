"""What the gateway learns while it serves: what is loaded, and how fast each model is.

Joins the parts that learn to those that decide, which do not know each other.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from yarl import URL

from gateway.models.catalog import Catalog
from gateway.models.context_window import ContextWindows
from gateway.models.ps import PsWatch
from gateway.models.residency import ResidencyTracker, ResidencyView
from gateway.models.statistics import Statistics
from gateway.models.statistics_file import LearnedFile
from gateway.scheduler import Measured, Residency, ServiceTimes
from gateway.settings import Settings
from gateway.telemetry.log import Logger


class Memory:
    """Ollama's memory as admission sees it, over what the catalogue believes of it."""

    def __init__(self, residency_tracker: ResidencyTracker) -> None:
        self._residents = residency_tracker
        # The last view and what was made of it: it is asked for at every dispatch.
        self._seen: ResidencyView | None = None
        self._residency = Residency()

    def began(self, model: str, /) -> bool:
        return self._residents.began(model)

    def ended(self, model: str, /, *, answered: bool) -> None:
        self._residents.ended(model, answered=answered)

    def residency(self) -> Residency:
        view = self._residents.view()
        if view is not self._seen:
            self._seen = view
            self._residency = Residency(view.resident, view.together, view.max_loaded)
        return self._residency


class Learning:
    """Everything that learns. ``run`` keeps looking at Ollama and saving what was learned."""

    def __init__(
        self, settings: Settings, *, state_file: Path | None, log: Logger, now: Callable[[], float]
    ) -> None:
        self._now = now
        self.residency_tracker = ResidencyTracker(
            max_loaded=settings.scheduler.max_loaded_models, now=now
        )
        self.memory = Memory(self.residency_tracker)
        self.contexts = ContextWindows()
        self.statistics = Statistics()
        self._file = (
            None if state_file is None else _file(state_file, self.statistics, settings, log)
        )

    def __repr__(self) -> str:
        return f"<Learning {self.residency_tracker!r}>"

    def load(self) -> None:
        """Read what was learned before, if it can be read."""
        if self._file is not None:
            self._file.load()

    def service_times(self) -> ServiceTimes:
        """How long answers took before this start, for the queue to begin with."""
        times = ServiceTimes(self._now)
        for model in self.statistics.snapshot():
            warm = _measured(self.statistics, model, resident=True)
            cold = _measured(self.statistics, model, resident=False)
            times.expect(model, warm=warm, cold=Measured() if cold == warm else cold)
        return times

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

        look = PsWatch(ask, self.residency_tracker, busy=busy, looked=looked, now=self._now)
        await look.run()

    def forget(self) -> None:
        """Ollama went away: what comes back may have nothing loaded, and another context."""
        self.residency_tracker.forget()
        self.contexts.forget()

    async def keep(self) -> None:
        """Save what was learned from time to time, for ever."""
        if self._file is not None:
            await self._file.run()
        await asyncio.Event().wait()


def _measured(statistics: Statistics, model: str, *, resident: bool) -> Measured:
    known = statistics.expected_service(model, resident=resident)
    return Measured() if known is None else Measured(known.mean, known.deviation, known.count)


def _file(path: Path, statistics: Statistics, settings: Settings, log: Logger) -> LearnedFile:
    url = URL(settings.ollama.url)
    return LearnedFile(
        path,
        statistics,
        host=f"{url.host}:{url.port}",
        report=lambda line: log.warning("learned.file", reason=line),
    )
