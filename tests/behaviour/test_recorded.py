"""What a real Ollama said once, said again behind the whole gateway: every recorded answer to a
generation, chunk by chunk, and the caller gets these bytes.

Each chunk is sent only when the one before it has reached the caller, so that whatever collects,
splits or joins them shows.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import INFERENCE
from .scripted import Ending, Script, ScriptedOllama, StreamedResponse, open_post

SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")

RECORDINGS = Path(__file__).parent.parent / "recordings"

INCOMPLETE = frozenset(
    {
        "crash-stream",
        "crash-completions-stream",
        "crash-messages-stream",
        "crash-responses-stream",
        "repeat-limit-chat-stream",
        "repeat-limit-native-chat-stream",
        "repeat-limit-responses-stream",
        "sigterm-stream",
    }
)
"""Streams without their final event; all but the last were properly terminated."""

# Between two connections there are two of each of these.
FRAMING = {"content-length", "transfer-encoding", "connection", "date", "server"}

PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
    "/v1/responses": {"input": "x"},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}]},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A recorded answer. What was asked is of no matter: an answer is relayed by what it is."""

    version: str
    name: str
    path: str
    script: Script

    def __str__(self) -> str:
        return f"{self.version}-{self.name}"

    @property
    def streamed(self) -> bool:
        kinds = [value for name, value in self.script.headers if name.lower() == "content-type"]
        return bool(kinds) and kinds[0].startswith(("text/event-stream", "application/x-ndjson"))

    @property
    def outcome(self) -> str:
        """What the log says of it; an error line of Ollama's own ends a stream, and is no good."""
        broken = self.name in INCOMPLETE or self.name.startswith("crash-native")
        return "upstream_incomplete" if broken else "ok"

    @property
    def body(self) -> bytes:
        return b"".join(self.script.pieces)

    @property
    def request(self) -> dict[str, Any]:
        prompt = PROMPTS.get(self.path, {"prompt": "x", "input": "x"})
        return {"model": "tiny", "stream": self.streamed, **prompt}


@dataclass(frozen=True, slots=True)
class Environment:
    ollama: ScriptedOllama
    gateway: Running

    @asynccontextmanager
    async def open_post(self, case: Case, script: Script) -> AsyncIterator[StreamedResponse]:
        self.ollama.script = script
        gateway = self.gateway
        async with (
            asyncio.timeout(5),
            open_post(gateway.port, case.path, case.request, gateway.key) as answer,
        ):
            yield answer

    async def line(self, answer: StreamedResponse) -> dict[str, Any]:
        """What was logged about this answer."""
        wanted = answer.header("x-request-id")
        async with asyncio.timeout(5):
            while True:
                lines = self.gateway.log("request.finished")
                if lines and lines[-1]["request_id"] == wanted:
                    return lines[-1]
                await asyncio.sleep(0.002)


def recorded() -> list[Case]:
    cases = []
    for version in ("0.24.0", "0.33.0"):
        content = json.loads((RECORDINGS / f"{version}.json").read_text("utf-8"))
        for name, each in content.items():
            request, response = each["request"], each["response"]
            path = request["path"]
            if request["method"] == "POST" and path in INFERENCE:
                cases.append(Case(version, name, path, script_of(response)))
    return cases


def script_of(response: dict[str, Any]) -> Script:
    headers = [(name, value) for name, value in response["headers"]]
    if "chunks" in response:
        pieces = [chunk.encode() for chunk in response["chunks"]]
        ending: Ending = "proper" if response["terminated"] else "cut"
        return Script(response["status_line"], headers, pieces, ending)
    body = response["body"].encode()
    # Texts of two of them were shortened when they were kept, their lengths were not.
    headers = [(n, str(len(body)) if n == "Content-Length" else v) for n, v in headers]
    return Script(response["status_line"], headers, [body] if body else [], "proper")


CASES = recorded()
BUSY = [case for case in CASES if case.name.startswith("busy-")]
"""A busy Ollama is waited for: its message does not reach the client."""
COMPLETE = [case for case in CASES if not case.streamed and case not in BUSY]
STREAMS = [case for case in CASES if case.streamed]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Environment]:
    """One gateway for all cases: they follow each other on the connections that are kept."""
    ollama = ScriptedOllama(["tiny:latest"])
    folder = tmp_path_factory.mktemp("recorded")
    async with ollama.listening(), running(ollama.url, folder) as gateway:
        yield Environment(ollama, gateway)
        await left_empty(gateway)


