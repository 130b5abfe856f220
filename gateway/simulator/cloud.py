"""Models that run on somebody else's machines."""

import time

from gateway.simulator.dialects.common import native_error


def unreachable(path: str, host: str) -> bytes:
    """What Ollama says when it would run a model on ``host`` and cannot find the way there."""
    address = f"https://{host}:443{path}?ts={int(time.time())}"
    return native_error(f'Post "{address}": dial tcp: lookup {host}: no such host')
