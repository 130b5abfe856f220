"""When: the only queue in front of Ollama. A lease is the right to have one request there."""

from gateway.admission.admission import Admission, Snapshot
from gateway.admission.demand import Demand, Limits

__all__ = ["Admission", "Demand", "Limits", "Snapshot"]
