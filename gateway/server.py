"""Runs a gateway: its two listeners, the signals, the drain."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from gateway.app import Gateway
from gateway.public.connection import Server
from gateway.settings import Address

_AFTER_ABORT = 1.0
"""Seconds in which aborted requests write their last bytes and their log line."""

_HANDLER_TIMEOUT = 0.1
"""Seconds that aiohttp waits for handlers, twice. Zero would mean forever."""

_PLAIN_ERRORS = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})
"""What binding to an address can fail with; asyncio's text for these repeats the address."""


class PortInUse(Exception):
    """A listener could not be opened; the text says which one, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a running gateway listens."""

    public: Address
    admin: Address


@asynccontextmanager
async def serving(gateway: Gateway, admin: web.Application) -> AsyncIterator[Serving]:
    """Listen on both addresses inside the block; then close without a drain.

    Raises:
        PortInUse: an address cannot be listened on.
    """
    settings, handler = gateway.settings, gateway.handler
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.running())
        public_server = Server(
            handler.handle,
            settings=settings,
            record_bad_request=handler.record_bad_request,
            record_crash=handler.record_crash,
        )
        public = await _listen(loop, public_server, settings.listen.public, "listen.public")
        stack.push_async_callback(public_server.shutdown, _HANDLER_TIMEOUT)
        stack.callback(public.close)
        runner = web.AppRunner(admin, access_log=None, shutdown_timeout=_HANDLER_TIMEOUT)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        if runner.server is None:
            raise RuntimeError("the admin application has no server")
        # The admin listener uses our connections too: aiohttp's own would log and echo parts of a
        # request that is not valid HTTP.
        admin_server = Server(
            runner.server.request_handler,
            request_factory=runner.server.request_factory,
            settings=settings,
            record_bad_request=handler.record_bad_request,
            record_crash=handler.record_crash,
        )
        stack.push_async_callback(admin_server.shutdown, _HANDLER_TIMEOUT)
        private = await _listen(loop, admin_server, settings.listen.admin, "listen.admin")
        stack.callback(private.close)
        yield Serving(_address_of(public), _address_of(private))


async def drain(gateway: Gateway) -> None:
    """Let running requests end, and start no new ones.

    New requests are rejected and queued ones fail at once. Requests at Ollama may go on for
    ``timeouts.drain_timeout``, and are then aborted.
    """
    handler = gateway.handler
    handler.drain()
    gateway.host.scheduler.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(gateway.settings.timeouts.drain_timeout):
            await handler.idle.wait()
    handler.abort_all()
    with suppress(TimeoutError):
        async with asyncio.timeout(_AFTER_ABORT):
            await handler.idle.wait()


@contextmanager
def signals(*, first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT inside the block: call ``first`` once, then ``second`` each time.

    After the block they are ignored: the program is about to end by itself, and a held Ctrl-C must
    not turn its exit code into that of a crash.
    """
    loop = asyncio.get_running_loop()
    kinds = (signal.SIGTERM, signal.SIGINT)
    received = False

    def handle() -> None:
        nonlocal received
        (second if received else first)()
        received = True

    for kind in kinds:
        loop.add_signal_handler(kind, handle)
    try:
        yield
    finally:
        # Blocked meanwhile: removing a handler installs Python's own for a moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, kinds)
        for kind in kinds:
            loop.remove_signal_handler(kind)
            signal.signal(kind, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, kinds)


async def _listen(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.Protocol],
    address: Address,
    setting: str,
) -> asyncio.Server:
    try:
        return await loop.create_server(factory, address.host, address.port, backlog=1024)
    except OSError as error:
        raise PortInUse(_reason(error, address, setting)) from error


def _reason(error: OSError, address: Address, setting: str) -> str:
    reason = error.strerror or str(error)
    advice = f"Set an address of this machine with `{setting}`."
    match error.errno:
        case errno.EADDRINUSE:
            advice = f"Stop what listens there, or set another address with `{setting}`."
        case errno.EACCES:
            advice = f"Ports below 1024 are the system's: set another one with `{setting}`."
        case _:
            pass
    if error.errno in _PLAIN_ERRORS:
        # asyncio puts a sentence of its own before the system's.
        reason = os.strerror(error.errno)
    return f"cannot listen on {address} ({setting}): {reason.lower()}. {advice}"


def _address_of(server: asyncio.Server) -> Address:
    sock: socket.socket = server.sockets[0]
    host, port = sock.getsockname()[:2]
    return Address(host, port)
