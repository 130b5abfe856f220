"""The kinds of values that settings have.

Every kind takes text as well as TOML's own types, for the environment knows nothing but text, and
refuses with one sentence that says all that is allowed: it becomes the second half of a line such
as `scheduler.max_active = 0 must be a whole number from 1 to 1024`.
"""

import ipaddress
import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator

MAX_SECONDS = 86_400.0
"""A day. A clock that runs longer is a clock switched off by mistake."""

MAX_BYTES = 1 << 40

_PORTS = range(65_536)
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h)?", re.ASCII)
_SECONDS_PER = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0}
_SIZE = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*(?:(?:(?P<prefix>[kmgt])(?P<binary>i)?)?b)?",
    re.ASCII | re.IGNORECASE,
)
_POWER = {None: 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
"""What no resolver can make anything of is refused here: the standard library raises for it."""
_ADDRESS = re.compile(r"[0-9a-f:.]+(?:%[0-9A-Za-z_.-]+)?", re.ASCII)
_PATTERN = re.compile(r"[^\s\[\]]+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2: what a header's name may consist of."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 stands for any free port; an IPv6 ``host`` has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """``host:port``, or ``[IPv6]:port``; ValueError says what is allowed."""
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
    """The host without IPv6 brackets; empty where it is none."""
    if host.startswith("[") and host.endswith("]"):
        try:
            address = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return ""
        # To the standard library, anything may stand behind the % of a zone.
        return address if _ADDRESS.fullmatch(address) else ""
    return host if _HOST.fullmatch(host.lower()) else ""


def _number(value: object) -> float | None:
    """TOML's numbers. To Python True is one, to a user it is not; nor is TOML's inf of any use."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def parse_seconds(value: object) -> float:
    """A duration in seconds, from a number or from text such as "90s", "5m", "2h"."""
    seconds = _number(value)
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found["number"]) * _SECONDS_PER[found["unit"]]
    if seconds is None or not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"must be seconds above 0 and at most {MAX_SECONDS:.0f}, "
            'as a number or as text such as "90s", "5m", "2h"'
        )
    return seconds


def parse_seconds_or_auto(value: object) -> float | Literal["auto"]:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return parse_seconds(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "auto"') from None


def parse_bytes(value: object) -> int:
    """A size in bytes, from a number or from text such as "32MiB" (2 to the 25) or "32 MB"."""
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


def parse_ollama_url(value: object) -> str:
    """Scheme, host and port alone: paths are the gateway's own, credentials would be logged."""
    allowed = (
        "must be http:// or https:// with a host and perhaps a port, and no user, password or "
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
    # urlsplit drops line breaks and cannot tell "no query" from "an empty one".
    extra = parts.path not in {"", "/"} or "@" in parts.netloc or re.search(r"[\s?#\\]", value)
    if parts.scheme not in {"http", "https"} or not _bare_host(host) or extra or port == 0:
        raise ValueError(allowed)
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def parse_path(value: object) -> str:
    """A file's name, or nothing."""
    if not (isinstance(value, str) and value.isprintable()):
        raise ValueError('must be the path of a file, such as "keys.toml"')
    return value


def parse_host_name(value: object) -> str:
    """A name as it stands in a Host header, without a port; compared in lower case."""
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


def parse_pattern(value: object) -> str:
    if not (isinstance(value, str) and _PATTERN.fullmatch(value)):
        raise ValueError(
            "must be the name of a model, in which * and ? are wildcards, "
            'such as "llama3.3:70b" or "qwen*"'
        )
    return value


def parse_list(value: object) -> object:
    """JSON where text stands, as in the environment."""
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


def whole_number(least: int, most: int) -> BeforeValidator:
    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return BeforeValidator(parse)


def one_of(*words: str) -> BeforeValidator:
    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in words:
            *rest, last = (f'"{known}"' for known in words)
            raise ValueError(f"must be {', '.join(rest)} or {last}")
        return word

    return BeforeValidator(parse)


def parse_count_or_auto(value: object) -> int | str:
    """A whole number of things, or the word that leaves it to experience."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,4}\s*", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise ValueError('must be a whole number from 1 to 1024, or "auto"')
    return value


def parse_seconds_or_zero(value: object) -> float:
    """As a duration, but none at all is one, too."""
    nothing = value == 0 if not isinstance(value, str) else value.strip() in ("0", "0s", "0.0")
    return 0.0 if nothing and not isinstance(value, bool) else parse_seconds(value)


Seconds = Annotated[float, BeforeValidator(parse_seconds)]
SecondsOrAuto = Annotated[float | Literal["auto"], BeforeValidator(parse_seconds_or_auto)]
CountOrAuto = Annotated[int | Literal["auto"], BeforeValidator(parse_count_or_auto)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
ListenAddress = Annotated[Address, BeforeValidator(Address.parse)]
OllamaUrl = Annotated[str, BeforeValidator(parse_ollama_url)]
FilePath = Annotated[str, BeforeValidator(parse_path)]
HostName = Annotated[str, BeforeValidator(parse_host_name)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(parse_network)]
HeaderName = Annotated[str, BeforeValidator(parse_header_name)]
Pattern = Annotated[str, BeforeValidator(parse_pattern)]
