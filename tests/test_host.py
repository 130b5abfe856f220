import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UpstreamUnreachable
from gateway.host import Host
from gateway.models.catalog import Catalog
from gateway.models.residency import Residency
from gateway.models.statistics import Observation
from gateway.settings import Settings
from gateway.telemetry.log import LineWriter, make_logger
from tests.models.fakes import FakeProbes
from tests.models.virtual import now, virtual_time

DOWN = UpstreamUnreachable("connection refused")
ONE, OTHER = "one:1b", "other:7b"
NEVER = "2999-01-01T00:00:00Z"


class Scene:
    """A host in front of a fake Ollama, in virtual time, and what it logged."""

    def __init__(self, state_file: Path | None = None, **tables: Any) -> None:
        self._output = io.BytesIO()
        self.host = Host(
            Settings.model_validate(tables),
            version="test",
            log=make_logger(LineWriter(self._output), level="debug", log_format="json"),
            now=now,
            state_file=state_file,
        )
        self.probes = FakeProbes(ONE)
        self.host.catalog = Catalog(
            self.probes, ttl=60.0, stale_limit=600.0, now=now, on_change=self.host._changed
        )

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._output.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def observe(self, model: str) -> None:
        self.host.statistics.observe(
            Observation(
                model=model, resident_before=True, streaming=False, service=2.5, complete=True
            )
        )


def ps_of(*names: str, context: int = 4096) -> bytes:
    entries = [
        {"name": name, "digest": "d1", "expires_at": NEVER, "context_length": context}
        for name in names
    ]
    return json.dumps({"models": entries}).encode()


# What is loaded.


@pytest.mark.parametrize(("setting", "known"), [("auto", None), (1, 1), (3, 3)])
def test_max_loaded_models_of_the_settings_counts(setting: object, known: int | None) -> None:
    """With "auto" it is learned."""

    @virtual_time
    async def run() -> None:
        scene = Scene(scheduler={"max_loaded_models": setting})

        assert scene.host.residency.view().max_loaded == known

    run()


@virtual_time
async def test_loaded_models_and_their_contexts_are_read_from_ollama() -> None:
    """From the start of the background tasks, with all that /api/ps tells."""
    scene = Scene()
    scene.probes.ps_body = ps_of(ONE, OTHER, context=8192)
    async with scene.host.running():
        await asyncio.sleep(1.0)
        view = scene.host.residency.view()
        model = await scene.host.catalog.resolve(ONE, lambda _: True)

    assert view.confirmed == {ONE, OTHER}
    assert view.coresident == {frozenset({ONE, OTHER})}
    assert scene.host.context_windows.in_force(model) == 8192
    assert "ps" in scene.probes.asked


@virtual_time
async def test_nothing_is_resident_after_ollama_went_down() -> None:
    """It may restart with nothing loaded, and with another context."""
    scene = Scene()
    scene.probes.ps_body = ps_of(ONE)
    async with scene.host.running():
        await asyncio.sleep(1.0)
        model = await scene.host.catalog.resolve(ONE, lambda _: True)
        scene.probes.error = DOWN
        await asyncio.sleep(60.0)
        view = scene.host.residency.view()

    assert view == Residency()
    assert scene.host.context_windows.in_force(model) is None
    assert len(scene.logged("upstream.up")) == 1
    assert [line["reason"] for line in scene.logged("upstream.down")] == ["connection refused"]


@virtual_time
async def test_a_request_that_could_not_reach_ollama_loaded_nothing() -> None:
    """Its model counted as loading, because the request had its slot. Ollama is checked at once."""
    scene = Scene()
    async with scene.host.running():
        await asyncio.sleep(5.0)
        scene.host.residency.acquire(ONE)
        scene.host.residency.release(ONE, completed=False)
        assert scene.host.residency.view().resident == {ONE}
        scene.probes.error = DOWN
        scene.host.request_failed()
        assert scene.host.residency.view().resident == frozenset()
        await asyncio.sleep(1.0)

    assert not scene.host.catalog.up


# Statistics over a restart.


@virtual_time
async def test_statistics_outlive_a_restart(tmp_path: Path) -> None:
    """They are saved at the end, and restored by the next gateway in front of the same Ollama."""
    path = tmp_path / "state.json"
    before = Scene(path)
    async with before.host.running():
        before.observe(ONE)
        for _ in range(4):
            before.host.statistics.record_slot_time(ONE, 2.5, loaded=True)
    after = Scene(path).host.statistics

    assert after.snapshot() == before.host.statistics.snapshot()
    assert (after.knows_slot_time(ONE), after.slot_time(ONE).mean) == (True, 2.5)
    assert not after.has_slot_time(OTHER)


@virtual_time
async def test_statistics_are_saved_from_time_to_time(tmp_path: Path) -> None:
    """A power cut loses a minute."""
    path = tmp_path / "state.json"
    scene = Scene(path)
    async with scene.host.running():
        scene.observe(ONE)
        await asyncio.sleep(61.0)
        assert path.exists()


@virtual_time
async def test_statistics_of_another_ollama_are_ignored(tmp_path: Path) -> None:
    """Another machine has another speed; the log says why they are gone."""
    path = tmp_path / "state.json"
    scene = Scene(path)
    async with scene.host.running():
        scene.observe(ONE)
    other = Scene(path, ollama={"url": "http://192.0.2.1:11434"})

    assert other.host.statistics.snapshot() == {}
    assert [line["reason"] for line in other.logged("statistics.file")] == [
        f"{path} is about another Ollama and was ignored."
    ]


@virtual_time
async def test_the_state_file_names_host_and_port_only(tmp_path: Path) -> None:
    """No path and no password of the address is written."""
    path = tmp_path / "state.json"
    scene = Scene(path, ollama={"url": "http://192.0.2.1:11434"})
    async with scene.host.running():
        scene.observe(ONE)

    assert json.loads(path.read_bytes())["host"] == "192.0.2.1:11434"


@virtual_time
async def test_without_a_state_file_statistics_end_with_the_run() -> None:
    """They are kept until then."""
    scene = Scene()
    async with scene.host.running():
        scene.observe(ONE)
        await asyncio.sleep(1000.0)

    assert scene.host.statistics.revision == 1
