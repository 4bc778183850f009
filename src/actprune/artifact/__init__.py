"""L4: one self-describing file for a model, without pickle: save, load, inspect, pack as small as accuracy allows."""

from actprune.artifact.deep_compression import LayerSize, layer_size
from actprune.artifact.document import Document, document, from_bytes, published, to_bytes
from actprune.artifact.document import read as read_document
from actprune.artifact.inspect import Bound, Info, Stored, TensorBound, bound, inspect
from actprune.artifact.load import build, load
from actprune.artifact.pack import Packed, Tried, pack
from actprune.artifact.save import save, write
from actprune.artifact.share import SharedWeights

__all__ = [
    "Bound", "Document", "Info", "LayerSize", "Packed", "SharedWeights", "Stored", "TensorBound", "Tried", "bound",
    "build", "document", "from_bytes", "inspect", "layer_size", "load", "pack", "published", "read_document", "save",
    "to_bytes", "write",
]  # fmt: skip
