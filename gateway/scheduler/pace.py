"""How long things take: as usual, or so many times as long; and one time in ten. Pure."""

from dataclasses import dataclass

from gateway.models.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Usual:
    """As things take on average, or so many ``times`` as long."""

    service: Statistics
    times: float = 1.0

    def answer(self, model: str) -> float:
        return self.times * self.service.slot_time(model).mean

    def load(self, model: str) -> float:
        """What an answer takes more where the model is not loaded."""
        cold = self.times * self.service.slot_time(model, loaded=False).mean
        return max(cold - self.answer(model), 0.0)


def quick_answer(model: str, service: Statistics) -> float:
    """What nine of ten answers take at least; nothing where little is known."""
    return service.slot_time(model).p10 if service.knows_slot_time(model) else 0.0


def slow_answer(model: str, service: Statistics) -> float:
    """What nine of ten answers take at most; no load included.

    Nothing where none was seen: another model's answers are no reason to doubt this one's.
    """
    return service.slot_time(model).p90 if service.has_slot_time(model) else 0.0
