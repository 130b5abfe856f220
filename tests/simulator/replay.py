"""Replays recorded requests on a raw socket and compares the responses."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent.parent / "recordings"

Case = dict[str, Any]

# The values of these fields depend on the generated text, time, chance or the machine. Their types
# are still compared, and the lengths of lists of numbers.
_FIELDS = (
    "id created created_at completed_at modified_at expires_at content text delta response "
    "embedding embeddings context digest size size_vram request_id item_id logprob token "
    "bytes prompt_tokens completion_tokens total_tokens input_tokens output_tokens "
    "prompt_eval_count eval_count total_duration load_duration prompt_eval_duration "
    "eval_duration general.parameter_count tokenizer.ggml.tokens tokenizer.ggml.token_type"
)
VOLATILE = frozenset(_FIELDS.split())
OF_NO_LENGTH = frozenset(("context", "bytes"))
NUMBERS_IN_TEXT = re.compile(r"ts=\d+|0\.\d\d\.0")


def recorded(version: str) -> dict[str, Case]:
    cases: dict[str, Case] = json.loads((RECORDINGS / f"{version}.json").read_text())
    return cases


@dataclass(slots=True)
class Reply:
    """A received response, chunk by chunk."""

    status_line: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    interim: list[str] = field(default_factory=list)
    body: str | None = None
    chunks: list[str] | None = None
    terminated: bool = False
    closed: bool = False

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")


def request_bytes(case: Case) -> bytes:
    """Return the request as it was sent; abbreviations of the recording are expanded."""
    request = case["request"]
    body = _body(request)
    lines = [f"{request['method']} {request['path']} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request["headers"]]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    announced = dict(request["headers"]).get("Content-Length")
    assert announced is None or int(announced) == len(body), "the body is not what was sent"
    return head + body


def _body(request: dict[str, Any]) -> bytes:
    if "json" in request:
        return json.dumps(_expanded(_in_sent_order(request["json"]))).encode()
    text: str = request.get("body", "")
    if text.endswith("… (2000 characters recorded)"):
        length = int(dict(request["headers"])["Content-Length"])
        head = text[: text.index('"x":') + 4]
        depth = (length - len(head) - 1) // 2
        return (head + "[" * depth + "]" * depth + "}").encode()
    encoded = text.encode()
    announced = dict(request["headers"]).get("Content-Length", str(len(encoded)))
    return encoded if len(encoded) == int(announced) else text.encode("latin-1")


def _in_sent_order(value: Any) -> Any:
    """Restore the order of keys: recorded keys are sorted, but the capital key came last."""
    if isinstance(value, dict) and "MODEL" in value:
        return {name: value[name] for name in sorted(value, key=lambda name: name == "MODEL")}
    return value


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _expanded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if isinstance(value, str) and " … repeated to " in value:
        text, _, count = value.partition(" … repeated to ")
        return (text.split()[0] + " ") * int(count.split()[0])
    return value


async def send(port: int, raw: bytes, method: str = "GET") -> Reply:
    """Send bytes on a new connection and read one complete response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        return await read_reply(reader, method)
    finally:
        writer.close()
        await writer.wait_closed()


async def read_reply(reader: asyncio.StreamReader, method: str) -> Reply:
    reply = Reply()
    try:
        await _read_head(reader, reply)
        await _read_body(reader, reply, method)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        reply.closed = True
    return reply


async def _read_head(reader: asyncio.StreamReader, reply: Reply) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        if " 100 " not in status_line:
            break
        reply.interim.append(status_line)
    reply.status_line = status_line
    reply.headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines)]


async def _read_body(reader: asyncio.StreamReader, reply: Reply, method: str) -> None:
    if reply.header("Transfer-Encoding") == "chunked":
        reply.chunks = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data = await reader.readexactly(size + 2)
            reply.chunks.append(data[:-2].decode())
        reply.terminated = await reader.readexactly(2) == b"\r\n"
    elif method != "HEAD":
        length = int(reply.header("Content-Length") or 0)
        reply.body = (await reader.readexactly(length)).decode()
    else:
        reply.body = ""


def differences(case: Case, reply: Reply, *, exact: frozenset[str] = frozenset()) -> list[str]:
    """Return the differences from a recorded response; ``exact`` are volatile fields to compare."""
    wanted = case["response"]
    found = [
        *_unequal("status", wanted["status_line"], reply.status_line),
        *_unequal("headers", _heads(wanted["headers"]), _heads(reply.headers)),
        *_unequal("interim", wanted.get("interim", []), reply.interim),
        *_unequal("closed", case["ended_by"] == "close", reply.closed),
    ]
    if "chunks" in wanted:
        found += _unequal("terminated", wanted["terminated"], reply.terminated)
        found += _unequal_chunks(wanted, reply.chunks or [], exact)
    else:
        found += _unequal("body", shape(wanted["body"], exact), shape(reply.body or "", exact))
    return found


def _unequal(what: str, wanted: object, got: object) -> list[str]:
    return [] if wanted == got else [f"{what}: recorded {wanted!r}, got {got!r}"]


def _heads(headers: Any) -> list[tuple[str, str]]:
    """Return names and values in order, without the values of dates and lengths."""
    return [(n, "" if n in ("Date", "Content-Length") else v) for n, v in headers]


def _unequal_chunks(wanted: dict[str, Any], got: list[str], exact: frozenset[str]) -> list[str]:
    chunks = wanted["chunks"]
    omitted = wanted.get("chunks_omitted", {"after": 0, "count": 0})
    found = _unequal("chunks", len(chunks) + omitted["count"], len(got))
    first = omitted["after"]
    rest = len(chunks) - first
    pairs = list(zip(chunks[:first], got[:first], strict=False))
    pairs += zip(chunks[first:], got[-rest:] if rest else [], strict=False)
    for expected, received in pairs:
        found += _unequal("chunk", shape(expected, exact), shape(received, exact))
    return found


def shape(text: str, exact: frozenset[str] = frozenset()) -> object:
    """Return a body or chunk as events with keys in order, types and stable values."""
    if text.startswith(("data: ", "event: ")):
        return [_event(event, exact) for event in text.split("\n\n")]
    lines = text.split("\n")
    return [_value(json.loads(line), "", exact) if line[:1] == "{" else line for line in lines]


def _event(event: str, exact: frozenset[str]) -> object:
    lines = []
    for line in event.split("\n"):
        name, _, data = line.partition(": ")
        is_json = name == "data" and data.startswith("{")
        lines.append((name, _value(json.loads(data), "", exact) if is_json else data))
    return lines


def _value(value: Any, name: str, exact: frozenset[str]) -> object:
    if isinstance(value, dict):
        return [(key, _value(item, key, exact)) for key, item in value.items()]
    volatile = name in VOLATILE and name not in exact
    if isinstance(value, list):
        if volatile and value and not isinstance(value[0], dict):
            kinds = {type(_number(item)).__name__ for item in value if not isinstance(item, list)}
            nested = [len(item) for item in value if isinstance(item, list)]
            return ("list", 0 if name in OF_NO_LENGTH else len(value), sorted(kinds), nested)
        return [_value(item, name, exact) for item in value]
    if volatile and value is not None:
        return type(value).__name__
    return NUMBERS_IN_TEXT.sub("#", value) if isinstance(value, str) else value


def _number(value: object) -> object:
    """Return a float for every number: a float in a vector may be integral by chance."""
    return 0.5 if isinstance(value, int | float) else value
