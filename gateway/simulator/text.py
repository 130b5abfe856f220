"""The text of a simulated model. The same prompt to the same model gives the same text."""

import hashlib
import json
import math
import random
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway.simulator.models import SimulatedModel
from gateway.simulator.params import GenerateParams, Logprob, Piece, ToolCall

TEMPLATE_TOKENS = 11
"""Tokens that a chat template adds to the messages."""
THINKING_TOKENS = 6
REPEAT_LIMIT = 30
"""A token may be repeated this many times in a row before Ollama gives up."""

_WORDS = (
    "the of and to in is you that it he was for on are as with his they be at one have this from "
    "or had by hot but some what there we can out other were all your when up use word how said an "
    "each she which do their time if will way about many then them would write like so these her "
    "long make thing see him two has look more day could go come did my sound no most number who "
    "over know water than call first people may down side been now find caf\u00e9 na\u00efve <b> "
    "\u2014 & \U0001f40e"
)
_TOKENS = tuple(f" {word}" for word in _WORDS.split())
_SAY_TOKENS = re.compile(r"\s*\S+|\s+\Z")


@dataclass(frozen=True, slots=True)
class Plan:
    """All pieces to generate, one token each; ``silent`` tokens come before a tool call."""

    pieces: tuple[Piece, ...]
    reason: str
    silent: int = 0
    repeats: bool = False
    """The repeat limit ends it, without a final event."""

    @property
    def tokens(self) -> int:
        return len(self.pieces) + self.silent


def prompt_tokens(text: str) -> int:
    """Return the tokens of a text: a quarter of its bytes, rounded up."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def plan_text(params: GenerateParams, model: SimulatedModel, *, output_tokens: int) -> Plan:
    """Return the text to generate for a request."""
    rng = random.Random(_seed(model.canonical_name, params.prompt))
    last = params.messages[-1]
    if params.tools and last.role == "user" and "CALL_TOOL" in last.text:
        return _tool_call(params, last.text.partition("CALL_TOOL")[2].strip(), rng)
    thinking = _thoughts(params, model, rng)
    limit = params.max_tokens if params.max_tokens is not None and params.max_tokens >= 0 else None
    words = _words(params, model, rng, length=_length(limit, output_tokens, len(thinking)))
    pieces = [Piece(thinking=token) for token in thinking]
    pieces += _pieces(words, params.logprobs, rng)
    return _limited(_stopped(pieces, params.stop), limit)


def _seed(*parts: str) -> int:
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big")


def _length(limit: int | None, output_tokens: int, taken: int) -> int:
    return output_tokens if limit is None else max(0, limit - taken)


def _thoughts(params: GenerateParams, model: SimulatedModel, rng: random.Random) -> list[str]:
    if not model.thinks or params.think is False:
        return []
    return _without_space(rng.choices(_TOKENS, k=THINKING_TOKENS))


def _words(
    params: GenerateParams, model: SimulatedModel, rng: random.Random, *, length: int
) -> list[str]:
    if model.always_says:
        return [model.always_says] * length
    last = params.messages[-1]
    if last.role == "user" and last.text.startswith("SAY:"):
        return _SAY_TOKENS.findall(last.text.removeprefix("SAY:").lstrip(" ")) or [" "]
    words = _without_space(rng.choices(_TOKENS, k=length))
    if params.format == "json":
        return _as_json_object(words)
    if isinstance(params.format, dict):
        return re.findall(r"\s*\w+|[^\w\s]+", json.dumps(example(params.format)))
    return words


def _without_space(tokens: list[str]) -> list[str]:
    return [tokens[0].lstrip(), *tokens[1:]] if tokens else tokens


def _as_json_object(words: list[str]) -> list[str]:
    if len(words) < 3:
        return words and ["{}"]
    inner = [word.replace('"', "'") for word in words[1:-1]]
    return ['{"answer":"', *inner, '"}']


_EXAMPLES: Mapping[str, Any] = MappingProxyType(
    {"string": "word", "number": 1.5, "integer": 1, "boolean": True, "null": None}
)


def example(schema: dict[str, Any]) -> Any:
    """Return the smallest value that a simple JSON schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: example(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {}))]
    return _EXAMPLES.get(str(kind), "word")


