"""Why a call may not have its model, in words that name only what the caller may know: pure."""

from collections.abc import Callable
from typing import Final

from gateway.errors import (
    GatewayError,
    ModelNotAllowed,
    ModelNotFound,
    NoModelsPulled,
    UpstreamUnreachable,
)
from gateway.models.listing import Listing
from gateway.models.names import is_cloud_name, likeness, shown

_MOST_NAMED: Final = 8
_MOST_COMPARED: Final = 1000


def not_found(name: str, listing: Listing, may_use: Callable[[str], bool]) -> GatewayError:
    """What to tell a caller whose model is not in the list."""
    if not listing.models:
        return NoModelsPulled()
    if is_cloud_name(name):
        hint = (
            "It would run on ollama.com; the owner adds it with `ollama pull` on Ollama's machine."
        )
    else:
        hint = "The owner adds one with `ollama pull` on Ollama's machine."
    message = f"There is no model {shown(name)} here. {_choice(name, listing, may_use)} {hint}"
    return ModelNotFound(message, param="model")


def cannot_tell(name: str) -> UpstreamUnreachable:
    """What to tell while Ollama, which may have the model by now, cannot be asked."""
    return UpstreamUnreachable(
        f"Ollama does not answer, and its last list has no model {shown(name)}. "
        "Check on its machine that it runs, and try again."
    )


def not_allowed(name: str, listing: Listing, may_use: Callable[[str], bool]) -> ModelNotAllowed:
    """What to tell a caller whose key may not use a model that is there."""
    message = (
        f"This key may not use the model {shown(name)}. {_choice(name, listing, may_use)} "
        "For another one ask the gateway's owner for a key that may use it."
    )
    return ModelNotAllowed(message, param="model")


def _choice(name: str, listing: Listing, may_use: Callable[[str], bool]) -> str:
    allowed = nearest(name, [model.name for model in listing.models if may_use(model.name)])
    if not allowed:
        return "This key may use none of the models that are here."
    return f"This key may use: {', '.join(allowed)}."


def nearest(name: str, others: list[str]) -> list[str]:
    """Up to eight of ``others``, those most like ``name`` first."""
    compared = others[:_MOST_COMPARED]
    return sorted(compared, key=lambda other: (-likeness(name, other), other))[:_MOST_NAMED]
