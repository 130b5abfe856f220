"""The routes that list and describe models. They respond at once, also while the GPU is busy."""

from gateway.simulator import describe
from gateway.simulator.dialects import GIN_JSON, JSON
from gateway.simulator.dialects.common import native_error, native_fields, openai_error
from gateway.simulator.gojson import NotReadable, encode
from gateway.simulator.gpu import Gpu
from gateway.simulator.http import Headers
from gateway.simulator.models import Library, SimulatedModel, canonical, is_name
from gateway.simulator.params import Refusal
from gateway.simulator.versions import Wire

_PLAIN: Headers = (("Content-Type", "text/plain; charset=utf-8"),)
Written = tuple[bytes, Headers]


class Catalog:
    """The response bodies; each method raises ``Refusal`` where Ollama responds with an error."""

    def __init__(self, *, wire: Wire, library: Library, gpu: Gpu) -> None:
        self._wire = wire
        self._library = library
        self._gpu = gpu

    def root(self) -> Written:
        return b"Ollama is running", _PLAIN

    def version(self) -> Written:
        return encode({"version": self._wire.version}), GIN_JSON

    def tags(self) -> Written:
        entries = [describe.tag(model, self._wire) for model in self._library.newest_first()]
        return encode({"models": entries}), GIN_JSON

    def running(self) -> Written:
        entries = [
            describe.running(runner, self._gpu.remaining(runner)) for runner in self._gpu.loaded()
        ]
        return encode({"models": entries}), GIN_JSON

    def show(self, body: bytes) -> Written:
        fields = native_fields(body, "api.ShowRequest")
        try:
            name = fields.text("model") or fields.text("name")
            verbose = fields.flag("verbose") is True
        except NotReadable as error:
            raise Refusal(400, str(error)) from None
        if not name:
            raise Refusal(400, "model is required")
        if not is_name(name):
            raise Refusal(400, "invalid model name")
        return encode(describe.shown(self._found(name), verbose=verbose)), GIN_JSON

    def models(self) -> Written:
        entries = [describe.listed(model) for model in self._library.newest_first()]
        # Go's nil slice: no models are null and not an empty list.
        return encode({"object": "list", "data": entries or None}) + b"\n", JSON

    def model(self, name: str) -> Written:
        return encode(describe.listed(self._found(name), name=name)) + b"\n", JSON

    def refusal(self, route: str, refusal: Refusal) -> Written:
        if route.startswith("/v1"):
            return openai_error(refusal), JSON
        return native_error(refusal.message), GIN_JSON

    def _found(self, name: str) -> SimulatedModel:
        model = self._library.find(name)
        if model is None:
            shown = canonical(name) if self._wire.missing_name_has_tag else name
            raise Refusal(404, f"model '{shown}' not found")
        return model
