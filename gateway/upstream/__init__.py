"""Ollama: connections, one request at a time on each, its failures in our words.

The only folder that speaks HTTP as a client. Everything else sees ``Upstream`` and ``Reply``.
"""

from gateway.upstream.client import Outgoing, Upstream
from gateway.upstream.probes import Probes
from gateway.upstream.reply import Reply

__all__ = ["Outgoing", "Probes", "Reply", "Upstream"]
