"""When: the only queue in front of Ollama. A lease is the right to have one request there."""

from gateway.admission.admission import Admission
from gateway.admission.demand import Demand, Limits
from gateway.admission.foresight import Place
from gateway.admission.memory import Memory
from gateway.admission.residency import Residency
from gateway.admission.service import Measured, ServiceTimes
from gateway.admission.snapshot import Snapshot
from gateway.admission.turns import Order, decide

__all__ = [
    "Admission",
    "Demand",
    "Limits",
    "Measured",
    "Memory",
    "Order",
    "Place",
    "Residency",
    "ServiceTimes",
    "Snapshot",
    "decide",
]
