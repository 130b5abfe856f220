"""A truncated response is never taken for a complete one.

Ollama presents broken streams as complete. Through us each of them raises in the client that
asked, in every dialect, and the log says what happened and how far it got.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anthropic
import ollama
import openai
import pytest
import pytest_asyncio

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import Clients, clients_of
from .dialect_cases import EVERY_FAMILY, Family
from .scripted import open_post

RAISED = (openai.APIError, anthropic.APIError, ollama.ResponseError)


@dataclass(frozen=True, slots=True)
class Breaking:
    """A way for a stream to break after two tokens, and its word in the log."""

    name: str
    fault: Fault
    outcome: str = "upstream_incomplete"

    def __str__(self) -> str:
        return self.name


MIDWAY = [
    Breaking("runner-dies", Fault.die(after_tokens=2)),
    Breaking("repeat-limit", Fault.repeat(after_tokens=2)),
    Breaking("connection-cut", Fault.abort(after_tokens=2)),
    Breaking("garbage", Fault.garbage(after_tokens=2), "upstream_protocol_error"),
]
# Before the first token, or in an answer that comes whole: nothing was promised yet.
EARLY = [
    Breaking("runner-dies", Fault.die(after_tokens=0), "upstream_5xx"),
    Breaking("connection-cut", Fault.abort(after_tokens=0), "upstream_protocol_error"),
    Breaking("closed-at-once", Fault.refuse(), "upstream_protocol_error"),
    Breaking("garbage", Fault.garbage(), "upstream_protocol_error"),
]
COMPLETE = [
    *EARLY,
    Breaking("runner-dies-midway", Fault.die(after_tokens=2), "upstream_5xx"),
    Breaking("connection-cut-midway", Fault.abort(after_tokens=2), "upstream_protocol_error"),
    Breaking("body-too-short", Fault.short_body(missing=10)),
]


@dataclass(frozen=True, slots=True)
class Environment:
    """An Ollama that can be broken, a gateway in front of it, and its clients."""

    sim: Simulator
    gateway: Running
    clients: Clients

    async def line(self) -> dict[str, Any]:
        """What was logged about the request that ended last."""
        await left_empty(self.gateway)
        return self.gateway.log("request.finished")[-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Environment]:
    """One for all tests that break an answer: what is left over of one would break the next."""
    folder = tmp_path_factory.mktemp("truncation")
    async with (
        Simulator(time_scale=0) as sim,
        running(sim.url, folder) as gateway,
        clients_of(gateway) as clients,
    ):
        yield Environment(sim, gateway, clients)
        await left_empty(gateway)


SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


def status_of(error: Exception) -> int | None:
    status: int | None = getattr(error, "status_code", None)
    return status


# Streams.


@SHARED_LOOP
@EVERY_FAMILY
@pytest.mark.parametrize("breaking", MIDWAY, ids=str)
async def test_stream_that_breaks_midway_raises(
    environment: Environment, family: Family, breaking: Breaking
) -> None:
    """After the text so far; the log has reason and tokens."""
    environment.sim.fault(breaking.fault)
    said: list[str] = []
    with pytest.raises(RAISED) as caught:
        await family.stream(environment.clients, said)
    line = await environment.line()

    assert "".join(said) == "one two"
    assert line["error"] in str(caught.value)
    assert (line["outcome"], line["status"]) == (breaking.outcome, 200)
    assert (line["tokens_out"], line["tokens_counted"]) == (2, True)
    assert line["level"] == "warning"


@SHARED_LOOP
@EVERY_FAMILY
@pytest.mark.parametrize("breaking", EARLY, ids=str)
async def test_stream_that_breaks_before_its_first_token_has_an_error_status(
    environment: Environment, family: Family, breaking: Breaking
) -> None:
    """5xx, and when to retry."""
    environment.sim.fault(breaking.fault)
    said: list[str] = []
    with pytest.raises(RAISED) as caught:
        await family.stream(environment.clients, said)
    line = await environment.line()

    assert said == []
    assert status_of(caught.value) == line["status"]
    assert line["status"] in (500, 502)
    assert line["outcome"] == breaking.outcome


@SHARED_LOOP
@EVERY_FAMILY
async def test_complete_response_raises_nothing(environment: Environment, family: Family) -> None:
    """The control for the tests around this one."""
    said: list[str] = []
    await family.stream(environment.clients, said)
    line = await environment.line()

    assert "".join(said) == "one two three four" == await family.complete(environment.clients)
    assert (line["outcome"], line["tokens_out"]) == ("ok", 4)


# Whole answers.


@SHARED_LOOP
@EVERY_FAMILY
@pytest.mark.parametrize("breaking", COMPLETE, ids=str)
async def test_complete_response_that_breaks_has_an_error_status(
    environment: Environment, family: Family, breaking: Breaking
) -> None:
    """Up to the read-ahead nothing is sent before."""
    environment.sim.fault(breaking.fault)
    with pytest.raises(RAISED) as caught:
        await family.complete(environment.clients)
    line = await environment.line()

    assert status_of(caught.value) == line["status"]
    assert line["status"] in (500, 502)
    assert line["outcome"] == breaking.outcome


@SHARED_LOOP
@EVERY_FAMILY
async def test_response_that_ollama_aborted_passes_and_is_logged(
    environment: Environment, family: Family
) -> None:
    """Ollama itself says in it that it is not complete."""
    environment.sim.fault(Fault.repeat(after_tokens=2))
    answer = await family.complete(environment.clients)
    line = await environment.line()

    assert answer == "one two"
    assert (line["outcome"], line["status"]) == ("upstream_incomplete", 200)
    assert (line["phase"], line["level"]) == ("done", "warning")


# On the wire.


@SHARED_LOOP
@EVERY_FAMILY
async def test_error_event_comes_last_and_the_end_is_missing(
    environment: Environment, family: Family
) -> None:
    """At an event boundary, then the connection closes without the last chunk."""
    environment.sim.fault(Fault.abort(after_tokens=2))
    body = {**family.body, "stream": True}
    gateway = environment.gateway
    async with open_post(gateway.port, family.path, body, gateway.key) as answer:
        await answer.head()
        chunks, end = await answer.chunks()
    line = await environment.line()

    lines = b"".join(chunks).rstrip(b"\n").split(b"\n")
    result = json.loads(lines[-1].removeprefix(b"data: "))["error"]
    assert end is None
    assert line["error"] == (result if isinstance(result, str) else result["message"])
    if family.path.startswith("/v1/"):
        assert b"".join(chunks).endswith(b"\n\n")
