"""The LiteRT file: index widths, blocks, and a self-test that notices another format."""

import numpy as np
import pytest

from actprune.errors import RuntimePathError
from actprune.runtime.base import matrices
from actprune.runtime.paths import litert, litert_model
from actprune.runtime.paths.litert import LiteRtBlocks, LiteRtCsr
from support.execution import built, close, exact, inputs, model_of
from support.nets import sparse_mlp

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")


def read(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def weights_of(content):
    graph = read(content).subgraphs[0]
    return [tensor for tensor in graph.tensors if tensor.sparsity is not None]


@pytest.mark.parametrize(
    ("width", "kind"), [(200, "Uint8Vector"), (300, "Uint16Vector"), (65_537, "Int32Vector")], ids=str
)
def test_indices_are_as_narrow_as_they_can_be(width, kind):
    net = sparse_mlp(width, 2, density=0.0)
    net[1].weight.data[0, -1] = 2.0  # one weight, at the far end
    x = inputs(1, width)
    close(built(LiteRtCsr(), model_of(net, x))(x), exact(net, x))
    content = litert_model.flatbuffer(schema, flatbuffers.Builder(0), matrices(model_of(net, x)), block=False)
    places = weights_of(content)[0].sparsity.dimMetadata[1]
    assert places.arrayIndicesType == getattr(schema.SparseIndexVector, kind)
    assert places.arraySegmentsType == schema.SparseIndexVector.Uint8Vector


def test_only_kept_weights_are_stored():
    net = sparse_mlp(100, 50, 10, density=0.05)
    layers = matrices(model_of(net, inputs(1, 100)))
    content = litert_model.flatbuffer(schema, flatbuffers.Builder(0), layers, block=False)
    model = read(content)
    stored = [len(model.buffers[tensor.buffer].data) // 4 for tensor in weights_of(content)]
    assert stored == [np.count_nonzero(weight) for weight, _, _ in layers]


def test_blocks_of_four_with_a_kept_weight_are_stored_and_widths_padded():
    net = sparse_mlp(10, 7, 3, density=0.0)
    net[1].weight.data[0, 1] = net[1].weight.data[0, 3] = net[1].weight.data[6, 9] = 1.0
    layers = litert_model.padded(matrices(model_of(net, inputs(1, 10))))
    assert [weight.shape for weight, _, _ in layers] == [(8, 12), (3, 8)]
    content = litert_model.flatbuffer(schema, flatbuffers.Builder(0), layers, block=True)
    first = weights_of(content)[0]
    assert first.sparsity.blockMap.tolist() == [1]
    assert first.sparsity.dimMetadata[1].arrayIndices.values.tolist() == [0, 2]
    assert len(read(content).buffers[first.buffer].data) == 2 * 4 * 4
    x = inputs(5, 10)
    close(built(LiteRtBlocks(), model_of(net, x))(x), exact(net, x))


@pytest.mark.parametrize("path", [LiteRtCsr(), LiteRtBlocks()], ids=lambda path: path.name)
def test_a_runtime_that_reads_the_format_differently_is_noticed(path, monkeypatch):
    honest = litert_model.flatbuffer
    changed = lambda schema, builder, layers, block: honest(  # noqa: E731
        schema, builder, [(weight, bias + 0.5, relu) for weight, bias, relu in layers], block
    )
    monkeypatch.setattr(litert, "flatbuffer", changed)
    with pytest.raises(RuntimePathError, match="computes something else"):
        path.build(model_of(sparse_mlp(8, 4, 2), inputs(1, 8)))
