"""How requests and errors of each dialect look, written by hand.

What the tests expect must not come from the gateway's own code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL = "llama3.2:1b"
_HELLO = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a client reads it; None where the dialect has no place for it."""

    message: str
    type: str | None = None
    code: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class DialectSpec:
    name: str
    path: str
    fields: Mapping[str, Any]

    def body(self, model: str = MODEL, *, stream: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": model, **self.fields, "stream": stream, **more}

    def failure(self, body: bytes) -> Failure:
        """Return the error that is the body; it must have exactly the dialect's fields."""
        return self._failure(json.loads(body))

    def late_failure(self, stream: bytes) -> Failure:
        """Return the error that is the last event, or the last line, of a stream."""
        if self.name == "native":
            assert stream.endswith(b"\n")
            return self._failure(json.loads(stream.splitlines()[-1]))
        assert stream.endswith(b"\n\n")
        name, data = _event(stream.removesuffix(b"\n\n").rpartition(b"\n\n")[2])
        assert name == ("" if self.name == "openai" else "error")
        result = json.loads(data)
        if self.name == "responses":
            assert result.pop("type") == "error"
            assert type(result.pop("sequence_number")) is int
            inner = result.pop("error")
            assert result == {key: inner[key] for key in ("code", "message", "param")}
            result = {"error": inner}
        return self._failure(result)

    def _failure(self, result: dict[str, Any]) -> Failure:
        match self.name:
            case "native":
                assert set(result) == {"error"}
                return Failure(result["error"])
            case "anthropic":
                assert set(result) == {"type", "error", "request_id"}
                assert result["type"] == "error"
                assert set(result["error"]) == {"type", "message"}
                error = result["error"]
                return Failure(error["message"], error["type"], None, result["request_id"])
            case _:
                assert set(result) == {"error"}
                error = result["error"]
                assert set(error) == {"message", "type", "param", "code"}
                return Failure(error["message"], error["type"], error["code"])


def _event(text: bytes) -> tuple[str, bytes]:
    fields = dict(line.split(b": ", 1) for line in text.split(b"\n"))
    return fields.get(b"event", b"").decode(), fields[b"data"]


OPENAI = DialectSpec("openai", "/v1/chat/completions", {"messages": _HELLO})
RESPONSES = DialectSpec("responses", "/v1/responses", {"input": "hello"})
ANTHROPIC = DialectSpec("anthropic", "/v1/messages", {"messages": _HELLO, "max_tokens": 8})
NATIVE = DialectSpec("native", "/api/chat", {"messages": _HELLO})
ALL = (OPENAI, RESPONSES, ANTHROPIC, NATIVE)
