"""The truth about prompts, with an Ollama behind it that says what a test wants."""

import json
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import UpstreamUnreachable
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.source import ShowReply
from gateway.models.statistics import Statistics
from gateway.proxy.guard import TruncationGuard
from gateway.settings import IntegritySettings


@dataclass(slots=True)
class Telling:
    """Answers ``ps`` and ``show``, and counts how often; without a body it is out of reach."""

    loaded: dict[str, int] | None = None
    shown: dict[str, Any] | None = None
    asked: list[str] = field(default_factory=list)

    async def ps(self) -> bytes:
        self.asked.append("ps")
        if self.loaded is None:
            raise UpstreamUnreachable("away")
        models = [
            {"name": name, "model": name, "digest": "d", "context_length": context}
            for name, context in self.loaded.items()
        ]
        return json.dumps({"models": models}).encode()

    async def show(self, _: Model) -> ShowReply:
        self.asked.append("show")
        if self.shown is None:
            raise UpstreamUnreachable("away")
        return ShowReply(200, json.dumps(self.shown).encode())


def a_truth(
    ollama: Telling | None = None,
    *,
    contexts: ContextWindows | None = None,
    statistics: Statistics | None = None,
    incomplete_fails: bool = False,
    truncated_fails: bool = False,
) -> TruncationGuard:
    """One that knows nothing and refuses nothing, unless told otherwise."""
    ollama = ollama or Telling()
    return TruncationGuard(
        IntegritySettings(
            incomplete="error" if incomplete_fails else "pass",
            truncated_prompt="error" if truncated_fails else "pass",
        ),
        contexts=contexts or ContextWindows(),
        statistics=statistics or Statistics(),
        ps=ollama.ps,
        show=ollama.show,
    )
