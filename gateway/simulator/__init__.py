"""A simulated Ollama: identical to the real one on the wire, without a GPU, controlled by tests.

::

    async with Simulator() as sim:                    # a free loopback port, USUAL_MODELS
        sim.url, sim.port                             # "http://127.0.0.1:40123"
        await post(sim.url + "/v1/chat/completions", ...)

**Models.** ``SimulatedModel(name, parameter_size, size, ..., load_time=2, tokens_per_second=40)``;
``sim.pull(model)`` and ``sim.remove(name)`` change the list at run time, ``sim.loaded`` and
``sim.loading`` are the models in memory. By default nothing takes time. ``time_scale`` is the real
seconds per simulated second; at 0 nothing takes time, and loaded models never expire.

**Generated text.** The same prompt to the same model gives the same text, on every route; ids and
times differ. With ``max_tokens`` it has exactly that many tokens (``length``), else
``output_tokens`` (``stop``). For a last user message ``SAY: any words`` the text is these words,
one token each; for one that contains ``CALL_TOOL rest`` it is a call of the first tool, with the
arguments ``{"text": "rest"}``, or ``rest`` itself if it is a JSON object. ``deepseek-r1:8b`` thinks
six tokens first. After 31 equal tokens in a row Ollama gives up; ``SAY:`` can cause that, too. A
request for JSON gets valid JSON. A prompt has 11 tokens plus one for each four bytes of
``role text `` of all messages.

**Waiting without sleeping.** ``await sim.wait_for(lambda: sim.stats.active == 1)`` wakes on every
change; after 5 s it raises ``TimeoutError`` with the state. Within ``with sim.hold() as hold:``
generations stop before each token: ``hold.waiting`` counts them, ``hold.release(3)`` permits three
tokens.

**Faults.** ``sim.fault(Fault.die(after_tokens=3), times=1, path=None, model=None)``: see
``Fault``. Without a path they apply to inference requests only. ``sim.release()`` ends stalls, slow
heads and comments that have no duration. ``sim.kill_runner(name)`` kills a loaded model now.

**Stopping.** ``await sim.stop()`` closes all connections and refuses new ones on the reserved port,
``await sim.start()`` listens on it again, ``await sim.restart()`` does both.

**What happened.** ``sim.stats`` counts (see ``Stats``); ``sim.requests`` are the received requests:
``method``, ``path`` as sent, ``headers``, ``body``, ``header(name)``. ``repr(sim)`` sums up.

It imports nothing else of the gateway, and only the command line imports it.
"""

from gateway.simulator.control import Hold
from gateway.simulator.faults import Fault
from gateway.simulator.models import SimulatedModel
from gateway.simulator.received import Received
from gateway.simulator.simulator import Simulator
from gateway.simulator.stats import Stats
from gateway.simulator.usual import USUAL_MODELS
from gateway.simulator.versions import NEWEST, VERSIONS

__all__ = [
    "NEWEST",
    "USUAL_MODELS",
    "VERSIONS",
    "Fault",
    "Hold",
    "Received",
    "SimulatedModel",
    "Simulator",
    "Stats",
]
