"""How far an answer is, and what it has promised to be."""

from enum import StrEnum


class State(StrEnum):
    PENDING = "pending"
    COMMITTED = "committed"
    ENDED = "ended"
    ABORTED = "aborted"


class ResponseKind(StrEnum):
    """What a heartbeat has promised, before Ollama said a word."""

    STREAM = "stream"
    COMPLETE = "complete"
