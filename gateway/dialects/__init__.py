"""How each family of routes speaks. Four values without state, and the types they share."""

from gateway.dialects.anthropic import Anthropic
from gateway.dialects.dialect import Body, Dialect, Scanner, Timings, Usage
from gateway.dialects.ollama import Native
from gateway.dialects.openai import OpenAi
from gateway.dialects.responses import Responses

OPENAI: Dialect = OpenAi()
ANTHROPIC: Dialect = Anthropic()
RESPONSES: Dialect = Responses()
NATIVE: Dialect = Native()

__all__ = [
    "ANTHROPIC",
    "NATIVE",
    "OPENAI",
    "RESPONSES",
    "Body",
    "Dialect",
    "Scanner",
    "Timings",
    "Usage",
]
