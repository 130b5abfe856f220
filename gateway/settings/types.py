"""The types of settings.

Each type accepts text as well as TOML's own types, because environment variables are always text.
Each refuses a wrong value with one clause that lists everything that is allowed. It becomes the
second half of a line such as `scheduler.max_active = 0 must be a whole number from 1 to 1024`.
"""

import ipaddress
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator

_T = TypeVar("_T")

MAX_SECONDS: Final = 86_400.0
"""A day. A longer timeout is a mistake, or an attempt to switch it off."""
MAX_BYTES: Final = 1 << 40
OLLAMA_PORT: Final = 11_434

_PORTS: Final = range(65_536)
_DURATION: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h)?", re.ASCII)
_SECONDS_PER: Final = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0}
_SIZE: Final = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*(?:(?:(?P<prefix>[kmgt])(?P<binary>i)?)?b)?",
    re.ASCII | re.IGNORECASE,
)
_POWER: Final = {None: 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# The standard library raises UnicodeError for a host name that no resolver accepts, such as one
# with an empty label. Such names are refused here.
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_ADDRESS: Final = re.compile(r"[0-9a-f:.]+(?:%[0-9A-Za-z_.-]+)?", re.ASCII)
_MODEL_PATTERN: Final = re.compile(r"[^\s\[\]]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The characters of a header name: RFC 9110, section 5.6.2."""
_ALL_INTERFACES: Final = frozenset({"", "0.0.0.0", "[::]"})  # noqa: S104  - recognised, not bound


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on. Port 0 means any free port. An IPv6 ``host`` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse ``host:port`` or ``[IPv6]:port``. Raises ValueError, which says what is allowed."""
        if isinstance(value, cls):
            return value
        host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        bare = _bare_host(host)
        if not (bare and colon and port.isdecimal() and port.isascii() and int(port) in _PORTS):
            raise ValueError(
                'must be host:port with a port from 0 to 65535, such as "127.0.0.1:11435", '
                '"[::1]:11435", or "0.0.0.0:11435" for all addresses of this machine'
            )
        return cls(bare, int(port))


def _bare_host(host: str) -> str:
    """Return the host without IPv6 brackets, or an empty string if it is not a host."""
    if host.startswith("[") and host.endswith("]"):
        try:
            address = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return ""
        # ipaddress accepts any text behind the % of a zone.
        return address if _ADDRESS.fullmatch(address) else ""
    return host if _HOST.fullmatch(host.lower()) else ""


def _number(value: object) -> float | None:
    """Return a TOML number as a float; None for booleans (ints to Python), inf and nan."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def parse_seconds(value: object) -> float:
    """Parse a duration: a number of seconds, or text such as "90s", "5m", "2h"."""
    seconds = _number(value)
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found["number"]) * _SECONDS_PER[found["unit"]]
    if seconds is None or not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"must be seconds above 0 and at most {MAX_SECONDS:.0f}, "
            'as a number or as text such as "90s", "5m", "2h"'
        )
    return seconds


def parse_seconds_or_zero(value: object) -> float:
    zero = value.strip() in {"0", "0s", "0.0"} if isinstance(value, str) else _number(value) == 0
    return 0.0 if zero else parse_seconds(value)


def parse_bytes(value: object) -> int:
    """Parse a size: a number of bytes, or text such as "32MiB" (2 to the 25) or "32 MB"."""
    size = _number(value)
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        prefix = found["prefix"].lower() if found["prefix"] else None
        size = float(found["number"]) * (1024 if found["binary"] else 1000) ** _POWER[prefix]
    if size is None or not size.is_integer() or not 1 <= size <= MAX_BYTES:
        raise ValueError(
            'must be a size from 1 byte to 1 TiB, as a number of bytes or as text such as "32MiB", '
            '"32 MB", "1GiB"'
        )
    return int(size)


