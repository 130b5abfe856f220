"""Decides when an inference request may use Ollama: slots, queue, policy and wait estimates."""

from gateway.scheduler.policy import Policy, first_come, select_next
from gateway.scheduler.queue import SlotRequest
from gateway.scheduler.scheduler import QueuePosition, QueueSnapshot, Scheduler, Slot, Snapshot

__all__ = [
    "Policy",
    "QueuePosition",
    "QueueSnapshot",
    "Scheduler",
    "Slot",
    "SlotRequest",
    "Snapshot",
    "first_come",
    "select_next",
]
