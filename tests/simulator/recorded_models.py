"""The models that were created for the recordings."""

from gateway.simulator import SimulatedModel

_BLOBS = "/usr/share/ollama/.ollama/models/blobs/sha256-"

TINY = SimulatedModel(
    name="tiny:latest",
    parameter_size="152K",
    size=318_892,
    quantization="F16",
    embedding_length=64,
    parent_model=f"{_BLOBS}763fa3559b98f7b40f5814bac217618077ec092fac6d8c39acad3292c5c9a332",
    license="MIT",
    parameters="temperature                    0.8",
)
MID = SimulatedModel(
    name="mid:1b",
    parameter_size="202.47M",
    size=405_003_631,
    quantization="F16",
    embedding_length=1024,
    parent_model=f"{_BLOBS}1522ebf0d1e13caa97e374c93ef362b2ecdfb9ed8db8f003156dbd3bc50e8962",
    license="MIT",
    parameters="temperature                    0.8",
    blocks=12,
    heads=8,
    feed_forward=4096,
)
TINYBERT = SimulatedModel(
    name="tinybert:latest",
    parameter_size="118K",
    size=247_108,
    family="bert",
    quantization="F16",
    context_length=512,
    embedding_length=64,
    capabilities=("embedding",),
    template="{{ .Prompt }}",
    parent_model=f"{_BLOBS}b3ccee0bf70d333f4e30a76b6aed0b993925573d36b1e41352d29e03e2d48ecf",
    vocabulary=278,
)
STUCK = SimulatedModel(name="stuck:latest", parameter_size="152K", size=318_892, always_says=" the")

RECORDED_MODELS = (TINY, MID, TINYBERT)
