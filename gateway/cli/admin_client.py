"""What the command line asks the admin listener of a running gateway."""

import http.client
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.cli.program import command_name
from gateway.settings import printable

if TYPE_CHECKING:
    from gateway.settings import Loaded

TIMEOUT: Final = 10.0
"""Seconds without a byte. The gateway itself waits two for Ollama's list."""

_SETTING: Final = "listen.admin"
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  - replaced, not bound to
_KEY: Final = re.compile(r"[!-~]{8,512}")
_MAX_BODY: Final = 16 << 20

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON that was expected."""


class AdminFailed(Exception):
    """The text says on one line what happened and what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes

    @property
    def message(self) -> str:
        """Why the gateway refused; empty if it did not say so in its own way."""
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
    """Asks at ``host:port``; ``origin`` says where that address is set.

    ``config`` is the config file that was asked for by name, which the hints repeat.
    """

    host: str
    port: int
    origin: str
    config: Path | None = None
    key: str | None = field(default=None, repr=False)

    def ask(self, method: str, path: str) -> Reply:
        """The answer, of any status but those that refuse us.

        Raises:
            AdminFailed: nobody answered, not a gateway, or it did not let us in.
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
            raise self.somebody_else() from None
        except OSError as error:
            raise self._nobody(error) from None
        finally:
            connection.close()
        if reply.status in (401, 403, 429):
            raise self.refused(reply)
        return reply

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} ({_SETTING}, {self.origin})"

    @property
    def _serve(self) -> str:
        config = "" if self.config is None else f" --config {shlex.quote(str(self.config))}"
        return f"{command_name()} serve{config}"

    def _nobody(self, error: OSError) -> AdminFailed:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror
        return AdminFailed(
            f"no gateway answers at {self._place}: {(reason or str(error)).lower()}. "
            f"Start it with `{self._serve}`; if it runs with another config file, name that with "
            "--config."
        )

    def somebody_else(self) -> AdminFailed:
        """What to say of an answer that no gateway gives."""
        return AdminFailed(
            f"what answers at {self._place} is not the admin listener of a gateway of this "
            f"version. Check the port, and restart `{self._serve}` if it was updated."
        )

    def refused(self, reply: Reply) -> AdminFailed:
        """What to say of an answer that is not the one that was asked for."""
        if not reply.message:
            return self.somebody_else()
        hint = " Give it with --key-file FILE, or `-` for stdin." if reply.status == 401 else ""
        return AdminFailed(f"the gateway at {self._place} refuses: {reply.message}{hint}")


def client_for(loaded: "Loaded", *, config: Path | None, key: str | None) -> AdminClient:
    """The client for the gateway that runs with these settings. Raises AdminFailed.

    ``config`` is the file that was asked for by name.
    """
    address, origin = loaded.settings.listen.admin, loaded.sources[_SETTING]
    if address.port == 0:
        raise AdminFailed(
            f"{_SETTING} has port 0 ({origin}), so it is known to nobody. Set a port of its own."
        )
    host = _ANYWHERE.get(address.host, address.host)
    return AdminClient(host=host, port=address.port, origin=origin, config=config, key=key)


def read_key(source: str) -> str:
    """The key in the file, or on stdin where ``source`` is ``-``. Raises AdminFailed.

    Never an argument, which others on the machine can read, nor a variable, which programs that
    are started inherit.
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
