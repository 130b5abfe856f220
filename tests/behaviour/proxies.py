"""What people really put in front: nginx and HAProxy, each a child of the test, and Cloudflare's
tunnel as it is simulated.

Each cuts an answer on which it has heard nothing for ``SILENCE`` seconds, where by itself it would
wait a minute; all else that is set here is what an owner has to set, with the reason beside it.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.simulated_tunnel import Tunnel, TunnelBehaviour

SILENCE = 1.0
"""Seconds after which a proxy cuts."""

_TIMEOUT = 10.0
_PATHS = os.pathsep.join((os.defpath, "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"))

_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{target};
            proxy_read_timeout {silence:.0f}ms;
            {more}
        }}
    }}
}}
"""

# Without abortonclose a caller who leaves is not noticed before Ollama has answered.
_HAPROXY = """\
global
    maxconn 100
defaults
    mode http
    option abortonclose
    timeout connect 5s
    timeout client 60s
    timeout server {silence:.0f}ms
listen gateway
    bind 127.0.0.1:{port}
    server gateway 127.0.0.1:{target}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A proxy in one of its settings; ``package`` is what Debian and others call it."""

    name: str
    program: str
    package: str
    config: str
    words: Callable[[str, Path], Sequence[str]]
    """Its command line, from the program's place and the configuration's."""
    more: str = ""
    timeout_status: int = 504

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Simulated:
    name: str
    behaviour: TunnelBehaviour

    @property
    def timeout_status(self) -> int:
        return self.behaviour.timeout_status

    def __str__(self) -> str:
        return self.name


Product = Program | Simulated


def _nginx_words(program: str, config: Path) -> Sequence[str]:
    return program, "-e", "stderr", "-p", str(config.parent), "-c", str(config)


def _haproxy_words(program: str, config: Path) -> Sequence[str]:
    return program, "-db", "-f", str(config)


# Before 1.29.7 nginx asks in HTTP/1.0 unless it is told otherwise.
NGINX_AS_IT_COMES = Program(
    "nginx in HTTP 1.0", "nginx", "nginx", _NGINX, _nginx_words, "proxy_http_version 1.0;"
)
NGINX = Program("nginx", "nginx", "nginx", _NGINX, _nginx_words, "proxy_http_version 1.1;")
HAPROXY = Program("haproxy", "haproxy", "haproxy", _HAPROXY, _haproxy_words)
CLOUDFLARE = Simulated("cloudflare", replace(TunnelBehaviour.cloudflare(), silence=SILENCE))

IN_1_1 = (NGINX, HAPROXY, CLOUDFLARE)

every_proxy = pytest.mark.parametrize("product", [NGINX_AS_IT_COMES, *IN_1_1], ids=str)
every_proxy_in_1_1 = pytest.mark.parametrize("product", IN_1_1, ids=str)


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that listens, in front of what was named when it was started."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def proxied(product: Product, target: int, folder: Path) -> AsyncIterator[Proxy]:
    """Start it in front of a port of loopback; it is gone with the block.

    Skips the test where the program is not installed.
    """
    if isinstance(product, Simulated):
        async with Tunnel(target, product.behaviour) as tunnel:
            yield Proxy(tunnel.port)
        return
    program = shutil.which(product.program, path=_PATHS)
    if program is None:
        pytest.skip(f"{product.program} is not installed: it is in the package {product.package}")
    home = folder / product.program
    home.mkdir()
    with _free_port() as port:
        config = product.config.format(
            folder=home, port=port, target=target, silence=SILENCE * 1000, more=product.more
        )
        with _child(product.words(program, home / "config"), home, config) as child:
            await _listening(port, child)
            yield Proxy(port)


@contextmanager
def _free_port() -> Iterator[int]:
    """Bound, but not listening: no other program gets the port, and the proxy can listen on it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@dataclass(frozen=True, slots=True)
class _Child:
    popen: "subprocess.Popen[bytes]"
    said: Path

    def explain(self) -> None:
        """Fail with its own words."""
        pytest.fail(self.said.read_text() or "it said nothing")


@contextmanager
def _child(words: Sequence[str], home: Path, config: str) -> Iterator[_Child]:
    (home / "config").write_text(config)
    said = home / "said"
    with said.open("wb") as out:
        popen = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield _Child(popen, said)
    finally:
        popen.kill()
        popen.wait()


async def _listening(port: int, child: _Child) -> None:
    """Wait until the proxy accepts connections; it does not announce it."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if child.popen.poll() is not None or time.monotonic() > deadline:
                child.explain()
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return