def test_recordings_have_every_version_route_and_ending() -> None:
    """Otherwise the tests below prove nothing."""
    names = {case.name for case in CASES}

    assert {case.path for case in CASES} == INFERENCE
    assert {case.version for case in CASES} == {"0.24.0", "0.33.0"}
    assert names >= INCOMPLETE
    assert len(CASES) > 150


@SHARED_LOOP
@pytest.mark.parametrize("case", COMPLETE, ids=str)
async def test_complete_response_passes_byte_for_byte(case: Case, environment: Environment) -> None:
    """With status and headers, and a correct length."""
    async with environment.open_post(case, replace(case.script, at_once=True)) as answer:
        await answer.head()
        body = await answer.body()
    line = await environment.line(answer)

    ours = ("server-timing", "x-request-id", "retry-after", "x-should-retry")
    assert answer.status == case.script.status
    assert body == case.body
    assert theirs(answer, *ours) == end_to_end(case)
    assert (line["phase"], line["bytes_out"]) == ("done", len(case.body))


@SHARED_LOOP
@pytest.mark.parametrize("case", STREAMS, ids=str)
async def test_stream_passes_chunk_by_chunk(case: Case, environment: Environment) -> None:
    """Each chunk when it comes."""
    async with environment.open_post(case, case.script) as answer:
        environment.ollama.proceed()
        await answer.head()
        for number, piece in enumerate(case.script.pieces):
            if number:
                environment.ollama.proceed()

            assert await answer.chunk() == piece
        environment.ollama.proceed()
        last = await answer.chunk()
        after = await answer.chunk() if last else last
    line = await environment.line(answer)

    ours = ("server-timing", "x-request-id", "cache-control", "x-accel-buffering")
    assert answer.status == case.script.status
    assert theirs(answer, *ours) == end_to_end(case)
    assert answer.header("cache-control") == "no-cache, no-transform"
    assert answer.header("x-accel-buffering") == "no"
    assert line["outcome"] == case.outcome
    if case.name in INCOMPLETE:
        assert_tells(last, case, line)
        assert after is None  # closed, and not ended
        assert (line["status"], line["phase"], line["tokens_counted"]) == (200, "relay", True)
    else:
        assert last == b""  # ended


@SHARED_LOOP
@pytest.mark.parametrize("case", STREAMS, ids=str)
async def test_stream_sent_at_once_is_the_same_bytes(case: Case, environment: Environment) -> None:
    """However the network joins chunks."""
    async with environment.open_post(case, replace(case.script, at_once=True)) as answer:
        await answer.head()
        chunks, end = await answer.chunks()
    line = await environment.line(answer)

    passed = b"".join(chunks)
    assert passed.startswith(case.body)
    if case.name in INCOMPLETE:
        assert end is None
        assert_tells(passed.removeprefix(case.body), case, line)
    else:
        assert end == b""
        assert passed == case.body


def theirs(answer: StreamedResponse, *ours: str) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in answer.headers
        if name.lower() not in FRAMING and name.lower() not in ours
    ]


def end_to_end(case: Case) -> list[tuple[str, str]]:
    withheld = FRAMING | ({"cache-control"} if case.streamed else set())
    return [(n, v) for n, v in case.script.headers if n.lower() not in withheld]


def assert_tells(last: bytes | None, case: Case, line: dict[str, Any]) -> None:
    """The last bytes before the cut are an error that this family's clients raise for."""
    assert last is not None
    if case.path.startswith("/api"):
        assert json.loads(last) == {"error": line["error"]}
        assert last.endswith(b"\n")
        return
    event, _, data = last.decode().rpartition("data: ")
    assert event == ("" if case.path.endswith("completions") else "event: error\n")
    assert data.endswith("\n\n")
    result = json.loads(data)
    assert result["error"]["message"] == line["error"]
    if case.path == "/v1/messages":
        assert result["request_id"] == line["request_id"]
    else:
        assert result["error"]["code"] == "upstream_incomplete"


@pytest.mark.parametrize("case", BUSY, ids=str)
async def test_busy_response_of_ollama_reaches_no_client(case: Case, tmp_path: Path) -> None:
    """The request waits, or ends in the gateway's own error."""
    ollama = ScriptedOllama(["tiny:latest"], replace(case.script, at_once=True))
    async with (
        ollama.listening(),
        running(ollama.url, tmp_path, timeouts={"queue_timeout": 0.2}) as gateway,
    ):
        async with open_post(gateway.port, case.path, case.request, gateway.key) as answer:
            await answer.head()
            body = await answer.body()
        await left_empty(gateway)

    assert answer.status == "HTTP/1.1 503 Service Unavailable"
    assert b"did not come through this gateway" in body
    assert b"server busy" not in body
    assert len(ollama.received) == 1
