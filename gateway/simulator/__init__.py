"""An Ollama without a GPU: faithful on the wire, obedient to tests.

::

    async with Simulator() as sim:                    # a free loopback port, USUAL_MODELS
        sim.url, sim.port                             # "http://127.0.0.1:40123"
        await call(sim.url + "/v1/chat/completions", ...)

**Models.** ``SimulatedModel(name, parameter_size, size, ..., load_time=2, tokens_per_second=40)``;
``sim.pull(model)`` and ``sim.remove(name)`` change the list at run time, ``sim.loaded`` and
``sim.loading`` tell what is in memory. By default nothing takes time. ``time_scale`` is how many
real seconds one simulated second takes; at 0 nothing does, and what is loaded never expires.

**What is said.** The same prompt to the same model gives the same text, on every route; ids and
times differ. With ``max_tokens`` it is exactly that many tokens (``length``), else
``answer_tokens`` (``stop``). A last user message ``SAY: any words`` is answered with these words,
one token each; one that holds ``CALL_TOOL rest`` is answered with a call of the first tool
offered, whose arguments are ``{"text": "rest"}``, or ``rest`` itself if it is a JSON object.
``deepseek-r1:8b`` thinks six tokens first. One token 32 times in a row is where Ollama gives up
and has said 31: ``SAY:`` can cause that, too. JSON is valid JSON where JSON is asked for.
A prompt is 11 tokens plus one for each four bytes of ``role text `` of all messages.

**Waiting without sleeping.** ``await sim.wait_for(lambda: sim.stats.active == 1)`` wakes on every
change; ``TimeoutError`` after 5 s tells the state. Under ``with sim.hold() as hold:`` generations
stop before each token: ``hold.waiting`` is how many do, ``hold.release(3)`` lets three pass.

**Faults.** ``sim.fault(Fault.die(after_tokens=3), times=1, path=None, model=None)``: see
``Fault``. Without a path only inference requests meet them. ``sim.release()`` lets stalls, slow
heads and comments go on that were given no seconds. ``sim.kill_runner(name)`` kills a loaded
model now.

**Away and back.** ``await sim.stop()`` cuts all connections and refuses new ones on the reserved
port, ``await sim.start()`` returns to it, ``await sim.restart()`` is both.

**What happened.** ``sim.stats`` counts (see ``Stats``); ``sim.requests`` holds what was received:
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