def _pieces(words: list[str], logprobs: int | None, rng: random.Random) -> list[Piece]:
    if logprobs is None:
        return [Piece(content=word) for word in words]
    return [Piece(content=word, logprobs=(_likely(word, logprobs, rng),)) for word in words]


def _likely(token: str, alternatives: int, rng: random.Random) -> Logprob:
    first = math.log(rng.uniform(0.6, 0.99))
    others = (
        (rng.choice(_TOKENS), first - index - rng.random()) for index in range(1, alternatives)
    )
    return Logprob(token, first, ((token, first), *others) if alternatives else ())


def _stopped(pieces: list[Piece], stop: tuple[str, ...]) -> tuple[list[Piece], bool]:
    """Truncate at the first stop text; the part of its token before it is kept."""
    text = "".join(piece.content for piece in pieces)
    found = [at for at in (text.find(word) for word in stop if word) if at >= 0]
    if not found:
        return pieces, False
    end, length, kept = min(found), 0, []
    for piece in pieces:
        remaining = end - length
        if piece.content and remaining <= len(piece.content):
            kept.append(Piece(content=piece.content[:remaining], logprobs=piece.logprobs))
            return kept, True
        kept.append(piece)
        length += len(piece.content)
    return kept, True


def _limited(stopped: tuple[list[Piece], bool], limit: int | None) -> Plan:
    pieces, at_stop_word = stopped
    reason = "stop"
    if limit is not None and (len(pieces) > limit or (len(pieces) == limit and not at_stop_word)):
        pieces, reason = pieces[:limit], "length"
    return _repeated(Plan(tuple(pieces), reason))


def _repeated(plan: Plan) -> Plan:
    """End a plan where Ollama gives up on a repeated token; white space is ignored."""
    last, again = "", 0
    for index, piece in enumerate(plan.pieces):
        token = (piece.content or piece.thinking).strip()
        again = again + 1 if token == last else 0
        last = token
        if again > REPEAT_LIMIT:
            return Plan(plan.pieces[:index], "", repeats=True)
    return plan


def _tool_call(params: GenerateParams, text: str, rng: random.Random) -> Plan:
    arguments: dict[str, Any] = {"text": text} if text else {}
    if text.startswith("{"):
        try:
            arguments = json.loads(text)
        except ValueError:
            arguments = {"text": text}
    call = ToolCall(f"call_{rng.getrandbits(32):08x}", params.tools[0], arguments)
    silent = 4 + prompt_tokens(json.dumps(arguments))
    return Plan((Piece(tool_calls=(call,)),), "stop", silent=silent)


def huge(size: int) -> Plan:
    """Return one piece of ``size`` bytes."""
    line = "The same sentence again and again and again. "
    return Plan((Piece(content=(line * (size // len(line) + 1))[:size]),), "stop")


def embedding(text: str, *, model: str, length: int) -> list[float]:
    """Return a unit vector of 32-bit floats that depends only on model and text."""
    rng = random.Random(_seed(model, text))
    raw = [rng.gauss(0.0, 1.0) for _ in range(length)]
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return [rounded(value / norm) for value in raw]


def rounded(value: float) -> float:
    """Return the value of the nearest 32-bit float."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def shortest(value: float) -> float:
    """Return a 32-bit float with as few digits as possible, as Go prints it."""
    for digits in (7, 8, 9):
        short = float(f"{value:.{digits}g}")
        if rounded(short) == value:
            return short
    return value


def renormalised(vector: list[float], dimensions: int) -> list[float]:
    """Return the first ``dimensions`` of a vector, normalised to a unit vector."""
    if not 0 < dimensions < len(vector):
        return vector
    part = vector[:dimensions]
    norm = math.sqrt(sum(value * value for value in part)) or 1.0
    return [rounded(value / norm) for value in part]
