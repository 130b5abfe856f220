"""What real clients make of our errors and heartbeats: their own decoders, fed over loopback."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import anthropic
import ollama
import openai
import pytest

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.errors import (
    GatewayError,
    ModelNotFound,
    QueueFull,
    RequestTooLarge,
    UpstreamIncomplete,
)

from .recorded import streams

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True, slots=True)
class Clients:
    """One of each, all connected to a server that gives one response."""

    openai: openai.OpenAI
    anthropic: anthropic.Anthropic
    ollama: ollama.Client


@contextmanager
def answering(content_type: str, body: bytes, *, status: int = 200) -> Iterator[Clients]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  - its signature
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with (
                openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as openai_client,
                anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as anthropic_client,
                ollama.Client(host=url) as ollama_client,
            ):
                yield Clients(openai_client, anthropic_client, ollama_client)
        finally:
            server.shutdown()
            thread.join()


def recorded(case: str) -> list[bytes]:
    reply = next(reply for reply in streams() if str(reply) == f"0.33.0-{case}")
    return list(reply.chunks)


def broken(dialect: Dialect, case: str) -> bytes:
    """A recorded stream that lost its end and got our error instead."""
    return b"".join(recorded(case)[:-1]) + dialect.late_error(UpstreamIncomplete(), "req_1")


def alive(dialect: Dialect, case: str) -> bytes:
    """A recorded stream with heartbeats wherever they may stand."""
    plain, noted = dialect.heartbeat(streaming=True), dialect.heartbeat(streaming=True, note="n")
    return b"".join(plain + noted + chunk for chunk in recorded(case))


@pytest.mark.parametrize("case", ["chat-stream", "crash-stream", "repeat-limit-chat-stream"])
def test_openai_raises_for_a_late_error(case: str) -> None:
    """With our message and code, after the text so far."""
    with answering(OPENAI.stream_type, broken(OPENAI, case)) as clients:
        stream = clients.openai.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        texts: list[str | None] = []
        with pytest.raises(openai.APIError) as failure:
            texts.extend(chunk.choices[0].delta.content for chunk in stream)

    assert any(texts)
    assert failure.value.message == UpstreamIncomplete().message
    assert failure.value.code == "upstream_incomplete"


def test_openai_completions_raise_for_a_late_error() -> None:
    """The same on the older route."""
    body = broken(OPENAI, "crash-completions-stream")
    with (
        answering(OPENAI.stream_type, body) as clients,
        pytest.raises(openai.APIError, match="before it was complete"),
    ):
        list(clients.openai.completions.create(model="m", prompt="hi", stream=True))


@pytest.mark.parametrize("case", ["responses-stream", "crash-responses-stream"])
def test_responses_raise_for_a_late_error(case: str) -> None:
    """The SDK does not raise for the event that the API documents: ours has what it looks for."""
    with answering(RESPONSES.stream_type, broken(RESPONSES, case)) as clients:
        stream = clients.openai.responses.create(model="m", input="hi", stream=True)
        seen: list[str] = []
        with pytest.raises(openai.APIError) as failure:
            seen.extend(event.type for event in stream)

    assert "response.output_text.delta" in seen
    assert failure.value.message == UpstreamIncomplete().message
    assert failure.value.code == "upstream_incomplete"


@pytest.mark.parametrize("case", ["messages-stream", "crash-messages-stream"])
def test_anthropic_raises_for_a_late_error(case: str) -> None:
    """With our complete error body."""
    with answering(ANTHROPIC.stream_type, broken(ANTHROPIC, case)) as clients:
        stream = clients.anthropic.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        seen: list[str] = []
        with pytest.raises(anthropic.APIStatusError) as failure:
            seen.extend(event.type for event in stream)

    assert "content_block_delta" in seen
    assert json.loads(ANTHROPIC.error_body(UpstreamIncomplete(), "req_1")) == failure.value.body


@pytest.mark.parametrize("case", ["api-chat-stream", "repeat-limit-native-chat-stream"])
def test_ollama_raises_for_a_late_error(case: str) -> None:
    """Also behind a heartbeat, which is the beginning of the error's line."""
    lost = b"".join(recorded(case)[:-1])
    heartbeat = OLLAMA.heartbeat(streaming=True)
    body = lost + heartbeat + OLLAMA.late_error(UpstreamIncomplete(), "req_1")
    with answering(OLLAMA.stream_type, body) as clients:
        stream = clients.ollama.chat(model="m", messages=MESSAGES, stream=True)
        texts: list[str | None] = []
        with pytest.raises(ollama.ResponseError) as failure:
            texts.extend(part.message.content for part in stream)

    assert any(texts)
    assert failure.value.error == UpstreamIncomplete().message