def integer_between(least: int, most: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from ``least`` to ``most``, both included."""

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return parse


def or_auto(parse: Callable[[object], _T]) -> Callable[[object], _T | None]:
    """Return a parser that also accepts "auto", as None."""

    def parse_or_auto(value: object) -> _T | None:
        if value is None or (isinstance(value, str) and value.strip().lower() == "auto"):
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f'{error}, or "auto"') from None

    return parse_or_auto


def parse_ollama_url(value: object) -> str:
    """Parse an origin: scheme, host, optional port.

    A path is refused because the gateway adds its own, credentials because URLs are logged.
    """
    allowed = (
        "must be http:// or https:// with a host and optionally a port, without user, password or "
        'path, such as "http://127.0.0.1:11434"'
    )
    if not isinstance(value, str):
        raise ValueError(allowed)  # noqa: TRY004  - pydantic collects ValueErrors
    try:
        parts = urlsplit(value)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(allowed) from None
    host = f"[{name}]" if ":" in name else name
    # urlsplit drops line breaks, and does not tell an empty query from none.
    extra = parts.path not in {"", "/"} or "@" in parts.netloc or re.search(r"[\s?#\\]", value)
    if parts.scheme not in {"http", "https"} or not _bare_host(host) or extra or port == 0:
        raise ValueError(allowed)
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def ollama_address(text: str) -> str:
    """Return the URL for an address as Ollama's ``OLLAMA_HOST`` has it.

    Accepts ``host``, ``host:port``, ``:port`` and URLs. As in Ollama, the port is 11434, or the
    scheme's own if there is a scheme, and an IPv6 address without a port may lack its brackets.
    An address that means all interfaces becomes 127.0.0.1.

    Raises:
        ValueError: it is not an address; the text says what is allowed.
    """
    scheme, has_scheme, address = text.strip().strip("\"'").rpartition("://")
    address = address.removesuffix("/")
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, ""
    host = "127.0.0.1" if host in _ALL_INTERFACES else host
    port = port or ("" if has_scheme else str(OLLAMA_PORT))
    return parse_ollama_url(f"{scheme or 'http'}://{host}{port and f':{port}'}")


def parse_path(value: object) -> str:
    if not (isinstance(value, str) and value.isprintable()):
        raise ValueError('must be the path of a file, such as "keys.toml"')
    return value


def parse_host_name(value: object) -> str:
    """Parse a name as a Host header has it, without a port; the result is in lower case."""
    name = value.strip().lower() if isinstance(value, str) else ""
    if not _HOST.fullmatch(name):
        raise ValueError('must be a host name without scheme and port, such as "gateway"')
    return name


def parse_network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(
            'must be an IP address or a network, such as "127.0.0.1", "::1", "172.16.0.0/12"'
        ) from None


def parse_header_name(value: object) -> str:
    if not (isinstance(value, str) and _TOKEN.fullmatch(value)):
        raise ValueError('must be the name of a header, such as "CF-Connecting-IP"')
    return value


def parse_model_pattern(value: object) -> str:
    if not (isinstance(value, str) and _MODEL_PATTERN.fullmatch(value)):
        raise ValueError(
            "must be the name of a model, in which * and ? are wildcards, "
            'such as "llama3.3:70b" or "qwen*"'
        )
    return value


def parse_list(value: object) -> object:
    """Return a list; text is parsed as JSON, which is how environment variables hold lists."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list | tuple):
        raise ValueError(  # noqa: TRY004  - pydantic collects ValueErrors
            "must be a list in brackets; in an environment variable, a list in JSON"
        )
    return value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


AnyCase: Final = BeforeValidator(_lower)
"""For the words of a Literal: "INFO" is "info"."""

Seconds = Annotated[float, BeforeValidator(parse_seconds)]
SecondsOrZero = Annotated[float, BeforeValidator(parse_seconds_or_zero)]
SecondsOrAuto = Annotated[float | None, BeforeValidator(or_auto(parse_seconds))]
CountOrAuto = Annotated[int | None, BeforeValidator(or_auto(integer_between(1, 1024)))]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
ListenAddress = Annotated[Address, BeforeValidator(Address.parse)]
OllamaUrl = Annotated[str, BeforeValidator(parse_ollama_url)]
FilePath = Annotated[str, BeforeValidator(parse_path)]
HostName = Annotated[str, BeforeValidator(parse_host_name)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(parse_network)]
HeaderName = Annotated[str, BeforeValidator(parse_header_name)]
ModelPattern = Annotated[str, BeforeValidator(parse_model_pattern)]
