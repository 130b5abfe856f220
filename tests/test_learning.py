"""What joins the parts that learn to those that decide."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.learning import Learning
from gateway.models.catalog import Catalog
from gateway.models.residency import Residency
from gateway.models.statistics import Observation
from gateway.settings import Settings
from gateway.telemetry.log import LineWriter, make_logger
from tests.models.virtual import now, ticks, virtual_time

ONE, OTHER = "one:1b", "other:7b"


class House:
    """What learns, at virtual time, and what it has logged."""

    def __init__(self, state_file: Path | None = None, **tables: Any) -> None:
        self._output = io.BytesIO()
        self.learning = Learning(
            Settings.model_validate(tables),
            state_file=state_file,
            log=make_logger(LineWriter(self._output), level="debug", log_format="json"),
            now=now,
        )
        self.tracker = self.learning.residency_tracker

    @property
    def reasons(self) -> list[str]:
        """Why the state file could not be used."""
        lines = [json.loads(line) for line in self._output.getvalue().splitlines()]
        return [line["reason"] for line in lines if line["event"] == "learned.file"]

    def observe(self, model: str) -> None:
        self.learning.statistics.observe(
            Observation(
                model=model, resident_before=True, streaming=False, service=2.5, complete=True
            )
        )

    def call(self, model: str) -> bool:
        """One call that was answered; whether its model was confirmed to be loaded before."""
        confirmed = self.tracker.acquire(model)
        self.tracker.release(model, answered=True)
        return confirmed


# Memory.


@virtual_time
async def test_the_queue_sees_what_the_catalogue_believes() -> None:
    """A model that is called is there from then on, and confirmed by its answer."""
    house = House()

    assert house.tracker.view() == Residency()
    assert [house.call(ONE) for _ in range(2)] == [False, True]
    assert house.tracker.view() == Residency(resident=frozenset({ONE}), confirmed=frozenset({ONE}))


@virtual_time
async def test_a_call_without_an_answer_proves_nothing() -> None:
    """Its model may be loading still."""
    house = House()
    house.tracker.acquire(ONE)
    house.tracker.release(ONE, answered=False)

    assert not house.tracker.acquire(ONE)


@virtual_time
async def test_a_view_is_made_once_for_as_long_as_it_says_the_same() -> None:
    """It is asked for at every dispatch."""
    house = House()
    house.call(ONE)
    view = house.tracker.view()

    assert house.tracker.view() is view
    house.call(OTHER)
    assert house.tracker.view() is not view


@pytest.mark.parametrize(("written", "known"), [("auto", None), (1, 1), (3, 3)])
def test_the_owners_number_of_loaded_models_counts(written: object, known: int | None) -> None:
    """Where there is none, experience tells."""

    @virtual_time
    async def seen() -> None:
        house = House(scheduler={"max_loaded_models": written})

        assert house.tracker.view().max_loaded == known

    seen()


@virtual_time
async def test_what_was_in_memory_together_fits_together() -> None:
    """As Ollama listed it."""
    house = House()
    house.learning.residency_tracker.update({ONE: 300.0, OTHER: 300.0}, now())
    residency = house.tracker.view()

    assert residency.coresident == frozenset({frozenset({ONE, OTHER})})
    assert residency.can_coexist(frozenset({ONE, OTHER}))


@virtual_time
async def test_ollama_is_looked_at_for_as_long_as_somebody_does() -> None:
    """What it lists at the first look is what the queue goes by."""
    house = House()
    expires = "2999-01-01T00:00:00Z"

    class Listed:
        async def ps(self) -> bytes:
            model = {"name": ONE, "model": ONE, "expires_at": expires}
            return json.dumps({"models": [model]}).encode()

    looks: list[float] = []
    watching = asyncio.get_running_loop().create_task(
        house.learning.watch(
            cast("Catalog", Listed()), busy=lambda: False, looked=lambda: looks.append(now())
        )
    )
    await ticks(3)

    assert house.tracker.view().resident == frozenset({ONE})
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert looks, "the queue is told of what was seen"


# The state file.


@virtual_time
async def test_what_was_learned_outlives_a_restart(tmp_path: Path) -> None:
    """Saved, and read by the next one at the same Ollama."""
    path = tmp_path / "state.json"
    house = House(path)
    house.learning.load()
    house.observe(ONE)
    house.learning.save()
    after = House(path)
    after.learning.load()

    assert house.learning.statistics.snapshot()
    assert after.learning.statistics.snapshot() == house.learning.statistics.snapshot()
    assert (house.reasons, after.reasons) == ([], [])


@virtual_time
async def test_it_is_saved_from_time_to_time(tmp_path: Path) -> None:
    """A power cut takes a minute of it."""
    path = tmp_path / "state.json"
    house = House(path)
    house.observe(ONE)
    keeping = asyncio.get_running_loop().create_task(house.learning.keep())
    await asyncio.sleep(61.0)

    assert path.exists()
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@virtual_time
async def test_the_figures_of_another_ollama_are_not_taken_over(tmp_path: Path) -> None:
    """Its machine is as fast as it is; the log says why they are gone."""
    path = tmp_path / "state.json"
    house = House(path)
    house.observe(ONE)
    house.learning.save()
    elsewhere = House(path, ollama={"url": "http://192.0.2.1:11434"})
    elsewhere.learning.load()

    assert elsewhere.learning.statistics.snapshot() == {}
    assert elsewhere.reasons == [f"{path} is about another Ollama and was ignored."]


@virtual_time
async def test_no_password_of_the_address_is_written(tmp_path: Path) -> None:
    """Host and port tell one Ollama from another."""
    path = tmp_path / "state.json"
    house = House(path, ollama={"url": "http://192.0.2.1:11434"})
    house.observe(ONE)
    house.learning.save()

    assert json.loads(path.read_bytes())["host"] == "192.0.2.1:11434"


@virtual_time
async def test_without_a_file_it_is_learned_all_the_same() -> None:
    """Until the end of this run: nothing is read or written, and what would keep it waits."""
    house = House()
    house.learning.load()
    house.observe(ONE)
    keeping = asyncio.get_running_loop().create_task(house.learning.keep())
    await asyncio.sleep(1000.0)
    house.learning.save()

    assert not keeping.done()
    assert house.learning.statistics.revision == 1
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@virtual_time
async def test_slot_times_outlive_a_restart(tmp_path: Path) -> None:
    """The scheduler can reject requests that cannot be served right after the start."""
    path = tmp_path / "state.json"
    house = House(path)
    for _ in range(4):
        house.learning.statistics.record_slot_time(ONE, 2.5, loaded=True)
    house.learning.save()
    again = House(path)
    again.learning.load()
    statistics = again.learning.statistics

    assert statistics.knows_slot_time(ONE)
    assert (statistics.slot_time(ONE).mean, statistics.slot_time(ONE).count) == (2.5, 4)
    assert not statistics.has_slot_time(OTHER)
