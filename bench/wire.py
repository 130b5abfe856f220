"""The bytes that everybody here agrees on: requests, answers, events, in Ollama's own shapes."""

import json
from dataclasses import asdict, dataclass

MODEL = "llama3.2:1b"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

LARGE_BYTES = 20_000_000

TAGS = json.dumps(
    {
        "models": [
            {
                "name": MODEL,
                "model": MODEL,
                "modified_at": "2026-01-01T00:00:00Z",
                "size": 1_321_098_329,
                "digest": "baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878",
                "details": {
                    "parent_model": "",
                    "format": "gguf",
                    "family": "llama",
                    "families": ["llama"],
                    "parameter_size": "1.2B",
                    "quantization_level": "Q8_0",
                },
            }
        ]
    },
    separators=(",", ":"),
).encode()
VERSION = b'{"version":"0.33.0"}'
PS = b'{"models":[]}'

ANSWER = (
    b'{"id":"chatcmpl-885","object":"chat.completion","created":1795349591,"model":"llama3.2:1b",'
    b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"The sky is blue because air scatters short waves of light more than long ones."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":27,"completion_tokens":17,'
    b'"total_tokens":44}}\n'
)

_EVENT = (
    b'data: {"id":"chatcmpl-850","object":"chat.completion.chunk","created":1795349591,'
    b'"model":"llama3.2:1b","system_fingerprint":"fp_ollama","choices":[{"index":0,'
    b'"delta":{%b},"finish_reason":%b}]}\n\n'
)
EVENT = _EVENT % (b'"content":" token"', b"null")
LAST_EVENTS = _EVENT % (b"", b'"stop"') + b"data: [DONE]\n\n"
EVENT_MARK = b"data: "
AFTER_EVENTS = LAST_EVENTS.count(EVENT_MARK)
"""Events at the end of each stream that carry no text."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the upstream shall do, sent inside the body under ``bench``.

    A stream has ``chunks`` events, ``gap`` seconds apart; with ``hold`` it stays open after them.
    ``large``: the answer has ``LARGE_BYTES``.
    """

    chunks: int = 0
    gap: float = 0.0
    hold: bool = False
    large: bool = False


def plan_in(body: bytes) -> Plan | None:
    """The plan of a request, if it has one."""
    if b'"bench"' not in body:
        return None
    return Plan(**json.loads(body)["bench"])


def chat_body(plan: Plan | None = None) -> bytes:
    """A chat of usual size; with a plan it streams."""
    asked: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
            {"role": "user", "content": "Why is the sky blue? " * 12},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    if plan is not None:
        asked |= {"stream": True, "bench": asdict(plan)}
    return json.dumps(asked).encode()


def large_upload() -> bytes:
    return json.dumps({"model": MODEL, "input": "x" * LARGE_BYTES}).encode()


def large_download() -> bytes:
    plan = asdict(Plan(large=True))
    return json.dumps({"model": MODEL, "input": "many", "bench": plan}).encode()


def post(path: str, body: bytes, key: str) -> bytes:
    """A whole request as it goes over the wire, with the headers that an SDK sends."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        f"User-Agent: bench\r\nAuthorization: Bearer {key}\r\n"
        "X-Stainless-Retry-Count: 0\r\nX-Stainless-Read-Timeout: 600\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
