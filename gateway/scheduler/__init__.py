"""When: the only queue in front of Ollama. A lease is the right to have one request there."""

from gateway.scheduler.estimates import Place
from gateway.scheduler.policy import Order, decide
from gateway.scheduler.request import Limits, SlotRequest
from gateway.scheduler.scheduler import Scheduler
from gateway.scheduler.snapshot import Snapshot

__all__ = [
    "Limits",
    "Order",
    "Place",
    "Scheduler",
    "SlotRequest",
    "Snapshot",
    "decide",
]
