"""Runs a gateway: its listeners, the signals, the drain."""

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

_AFTER_CUT = 1.0
"""Seconds in which requests that were cut write their last words and their log line."""

_PLAIN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})
"""What binding to an address can fail with; names of hosts have numbers of their own."""

_AFTER_CLOSE = 0.1
"""Seconds that aiohttp waits for handlers, twice. Zero would mean for ever to it."""


class PortInUse(Exception):
    """A listener could not be opened; the text says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a running gateway listens."""

    public: Address
    admin: Address


@asynccontextmanager
async def serving(gateway: Gateway, admin: web.Application) -> AsyncIterator[Serving]:
    """Listen on both addresses for as long as the block lasts; then close without a drain.

    Raises:
        PortInUse: an address cannot be listened on.
    """
    settings = gateway.settings
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.running())
        server = Server(
            gateway.handler.handle,
            settings=settings,
            record_bad_request=gateway.handler.record_bad_request,
            record_crash=gateway.handler.record_crash,
        )
        public = await _listen(loop, server, settings.listen.public, "listen.public")
        stack.push_async_callback(server.shutdown, _AFTER_CLOSE)
        stack.callback(public.close)
        runner = web.AppRunner(admin, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        if runner.server is None:
            raise RuntimeError("the admin application has no server")
        # The admin pages get our connections, too: aiohttp's own would repeat what it cannot read.
        admin_server = Server(
            runner.server.request_handler,
            request_factory=runner.server.request_factory,
            settings=settings,
            record_bad_request=gateway.handler.record_bad_request,
            record_crash=gateway.handler.record_crash,
        )
        stack.push_async_callback(admin_server.shutdown, _AFTER_CLOSE)
        private = await _listen(loop, admin_server, settings.listen.admin, "listen.admin")
        stack.callback(private.close)
        yield Serving(_bound(public), _bound(private))


async def drain(gateway: Gateway) -> None:
    """Let what is under way end, and nothing new begin.

    New work is refused and waiters fail at once; those who have a place keep it until
    ``timeouts.drain_timeout``, and are then cut.
    """
    gateway.handler.drain()
    gateway.scheduler.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(gateway.settings.timeouts.drain_timeout):
            await gateway.handler.idle.wait()
    gateway.handler.abort_all()
    with suppress(TimeoutError):
        async with asyncio.timeout(_AFTER_CUT):
            await gateway.handler.idle.wait()


@contextmanager
def signals(*, first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Be told of SIGTERM and SIGINT instead of dying of them: of the first, and of all later.

    After the block they are ignored: the program is about to end by itself, and somebody who holds
    Ctrl-C down must not turn its exit code into that of a crash.
    """
    loop = asyncio.get_running_loop()
    kinds = (signal.SIGTERM, signal.SIGINT)
    came = False

    def note() -> None:
        nonlocal came
        (second if came else first)()
        came = True

    for kind in kinds:
        loop.add_signal_handler(kind, note)
    try:
        yield
    finally:
        # Held back meanwhile: removing a handler leaves Python's own in place for a moment.
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
        raise PortInUse(_why_not(error, address, setting)) from error


def _why_not(error: OSError, address: Address, setting: str) -> str:
    reason = error.strerror or str(error)
    advice = f"Set an address of this machine with `{setting}`."
    match error.errno:
        case errno.EADDRINUSE:
            advice = f"Stop what listens there, or set another address with `{setting}`."
        case errno.EACCES:
            advice = f"Ports below 1024 are the system's: set another one with `{setting}`."
        case _:
            pass
    if error.errno in _PLAIN:
        # asyncio puts a sentence of its own before the system's.
        reason = os.strerror(error.errno)
    return f"cannot listen on {address} ({setting}): {reason.lower()}. {advice}"


def _bound(server: asyncio.Server) -> Address:
    sock: socket.socket = server.sockets[0]
    host, port = sock.getsockname()[:2]
    return Address(host, port)
