"""L4: a chain of fully connected layers as an ONNX model: Flatten? -> Gather? -> (Gemm -> Relu)* -> Gemm.

That is what onnxruntime and OpenVINO fuse best, with weights as PyTorch stores them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from actprune.program import Dense


def chain_model(name: str, shape: tuple[int, ...], layers: Sequence[Dense], opset: int) -> Any:
    """A ``ModelProto`` whose input ``name`` is ``(batch, *shape)`` and whose output is called ``output``."""
    onnx = importlib.import_module("onnx")
    nodes = _Nodes(onnx)
    here = nodes.add("Flatten", name, axis=1) if len(shape) > 1 else name
    for layer in layers:
        here = nodes.layer(here, layer)
    nodes.nodes[-1].output[0] = "output"
    kind, width = onnx.TensorProto.FLOAT, layers[-1].weight.shape[0]
    source = onnx.helper.make_tensor_value_info(name, kind, ["batch", *shape])
    result = onnx.helper.make_tensor_value_info("output", kind, ["batch", width])
    graph = onnx.helper.make_graph(nodes.nodes, "actprune", [source], [result], nodes.tensors)
    opsets = [onnx.helper.make_opsetid("", opset)]
    oldest = onnx.helper.find_min_ir_version_for(opsets)  # so that older runtimes read it too
    return onnx.helper.make_model(graph, producer_name="actprune", opset_imports=opsets, ir_version=oldest)


class _Nodes:
    """Nodes and constants under construction; every method returns the name of what it made."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def layer(self, here: str, layer: Dense) -> str:
        if layer.columns is not None:
            here = self.add("Gather", here, self.constant("columns", layer.columns), axis=1)
        bias = [] if layer.bias is None else [self.constant("bias", layer.bias.float())]
        here = self.add("Gemm", here, self.constant("weight", layer.weight.float()), *bias, transB=1)
        return self.add("Relu", here) if layer.activation == "relu" else here

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"_{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, kind: str, value: Tensor) -> str:
        name = f"_{kind}_{len(self.tensors)}"
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        self.tensors.append(self.onnx.numpy_helper.from_array(array, name))
        return name
