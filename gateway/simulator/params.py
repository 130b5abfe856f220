"""The parameters and the result of a generation, independent of the dialect."""

from dataclasses import dataclass
from typing import Any, Literal

MULTIMODAL_REFUSAL = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support '
    'multimodal requests.","type":"invalid_request_error"}}'
)

Task = Literal["chat", "generate"]


class Refusal(Exception):
    """An error response instead of a generation.

    Args:
        early: it comes from the layer before the handler, which ``/v1`` formats differently.
        in_stream: it comes from a stream that has not sent anything yet.
    """

    def __init__(
        self, status: int, message: str, *, early: bool = False, in_stream: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.early = early
        self.in_stream = in_stream


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class GenerateParams:
    """One generation. Without ``messages`` the model is only loaded; unloaded at keep_alive 0."""

    model: str
    messages: tuple[Message, ...]
    task: Task = "chat"
    stream: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    num_ctx: int | None = None
    keep_alive: float | None = None
    tools: tuple[str, ...] = ()
    """The names of the tools in the request."""
    think: bool | None = None
    format: Any = None
    """None, ``"json"``, or a JSON schema."""
    logprobs: int | None = None
    """Alternatives to return for each token; None returns no log probabilities."""
    truncate: bool = True
    suffix: bool = False
    include_usage: bool = False
    wrong_option: str = ""
    """What is wrong with its options; Ollama reports it only after it has found the model."""

    @property
    def prompt(self) -> str:
        return "".join(f"{message.role} {message.text} " for message in self.messages)

    @property
    def images(self) -> int:
        return sum(message.images for message in self.messages)


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Logprob:
    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """One generated token, or one complete tool call."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Final:
    """How a generation ended, its tokens and durations. Durations are nanoseconds."""

    reason: str
    prompt_tokens: int
    tokens: int
    total_duration: int
    load_duration: int
    prompt_eval_duration: int
    eval_duration: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A complete generation, for a non-streaming response; without ``final`` it was broken off."""

    content: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[Logprob, ...]
    final: Final | None


def completion_of(pieces: list[Piece], final: Final | None) -> Completion:
    return Completion(
        content="".join(piece.content for piece in pieces),
        thinking="".join(piece.thinking for piece in pieces),
        tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
        logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
        final=final,
    )
