"""One Ollama: its client, its HTTP/1.1 connections with their deadlines, and small requests to it.

The only folder that speaks HTTP as a client.
"""

from gateway.upstream.client import Outgoing, Upstream
from gateway.upstream.connection import Reply
from gateway.upstream.probes import Probes

__all__ = ["Outgoing", "Probes", "Reply", "Upstream"]
