"""How each family of routes writes JSON, streams and errors: four stateless dialects."""

from gateway.dialects.anthropic import Anthropic
from gateway.dialects.body import Body, Timings, Usage
from gateway.dialects.dialect import Dialect
from gateway.dialects.framing import Scanner
from gateway.dialects.ollama import Ollama
from gateway.dialects.openai import OpenAi
from gateway.dialects.responses import Responses

OPENAI: Dialect = OpenAi()
ANTHROPIC: Dialect = Anthropic()
RESPONSES: Dialect = Responses()
OLLAMA: Dialect = Ollama()

__all__ = [
    "ANTHROPIC",
    "OLLAMA",
    "OPENAI",
    "RESPONSES",
    "Body",
    "Dialect",
    "Scanner",
    "Timings",
    "Usage",
]
