"""Connections to the one Ollama: kept, checked before use, never shared."""

import asyncio
import os
import socket
import ssl
from typing import Self

from yarl import URL

from gateway.errors import UpstreamUnreachable
from gateway.upstream.connection import Connection

_UNKNOWN = "its name does not resolve"

MAX_IDLE = 64
"""Idle connections kept. Admission decides how many are used; this bounds what lies about."""


class Pool:
    """Mutable state: the idle connections, the last used first, and those lent."""

    def __init__(self, url: URL) -> None:
        self._host = url.host or "127.0.0.1"
        self._port = url.port or 11434
        self._ssl = ssl.create_default_context() if url.scheme == "https" else None
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Pool {len(self._lent)} lent, {len(self._idle)} idle>"

    async def acquire(self, connect_timeout: float) -> Connection:
        """A connection that Ollama has not closed; give it back with ``release``.

        Raises:
            UpstreamUnreachable: refused, unknown host, or not within ``connect_timeout`` seconds.
        """
        connection = self._from_idle()
        if connection is None:
            connection = await self._connect(connect_timeout)
        self._lent.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back; one whose reply is not whole is closed."""
        self._lent.discard(connection)
        if not connection.release():
            return
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _from_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.close()
        return None

    async def _connect(self, connect_timeout: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop), self._host, self._port, ssl=self._ssl
                )
        except TimeoutError as error:
            raise UpstreamUnreachable(
                _unreachable(f"no answer within {connect_timeout:g} s")
            ) from error
        except UnicodeError as error:  # asyncio's word for a name that no host can have
            raise UpstreamUnreachable(_unreachable(_UNKNOWN)) from error
        except OSError as error:
            raise UpstreamUnreachable(_unreachable(_reason(error))) from error
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in (*self._idle, *self._lent):
            connection.close()
        self._idle.clear()


def _reason(error: OSError) -> str:
    """Why, in words that name no address: the caller reads them, too."""
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return "its TLS certificate is not trusted on this machine"
        case ssl.SSLError():
            return "TLS failed"
        case socket.gaierror():
            return _UNKNOWN
        case OSError(errno=None):  # of several addresses each failed in its own way, for one
            return "it accepts no connection"
        case _:
            return os.strerror(error.errno or 0).lower()


def _unreachable(reason: str) -> str:
    return (
        f"Ollama is not reachable ({reason}). Start it on its machine (`ollama serve`); "
        "if it listens elsewhere, the owner sets `ollama.url`."
    )
