"""The simulated Ollama as a whole: what a test or the command line starts."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from gateway.simulator.answer import Answer, Request
from gateway.simulator.catalog import Catalog
from gateway.simulator.clock import Clock
from gateway.simulator.control import Hold, Watch
from gateway.simulator.embedding import Embedder
from gateway.simulator.faults import Fault, FaultQueue
from gateway.simulator.generation import Defaults, Generator
from gateway.simulator.gpu import Gpu
from gateway.simulator.handlers import Handlers
from gateway.simulator.inference import Inference
from gateway.simulator.misbehaviour import Misbehaviour
from gateway.simulator.models import Library, SimulatedModel, canonical
from gateway.simulator.received import Inbox, Received
from gateway.simulator.routes import target_path
from gateway.simulator.server import Server
from gateway.simulator.stats import Stats
from gateway.simulator.turn import Stage
from gateway.simulator.usual import USUAL_MODELS
from gateway.simulator.versions import NEWEST, wire

_LOOPBACK = "127.0.0.1"


class Simulator:
    """An Ollama that a client cannot tell from the real one, and that a test can command.

    Its mutable state: the library, the GPU, the fault queue, the counters, the requests received,
    the hold, and how often what waits was released. ``max_loaded_models`` 0 means as many as there
    are; ``keep_requests`` is how many received requests are remembered, at most
    ``keep_request_bytes`` of them.
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
        answer_tokens: int = 8,
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
        defaults = Defaults(answer_tokens=answer_tokens, context=context, keep_alive=keep_alive)
        self._handlers = self._wired(defaults)
        self._server = Server(
            handle=self._handle,
            welcome=self._handlers.welcome,
            on_connection=self._connected,
            on_failure=self.failures.append,
            blocked=self._blocked,
        )

    def _wired(self, defaults: Defaults) -> Handlers:
        habits = wire(self.version)
        misbehaviour = Misbehaviour(
            clock=self._clock, released=self._released, releases=lambda: self._releases
        )
        stage = Stage(
            clock=self._clock,
            hold=lambda: self._hold,
            pause=misbehaviour.pause,
            token_made=self._token_made,
            changed=self._watch.changed,
            stopping=lambda: self._listener is None,
            bury=self._gpu.bury,
        )
        generator = Generator(
            wire=habits, gpu=self._gpu, stats=self.stats, stage=stage, defaults=defaults
        )
        embedder = Embedder(wire=habits, gpu=self._gpu, stage=stage, generator=generator)
        inference = Inference(
            wire=habits,
            library=self._library,
            gpu=self._gpu,
            generator=generator,
            embedder=embedder,
            faults=self._faults,
            misbehaviour=misbehaviour,
        )
        return Handlers(
            catalog=Catalog(wire=habits, library=self._library, gpu=self._gpu),
            inference=inference,
            faults=self._faults,
            misbehaviour=misbehaviour,
            local_only=self.host in (_LOOPBACK, "localhost", "::1"),
        )

    @property
    def requests(self) -> deque[Received]:
        """What was received, oldest first, as far as it is remembered."""
        return self._inbox.received

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; always on the same port once one is known. ``OSError`` if it is taken."""
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
        """End as on SIGTERM: connections close where they stand, nothing stays loaded.

        The port stays reserved; whoever connects meanwhile is refused.
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
        """Add a model, or replace the one of that name."""
        self._library.add(model)

    def remove(self, name: str) -> None:
        """Delete a model; ``KeyError`` if there is none of that name."""
        self._library.remove(name)
        self._gpu.expire(canonical(name))

    def fault(
        self, fault: Fault, *, times: int = 1, path: str | None = None, model: str | None = None
    ) -> None:
        """Have the next ``times`` matching requests meet a fault.

        Without a path only inference requests match; ``/v1/models/`` stands for all of its kind.
        ``model`` is the name as the request writes it.
        """
        self._faults.add(fault, times=times, path=path, model=model)

    def clear_faults(self) -> None:
        self._faults.clear()

    def release(self) -> None:
        """Let everything go on that waits for it: stalls, slow heads, comments without seconds."""
        self._releases += 1
        self._watch.changed()

    def hold(self) -> Hold:
        """Stop all generations before their next token, until the handle releases them."""
        if self._hold is not None:
            raise RuntimeError("generations are being held already")
        self._hold = Hold(self._watch, self._end_hold)
        return self._hold

    def kill_runner(self, name: str) -> None:
        """Kill the process that holds a model, as the kernel does when memory runs out."""
        self._gpu.kill(canonical(name))

    @property
    def loaded(self) -> list[str]:
        """The names of the models that are loaded now."""
        return [runner.model.name for runner in self._gpu.loaded()]

    @property
    def loading(self) -> str | None:
        return self._gpu.loading

    async def wait_for(self, condition: Callable[[], bool], *, timeout: float = 5.0) -> None:  # noqa: ASYNC109  - its error tells the state
        """Wait until ``condition`` holds, asked after each change of state.

        ``TimeoutError`` after so many real seconds; its message is the state.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._watch.until(condition)
        except TimeoutError:
            raise TimeoutError(f"still not so after {timeout} s: {self!r}") from None

    async def _handle(self, request: Request, answer: Answer) -> None:
        self._remember(request)
        await self._handlers.handle(request, answer)

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
        """Keep the port from others while nobody listens on it: bound, but not listening."""
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
