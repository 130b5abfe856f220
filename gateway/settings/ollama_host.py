"""Where Ollama is, in the words of its own programs: the variable ``OLLAMA_HOST``."""

import os
from collections.abc import Mapping
from typing import Final

from gateway.settings.values import parse_ollama_url

_PORT: Final = 11_434
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "[::]"})  # noqa: S104  - recognised, not bound to


def ollama_address(text: str) -> str:
    """The URL that such a text means: ``host``, ``host:port``, ``:port``, or a URL.

    As Ollama reads it, the port is 11434, or the scheme's own where there is a scheme, and an IPv6
    address without a port may lack its brackets. An address to listen on at all networks is
    reached on this machine. Raises ValueError, which says what is allowed.
    """
    scheme, has_scheme, place = text.strip().strip("\"'").rpartition("://")
    place = place.removesuffix("/")
    if place.count(":") > 1 and not place.startswith("["):
        place = f"[{place}]"
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, ""
    host = "127.0.0.1" if host in _EVERYWHERE else host
    port = port or ("" if has_scheme else str(_PORT))
    return parse_ollama_url(f"{scheme or 'http'}://{host}{port and f':{port}'}")


def ollama_host(environ: Mapping[str, str] | None = None) -> str | None:
    """Where ``OLLAMA_HOST`` says that Ollama is; None where it says nothing that makes sense."""
    if environ is None:
        environ = os.environ  # noqa: TID251  - as in gateway.settings.loading
    written = environ.get("OLLAMA_HOST", "")
    try:
        return ollama_address(written) if written.strip() else None
    except ValueError:
        return None