def test_heartbeats_do_not_show_in_streams() -> None:
    """Every client gets the events that Ollama sent and nothing else."""
    with answering(OPENAI.stream_type, alive(OPENAI, "chat-stream-usage")) as clients:
        chat = clients.openai.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert sum(bool(c.choices and c.choices[0].delta.content) for c in chat) == 6
    with answering(RESPONSES.stream_type, alive(RESPONSES, "responses-stream")) as clients:
        response = clients.openai.responses.create(model="m", input="hi", stream=True)
        assert len(recorded("responses-stream")) == len(list(response))
    with answering(ANTHROPIC.stream_type, alive(ANTHROPIC, "messages-stream")) as clients:
        message = clients.anthropic.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert len(recorded("messages-stream")) == len(list(message))
    with answering(OLLAMA.stream_type, alive(OLLAMA, "api-chat-stream")) as clients:
        parts = list(clients.ollama.chat(model="m", messages=MESSAGES, stream=True))
        assert [part.done for part in parts] == [False] * 5 + [True]


def test_heartbeats_do_not_show_in_non_streaming_responses() -> None:
    """Blanks before JSON are JSON."""
    heartbeats = OPENAI.heartbeat(streaming=False) * 9
    body = heartbeats + b'{"choices":[{"message":{"role":"assistant","content":"a"}}]}'
    with answering("application/json", body) as clients:
        answer = clients.openai.chat.completions.create(model="m", messages=MESSAGES)

    assert answer.choices[0].message.content == "a"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelNotFound("No such model.", param="model"), openai.NotFoundError),
        (QueueFull("Full."), openai.InternalServerError),
    ],
)
def test_openai_reads_our_errors(error: GatewayError, kind: type[openai.APIStatusError]) -> None:
    """Class by status; message, type, param and code from the body."""
    body = OPENAI.error_body(error, "req_1")
    with (
        answering("application/json", body, status=error.status) as clients,
        pytest.raises(kind) as failure,
    ):
        clients.openai.chat.completions.create(model="m", messages=MESSAGES)

    raised = failure.value
    assert (error.code, error.type, error.param) == (raised.code, raised.type, raised.param)
    assert error.message in raised.message


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (ModelNotFound("No such model."), anthropic.NotFoundError, "not_found_error"),
        (RequestTooLarge("Too big."), anthropic.APIStatusError, "request_too_large"),
        (QueueFull("Full."), anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_anthropic_reads_our_errors(
    error: GatewayError, kind: type[anthropic.APIStatusError], word: str
) -> None:
    """Class by status; Anthropic's own word for the type."""
    body = ANTHROPIC.error_body(error, "req_1")
    with (
        answering("application/json", body, status=error.status) as clients,
        pytest.raises(kind) as failure,
    ):
        clients.anthropic.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        )

    assert error.message in failure.value.message
    assert word == json.loads(failure.value.response.text)["error"]["type"]


def test_ollama_reads_our_errors() -> None:
    """Its client takes the words out of the body."""
    error = ModelNotFound("No such model.")
    body = OLLAMA.error_body(error, "req_1")
    with (
        answering("application/json", body, status=404) as clients,
        pytest.raises(ollama.ResponseError) as failure,
    ):
        clients.ollama.chat(model="m", messages=MESSAGES)

    assert (404, error.message) == (failure.value.status_code, failure.value.error)
