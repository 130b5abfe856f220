"""The simulated Ollama that tests and the command line start."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from gateway.simulator.catalog import Catalog
from gateway.simulator.clock import Clock
from gateway.simulator.control import Hold, Watch
from gateway.simulator.embedding import Embedder
from gateway.simulator.faults import Fault, FaultQueue, Misbehaviour
from gateway.simulator.generation import Defaults, Generator
from gateway.simulator.gpu import Gpu
from gateway.simulator.handlers import Handlers
from gateway.simulator.inference import Inference
from gateway.simulator.models import Library, SimulatedModel, canonical
from gateway.simulator.received import Inbox, Received
from gateway.simulator.response import Request, Response
from gateway.simulator.routes import target_path
from gateway.simulator.server import Server
from gateway.simulator.stats import Stats
from gateway.simulator.token_stream import Runtime
from gateway.simulator.usual import USUAL_MODELS
from gateway.simulator.versions import NEWEST, wire

_LOOPBACK = "127.0.0.1"


class Simulator:
    """An Ollama that clients cannot tell from the real one, and that tests control.

    Mutable state: the library, the GPU, the fault queue, the counters, the received requests, the
    hold, and the number of releases.

    Args:
        max_loaded_models: models in memory at once; 0 means no limit.
        keep_requests: how many received requests are kept in ``requests``.
        keep_request_bytes: the total size of their bodies.
    """

    def __init__(
        self,
        models: Sequence[SimulatedModel] = USUAL_MODELS,
        *,
        version: str = NEWEST,
        host: str = _LOOPBACK,
        port: int = 0,
        num_parallel: int = 1,
        max_loaded_models: int = 3,
        max_queue: int = 512,
        time_scale: float = 1.0,
        output_tokens: int = 8,
        keep_alive: float = 300.0,
        context: int = 4096,
        keep_requests: int = 1000,
        keep_request_bytes: int = 256 << 20,
    ) -> None:
        self.version = version
        self.host = host
        self.port = port
        self.stats = Stats()
        self.failures: list[BaseException] = []
        """Bugs of the simulator itself; leaving ``async with`` raises them."""
        self._inbox = Inbox(keep_requests, keep_request_bytes)
        self._clock = Clock(time_scale)
        self._watch = Watch()
        self._library = Library(models)
        self._faults = FaultQueue()
        self._hold: Hold | None = None
        self._releases = 0
        self._reserved: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._gpu = Gpu(
            clock=self._clock,
            stats=self.stats,
            num_parallel=num_parallel,
            max_loaded=max_loaded_models,
            max_queue=max_queue,
            changed=self._watch.changed,
        )
        defaults = Defaults(output_tokens=output_tokens, context=context, keep_alive=keep_alive)
        self._handlers = self._wired(defaults)
        self._server = Server(
            handle=self._handle,
            accepts=self._handlers.accepts,
            on_connection=self._connected,
            on_failure=self.failures.append,
            blocked=self._blocked,
        )

    def _wired(self, defaults: Defaults) -> Handlers:
        behaviour = wire(self.version)
        misbehaviour = Misbehaviour(
            clock=self._clock, released=self._released, releases=lambda: self._releases
        )
        runtime = Runtime(
            clock=self._clock,
            hold=lambda: self._hold,
            pause=misbehaviour.pause,
            token_made=self._token_made,
            changed=self._watch.changed,
            stopping=lambda: self._listener is None,
            remove_dead=self._gpu.remove_dead,
        )
        generator = Generator(
            wire=behaviour, gpu=self._gpu, stats=self.stats, runtime=runtime, defaults=defaults
        )
        embedder = Embedder(wire=behaviour, gpu=self._gpu, runtime=runtime, generator=generator)
        inference = Inference(
            wire=behaviour,
            library=self._library,
            gpu=self._gpu,
            generator=generator,
            embedder=embedder,
            faults=self._faults,
            misbehaviour=misbehaviour,
        )
        return Handlers(
            catalog=Catalog(wire=behaviour, library=self._library, gpu=self._gpu),
            inference=inference,
            faults=self._faults,
            misbehaviour=misbehaviour,
            local_only=self.host in (_LOOPBACK, "localhost", "::1"),
        )

    @property
    def requests(self) -> deque[Received]:
        """The received requests, oldest first, as far as they are kept."""
        return self._inbox.received

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen, always on the same port. Raises ``OSError`` if it is in use."""
        if self._listener is not None:
            return
        self._reserve()
        listening = self._socket()
        self._gpu.start()
        self._server.open()
        self._listener = await asyncio.get_running_loop().create_server(
            self._server.factory, sock=listening, backlog=1024
        )

    async def stop(self) -> None:
        """Stop as on SIGTERM: close all connections at once and unload all models.

        The port stays reserved; new connections are refused.
        """
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        await self._server.close()
        await self._gpu.stop()
        self._watch.changed()

    async def restart(self) -> None:
        """Stop and start on the same port."""
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        if self.failures and error is None:
            raise self.failures[0]

    def pull(self, model: SimulatedModel) -> None:
        """Add a model, or replace the model of that name."""
        self._library.add(model)

    def remove(self, name: str) -> None:
        """Delete a model. Raises ``KeyError`` if there is none of that name."""
        self._library.remove(name)
        self._gpu.expire(canonical(name))

    def fault(
        self, fault: Fault, *, times: int = 1, path: str | None = None, model: str | None = None
    ) -> None:
        """Apply a fault to the next ``times`` matching requests.

        Args:
            fault: what happens.
            times: how often.
            path: the path; ``/v1/models/`` matches all models. None matches inference requests.
            model: the name as written in the request.
        """
        self._faults.add(fault, times=times, path=path, model=model)

    def clear_faults(self) -> None:
        self._faults.clear()

    def release(self) -> None:
        """End all faults that have no duration: stalls, slow heads, comments."""
        self._releases += 1
        self._watch.changed()

    def hold(self) -> Hold:
        """Stop all generations before their next token, until the returned hold releases them."""
        if self._hold is not None:
            raise RuntimeError("there is a hold already")
        self._hold = Hold(self._watch, self._end_hold)
        return self._hold

    def kill_runner(self, name: str) -> None:
        """Kill the process of a model, as the kernel does when memory runs out."""
        self._gpu.kill(canonical(name))

    @property
    def loaded(self) -> list[str]:
        """The names of the models that are loaded now."""
        return [runner.model.name for runner in self._gpu.loaded()]

    @property
    def loading(self) -> str | None:
        return self._gpu.loading

    async def wait_for(self, condition: Callable[[], bool], *, timeout: float = 5.0) -> None:  # noqa: ASYNC109  - its error contains the state
        """Wait until ``condition`` is true; it is evaluated after each change of state.

        Raises:
            TimeoutError: after ``timeout`` real seconds; the message contains the state.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._watch.until(condition)
        except TimeoutError:
            raise TimeoutError(f"condition not met after {timeout} s: {self!r}") from None

    async def _handle(self, request: Request, response: Response) -> None:
        self._remember(request)
        await self._handlers.handle(request, response)

    def _remember(self, request: Request) -> None:
        head = request.head
        self.stats.requests[target_path(head.target)] += 1
        self._inbox.keep(Received(head.method, head.target, head.headers, request.body))
        self._watch.changed()

    def _connected(self) -> None:
        self.stats.connections += 1
        self._watch.changed()

    def _blocked(self, change: int) -> None:
        self.stats.blocked += change
        self._watch.changed()

    def _token_made(self) -> None:
        self.stats.tokens_generated += 1
        self._watch.changed()

    async def _released(self) -> None:
        seen = self._releases
        await self._watch.until(lambda: self._releases != seen)

    def _end_hold(self, hold: Hold) -> None:
        if self._hold is hold:
            self._hold = None

    def _reserve(self) -> None:
        """Reserve the port while the simulator is stopped: bound, but not listening."""
        if self._reserved is None:
            self._reserved = self._socket()
            self.port = self._reserved.getsockname()[1]

    def _socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.host, self.port))
            made.setblocking(False)
        except BaseException:
            made.close()
            raise
        return made

    def __repr__(self) -> str:
        stats = self.stats
        return (
            f"<Simulator {stats.active} active, {stats.queued} queued, "
            f"{stats.tokens_generated} tokens, {stats.generations_finished} finished, "
            f"{stats.generations_abandoned} abandoned, {stats.generations_failed} failed, "
            f"{self._gpu!r}>"
        )
