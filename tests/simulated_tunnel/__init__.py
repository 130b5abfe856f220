"""A simulated tunnel or reverse proxy between clients and a gateway, for tests and benchmarks.

``async with Tunnel(target, TunnelBehaviour.cloudflare().scaled(0.005)) as tunnel`` listens on a
free loopback port: ``tunnel.url`` is what clients use, ``tunnel.stats`` counts how responses ended,
``tunnel.wait_for`` waits for a condition. ``TunnelBehaviour`` says which headers a tunnel adds or
removes, what it buffers and when it aborts; it has profiles for Cloudflare, Tailscale, ngrok, nginx
and HAProxy.
"""

from tests.simulated_tunnel.behaviour import CALLER, TunnelBehaviour
from tests.simulated_tunnel.tunnel import Tunnel, TunnelStats

__all__ = ["CALLER", "Tunnel", "TunnelBehaviour", "TunnelStats"]
