"""The recordings of a real Ollama, as the dialects see them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect

VERSIONS = ("0.24.0", "0.33.0")

_RECORDINGS = Path(__file__).parent.parent / "recordings"
_OWN_DIALECT = {"/v1/messages": ANTHROPIC, "/v1/responses": RESPONSES}


@dataclass(frozen=True, slots=True)
class Reply:
    """What Ollama answered a POST: its body as the HTTP chunks that came."""

    version: str
    case: str
    dialect: Dialect
    status: int
    streamed: bool
    chunks: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{self.version}-{self.case}"

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


@cache
def replies() -> tuple[Reply, ...]:
    found = []
    for version in VERSIONS:
        cases = json.loads((_RECORDINGS / f"{version}.json").read_text("utf-8"))
        for case, record in cases.items():
            request, response = record["request"], record["response"]
            if request["method"] != "POST":
                continue
            path = request["path"]
            family = OPENAI if path.startswith("/v1/") else OLLAMA
            head = {name.lower(): value for name, value in response["headers"]}
            chunks = response.get("chunks") or [response.get("body", "")]
            found.append(
                Reply(
                    version=version,
                    case=case,
                    dialect=_OWN_DIALECT.get(path, family),
                    status=int(response["status_line"].split()[1]),
                    streamed=head.get("content-type", "").startswith(
                        ("text/event-stream", "application/x-ndjson")
                    ),
                    chunks=tuple(chunk.encode() for chunk in chunks),
                )
            )
    return tuple(found)


def streams() -> list[Reply]:
    return [reply for reply in replies() if reply.streamed]


def bodies() -> list[Reply]:
    return [reply for reply in replies() if not reply.streamed]
