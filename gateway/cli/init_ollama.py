"""Is Ollama where the settings say? Asked once, so that `init` can say what is still to be done."""

import http.client
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.cli.admin_client import UNREADABLE

TIMEOUT: Final = 2.0
"""Seconds without a byte. Ollama lists its models in milliseconds, also while it works."""

_MAX_BODY: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found, in a sentence. ``missing``: what is still to be done about it, or None."""

    found: str
    missing: str | None = None


class _Tags(msgspec.Struct):
    models: list[msgspec.Raw] | None


def look(url: str, *, setting: str) -> Sight:
    """Ask the Ollama at ``url`` for its models; ``setting`` says where that address is set."""
    elsewhere = f"If it is elsewhere, correct {setting}."
    try:
        status, body = _ask(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The standard library raises ValueError for a chunk of a negative size.
        found = f"Ollama does not answer at {url}: {_reason(error)}."
        return Sight(found, f"Start Ollama: `ollama serve`. {elsewhere}")
    try:
        models = _count(body) if status == 200 else None
    except UNREADABLE:
        models = None
    if models is None:
        found = f"What answers at {url} is not Ollama: it has no list of models (status {status})."
        return Sight(found, elsewhere.replace("it is", "Ollama is"))
    if not models:
        return Sight(
            f"Ollama answers at {url}, and has no model.",
            "Get a model, on Ollama's machine: ollama pull llama3.2:1b",
        )
    return Sight(f"Ollama answers at {url}, with {models} model{'' if models == 1 else 's'}.")


def _count(tags: bytes) -> int:
    # Go writes an empty list as null.
    return len(msgspec.json.decode(tags, type=_Tags).models or ())


def _ask(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connects = (
        http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    )
    connection = connects(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/api/tags", headers={"Accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(_MAX_BODY)
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLError():
            return "it does not speak TLS, or has no certificate that this machine trusts"
        case OSError():
            return (error.strerror or str(error)).lower()
        case _:
            return "it does not speak HTTP"
