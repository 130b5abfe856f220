"""The event loop that long-running commands use."""

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """The loop of uvloop where there is one, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
