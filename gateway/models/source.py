"""What the catalog needs of Ollama; ``app`` hands in the upstream that does it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ShowReply:
    """Ollama's answer to ``/api/show``, whole, whatever its status."""

    status: int
    body: bytes


class Source(Protocol):
    """Asks Ollama one question and reads its whole answer.

    Each method raises ``UpstreamUnreachable``, ``UpstreamProtocolError`` (which also stands for a
    status other than 200, but with ``show``) or ``UpstreamTimeout``, and can be cancelled at any
    await. Answers are bounded by the source.
    """

    async def tags(self) -> bytes: ...

    async def show(self, model: str, verbose: bool) -> ShowReply: ...  # noqa: FBT001  - mirrors the two fields of the request

    async def version(self) -> bytes: ...

    async def ps(self) -> bytes: ...
