"""The command line's client of the admin listener of a running gateway."""

import http.client
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.cli import command_name
from gateway.settings import printable

if TYPE_CHECKING:
    from gateway.settings import Loaded

TIMEOUT: Final = 10.0
"""Seconds without a byte. The gateway itself waits up to two seconds for Ollama's list."""

_SETTING: Final = "listen.admin"
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  - replaced, not bound to
_KEY: Final = re.compile(r"[!-~]{8,512}")
_MAX_BODY: Final = 16 << 20

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""The exceptions of msgspec for bytes that are not the expected JSON."""


class AdminFailed(Exception):
    """A request to the admin listener failed; the text says on one line why and what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the admin listener."""

    status: int
    body: bytes

    @property
    def message(self) -> str:
        """The gateway's error message; empty if the body is not one of its errors."""
        try:
            return printable(msgspec.json.decode(self.body, type=_Failed).error.message)
        except UNREADABLE:
            return ""


@dataclass(frozen=True, slots=True)
class _Error:
    message: str


@dataclass(frozen=True, slots=True)
class _Failed:
    error: _Error


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminClient:
    """Sends requests to the admin listener.

    Args:
        host, port: Its address.
        origin: Where that address is set, for error messages.
        config: The config file that was given as an option, which the hints repeat.
        key: A key of scope admin, if one is needed.
    """

    host: str
    port: int
    origin: str
    config: Path | None = None
    key: str | None = field(default=None, repr=False)

    def ask(self, method: str, path: str) -> Reply:
        """Send a request and return the response, whatever its status except 401, 403 and 429.

        Raises:
            AdminFailed: There was no response, it was not a gateway's, or it rejected the request.
        """
        headers = {"Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            reply = Reply(response.status, response.read(_MAX_BODY))
        except http.client.HTTPException:
            raise self.not_a_gateway() from None
        except OSError as error:
            raise self._no_response(error) from None
        finally:
            connection.close()
        if reply.status in (401, 403, 429):
            raise self.rejected(reply)
        return reply

    @property
    def _location(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} ({_SETTING}, {self.origin})"

    @property
    def _serve_command(self) -> str:
        config = "" if self.config is None else f" --config {shlex.quote(str(self.config))}"
        return f"{command_name()} serve{config}"

    def _no_response(self, error: OSError) -> AdminFailed:
        reason = "no response in time" if isinstance(error, TimeoutError) else error.strerror
        return AdminFailed(
            f"no gateway responds at {self._location}: {(reason or str(error)).lower()}. "
            f"Start it with `{self._serve_command}`; if it runs with another config file, pass "
            "that with --config."
        )

    def not_a_gateway(self) -> AdminFailed:
        """Return the error for a response that is not a gateway's."""
        return AdminFailed(
            f"the server at {self._location} is not the admin listener of a gateway of this "
            f"version. Check the port, and restart `{self._serve_command}` if it was updated."
        )

    def rejected(self, reply: Reply) -> AdminFailed:
        """Return the error for a response with an error status."""
        if not reply.message:
            return self.not_a_gateway()
        hint = " Pass it with --key-file FILE, or `-` for stdin." if reply.status == 401 else ""
        return AdminFailed(
            f"the gateway at {self._location} rejects the request: {reply.message}{hint}"
        )


def client_for(loaded: "Loaded", *, config: Path | None, key: str | None) -> AdminClient:
    """Return the client for the gateway that runs with these settings.

    Args:
        loaded: The settings.
        config: The config file that was given as an option.
        key: A key of scope admin, if one was given.

    Raises:
        AdminFailed: The settings do not say at which port the gateway listens.
    """
    address, origin = loaded.settings.listen.admin, loaded.sources[_SETTING]
    if address.port == 0:
        raise AdminFailed(
            f"{_SETTING} has port 0 ({origin}), so this command cannot find it. Set a fixed port."
        )
    host = _ANYWHERE.get(address.host, address.host)
    return AdminClient(host=host, port=address.port, origin=origin, config=config, key=key)


def read_key(source: str) -> str:
    """Read the key from a file, or from stdin if ``source`` is ``-``.

    It is never an argument, which other users of the machine can read, nor a variable, which child
    processes inherit.

    Raises:
        AdminFailed: The file cannot be read, or is not one key.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise AdminFailed(
            f"--key-file {source}: {(error.strerror or str(error)).lower()}"
        ) from None
    except UnicodeDecodeError:
        text = ""
    key = text.strip()
    if not _KEY.fullmatch(key):
        where = "stdin" if source == "-" else source
        raise AdminFailed(f"--key-file: {where} must hold one key and nothing else")
    return key
