"""L4: a LiteRT (TensorFlow Lite) model of sparse fully connected layers, as bytes.

The format of a sparse weight follows the runtime's own schema (``SparsityParameters``): rows are dense, columns are
CSR, and with 1x4 blocks a third, dense dimension of four. Only these two formats have float32 kernels in LiteRT.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from actprune.runtime.base import Array, csr

BLOCK = 4
Layer = tuple[Array, Array, bool]


def padded(layers: list[Layer]) -> list[Layer]:
    """Widths brought up to a multiple of four: what a layer reads, and so what the layer before it makes."""
    wide = []
    for i, (weight, bias, relu) in enumerate(layers):
        rows = 0 if i == len(layers) - 1 else -len(weight) % BLOCK
        columns = -weight.shape[1] % BLOCK
        wide.append((np.pad(weight, ((0, rows), (0, columns))), np.pad(bias, (0, rows)), relu))
    return wide


def flatbuffer(schema: Any, builder: Any, layers: list[Layer], block: bool) -> bytes:
    """The model, for batches of one (resize the input for others).

    schema: ``ai_edge_litert.schema_py_generated``; builder: a fresh ``flatbuffers.Builder``; layers: weight
    ``(out, in)``, bias ``(out,)``, whether ReLU follows; block: 1x4 blocks (every ``in`` a multiple of four) or single
    weights.
    """
    graph = _Graph(schema)
    here = graph.tensor("input", [1, layers[0][0].shape[1]])
    graph.subgraph.inputs = [here]
    for weight, bias, relu in layers:
        here = graph.fully_connected(here, weight, bias, relu, block)
    graph.subgraph.outputs = [here]
    builder.Finish(graph.model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Graph:
    """One subgraph under construction."""

    def __init__(self, schema: Any) -> None:
        self.schema, self.model, self.subgraph = schema, schema.ModelT(), schema.SubGraphT()
        self.subgraph.tensors, self.subgraph.operators = [], []
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
        code.version = 8  # the first version with sparse weights
        self.model.version, self.model.operatorCodes = 3, [code]
        self.model.subgraphs, self.model.buffers = [self.subgraph], [schema.BufferT()]  # buffer 0: empty, by convention

    def tensor(self, name: str, shape: list[int], data: Array | None = None) -> int:
        """Add a tensor; its index."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, self.schema.TensorType.FLOAT32
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def fully_connected(self, here: int, weight: Array, bias: Array, relu: bool, block: bool) -> int:
        """Add one layer that reads tensor ``here``; the index of its output."""
        step, schema = len(self.subgraph.operators), self.schema
        blocks = weight.reshape(len(weight), -1, BLOCK if block else 1)
        any_kept = (blocks != 0).any(axis=2)
        kernel = self.tensor(f"weight{step}", list(weight.shape), blocks[any_kept])
        self.subgraph.tensors[kernel].sparsity = self._sparsity(any_kept, block)
        offset = self.tensor(f"bias{step}", [len(bias)], bias)
        output = self.tensor(f"output{step}", [1, len(weight)])
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = [here, kernel, offset], [output]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        kinds = schema.ActivationFunctionType
        operator.builtinOptions.fusedActivationFunction = kinds.RELU if relu else kinds.NONE
        self.subgraph.operators.append(operator)
        return output

    def _sparsity(self, kept: npt.NDArray[np.bool_], block: bool) -> Any:
        """kept: ``(rows, blocks of a row)``."""
        starts, columns = csr(kept)
        sparse = self.schema.DimensionMetadataT()
        sparse.format = self.schema.DimensionType.SPARSE_CSR
        sparse.arraySegmentsType, sparse.arraySegments = self._indices(starts)
        sparse.arrayIndicesType, sparse.arrayIndices = self._indices(columns)
        sparsity = self.schema.SparsityParametersT()
        sparsity.traversalOrder, sparsity.blockMap = ([0, 1, 2], [1]) if block else ([0, 1], [])
        sparsity.dimMetadata = [self._dense(len(kept)), sparse, *([self._dense(BLOCK)] if block else [])]
        return sparsity

    def _dense(self, size: int) -> Any:
        dense = self.schema.DimensionMetadataT()
        dense.format, dense.denseSize = self.schema.DimensionType.DENSE, size
        return dense

    def _indices(self, values: npt.NDArray[np.int32]) -> tuple[int, Any]:
        """The narrowest of the schema's three index vectors, with its type."""
        top = int(values.max(initial=0))
        name, kind = ("Uint8Vector", "u1") if top < 1 << 8 else ("Uint16Vector", "u2")
        if top >= 1 << 16:
            name, kind = "Int32Vector", "i4"
        vector = getattr(self.schema, f"{name}T")()
        vector.values = values.astype(kind)
        return getattr(self.schema.SparseIndexVector, name), vector
