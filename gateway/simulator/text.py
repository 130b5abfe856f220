"""What a simulated model says. The same prompt to the same model gives the same words."""

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

from gateway.simulator.asked import Ask, Logprob, Piece, ToolCall
from gateway.simulator.models import SimulatedModel

TEMPLATE_TOKENS = 11
"""Tokens that a chat template adds to what is said in it."""
THINKING_TOKENS = 6
REPEAT_LIMIT = 30
"""A token may come this many times more in a row before Ollama gives up."""

_WORDS = (
    "the of and to in is you that it he was for on are as with his they be at one have this from "
    "or had by hot but some what there we can out other were all your when up use word how said an "
    "each she which do their time if will way about many then them would write like so these her "
    "long make thing see him two has look more day could go come did my sound no most number who "
    "over know water than call first people may down side been now find caf\u00e9 na\u00efve <b> "
    "\u2014 & \U0001f40e"
)
_TOKENS = tuple(f" {word}" for word in _WORDS.split())
_SPOKEN = re.compile(r"\s*\S+|\s+\Z")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that will be said, one token each (a tool call takes ``silent`` tokens before it)."""

    pieces: tuple[Piece, ...]
    reason: str
    silent: int = 0
    repeats: bool = False
    """The repeat limit ends it, without a final word."""

    @property
    def tokens(self) -> int:
        return len(self.pieces) + self.silent


def prompt_tokens(text: str) -> int:
    """How many tokens a text is: a quarter of its bytes, as good as any guess."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def plan(ask: Ask, model: SimulatedModel, *, answer_tokens: int) -> Plan:
    """Decide what is said to ``ask``."""
    rng = random.Random(_seed(model.canonical_name, ask.prompt))
    last = ask.messages[-1]
    if ask.tools and last.role == "user" and "CALL_TOOL" in last.text:
        return _tool_call(ask, last.text.partition("CALL_TOOL")[2].strip(), rng)
    thinking = _thoughts(ask, model, rng)
    limit = ask.max_tokens if ask.max_tokens is not None and ask.max_tokens >= 0 else None
    words = _words(ask, model, rng, length=_length(limit, answer_tokens, len(thinking)))
    pieces = [Piece(thinking=token) for token in thinking]
    pieces += _spoken(words, ask.logprobs, rng)
    return _limited(_stopped(pieces, ask.stop), limit)


def _seed(*parts: str) -> int:
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big")


def _length(limit: int | None, answer_tokens: int, taken: int) -> int:
    return answer_tokens if limit is None else max(0, limit - taken)


def _thoughts(ask: Ask, model: SimulatedModel, rng: random.Random) -> list[str]:
    if not model.thinks or ask.think is False:
        return []
    return _without_space(rng.choices(_TOKENS, k=THINKING_TOKENS))


def _words(ask: Ask, model: SimulatedModel, rng: random.Random, *, length: int) -> list[str]:
    if model.always_says:
        return [model.always_says] * length
    last = ask.messages[-1]
    if last.role == "user" and last.text.startswith("SAY:"):
        return _SPOKEN.findall(last.text.removeprefix("SAY:").lstrip(" ")) or [" "]
    words = _without_space(rng.choices(_TOKENS, k=length))
    if ask.format == "json":
        return _as_json_object(words)
    if isinstance(ask.format, dict):
        return re.findall(r"\s*\w+|[^\w\s]+", json.dumps(example(ask.format)))
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
    """Return the smallest value that a JSON schema of the usual kind allows."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: example(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {}))]
    return _EXAMPLES.get(str(kind), "word")


def _spoken(words: list[str], logprobs: int | None, rng: random.Random) -> list[Piece]:
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
    """Cut at the first stop text; what of its token comes before it is still said."""
    text = "".join(piece.content for piece in pieces)
    found = [at for at in (text.find(word) for word in stop if word) if at >= 0]
    if not found:
        return pieces, False
    end, said, kept = min(found), 0, []
    for piece in pieces:
        room = end - said
        if piece.content and room <= len(piece.content):
            kept.append(Piece(content=piece.content[:room], logprobs=piece.logprobs))
            return kept, True
        kept.append(piece)
        said += len(piece.content)
    return kept, True


def _limited(stopped: tuple[list[Piece], bool], limit: int | None) -> Plan:
    pieces, at_stop_word = stopped
    reason = "stop"
    if limit is not None and (len(pieces) > limit or (len(pieces) == limit and not at_stop_word)):
        pieces, reason = pieces[:limit], "length"
    return _repeated(Plan(tuple(pieces), reason))


def _repeated(whole: Plan) -> Plan:
    """End a plan where Ollama loses patience with one token, white space not counted."""
    last, again = "", 0
    for index, piece in enumerate(whole.pieces):
        token = (piece.content or piece.thinking).strip()
        again = again + 1 if token == last else 0
        last = token
        if again > REPEAT_LIMIT:
            return Plan(whole.pieces[:index], "", repeats=True)
    return whole


def _tool_call(ask: Ask, said: str, rng: random.Random) -> Plan:
    arguments: dict[str, Any] = {"text": said} if said else {}
    if said.startswith("{"):
        try:
            arguments = json.loads(said)
        except ValueError:
            arguments = {"text": said}
    call = ToolCall(f"call_{rng.getrandbits(32):08x}", ask.tools[0], arguments)
    silent = 4 + prompt_tokens(json.dumps(arguments))
    return Plan((Piece(tool_calls=(call,)),), "stop", silent=silent)


def huge(size: int) -> Plan:
    """One piece of ``size`` bytes."""
    line = "All work and no play makes a dull answer. "
    return Plan((Piece(content=(line * (size // len(line) + 1))[:size]),), "stop")


def embedding(text: str, *, model: str, length: int) -> list[float]:
    """A unit vector of 32-bit floats that depends on model and text alone."""
    rng = random.Random(_seed(model, text))
    raw = [rng.gauss(0.0, 1.0) for _ in range(length)]
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return [rounded(value / norm) for value in raw]


def rounded(value: float) -> float:
    """The value of the nearest 32-bit float."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def shortest(value: float) -> float:
    """A 32-bit float with no more digits than it needs, as Go prints it."""
    for digits in (7, 8, 9):
        short = float(f"{value:.{digits}g}")
        if rounded(short) == value:
            return short
    return value


def renormalised(vector: list[float], dimensions: int) -> list[float]:
    """The first ``dimensions`` of a vector, as a unit vector again."""
    if not 0 < dimensions < len(vector):
        return vector
    part = vector[:dimensions]
    norm = math.sqrt(sum(value * value for value in part)) or 1.0
    return [rounded(value / norm) for value in part]
