"""L4: LiteRT's sparse fully connected kernels, on single weights (CSR) and on 1x4 blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from actprune.errors import RuntimePathError
from actprune.runtime.base import Array, Model, Path, Run, matrices, required, sized
from actprune.runtime.paths.litert_model import Layer, flatbuffer, padded


class LiteRtCsr:
    """Every kept weight with its column."""

    name = "litert sparse"
    extra: str | None = "litert"
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without LiteRT, for models that are no chain, and when the self-test fails."""
        return _build(self, model, block=False)


class LiteRtBlocks:
    """Every 1x4 block with a kept weight in it: four multiplications at the price of one index."""

    name = "litert blocks"
    extra: str | None = "litert"
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without LiteRT, for models that are no chain, and when the self-test fails."""
        return _build(self, model, block=True)


def _build(path: Path, model: Model, block: bool) -> Run:
    layers = matrices(model)
    module, schema = required("ai_edge_litert.interpreter", path), required("ai_edge_litert.schema_py_generated", path)
    builder = required("flatbuffers", path).Builder(1 << 16)
    layers = padded(layers) if block else layers
    content = flatbuffer(schema, builder, layers, block)
    shape = model.example.shape[1:]
    run = sized(lambda batch: _prepared(module, content, layers, (batch, *shape), model.threads), shape)
    _self_test(path, run, layers, (3, *shape))
    return run


def _prepared(module: Any, content: bytes, layers: list[Layer], shape: tuple[int, ...], threads: int) -> Run:
    """An interpreter for one batch size, with views of its input and output.

    The public ``invoke`` first counts references to such views, which are held on purpose here: nothing is resized any
    more.
    """
    many, wide = int(np.prod(shape[1:])), layers[0][0].shape[1]
    interpreter = _interpreter(module, content, (shape[0], wide), threads)
    enter, leave = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    inner, copy = interpreter._interpreter, np.copyto
    source, result, invoke = inner.tensor(inner, enter), inner.tensor(inner, leave), inner.Invoke
    source[:] = 0  # columns that only pad stay zero
    target, flat = source[:, :many] if wide > many else source.reshape(shape), (shape[0], many)

    def run(x: Array, alive: object = interpreter) -> Array:
        copy(target, x)
        invoke()
        return result  # type: ignore[no-any-return]

    def run_padded(x: Array) -> Array:
        return run(x.reshape(flat))

    return run_padded if wide > many else run


def _interpreter(module: Any, content: bytes, shape: tuple[int, int], threads: int) -> Any:
    """Without the default delegate (XNNPACK), which would turn the sparse weights into dense ones."""
    interpreter = module.Interpreter(
        model_content=content,
        num_threads=threads,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
    interpreter.allocate_tensors()
    return interpreter


def _self_test(path: Path, run: Run, layers: list[Layer], shape: tuple[int, ...]) -> None:
    """A version of LiteRT that reads the format differently must be found here, not by the user."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = np.pad(x.reshape(len(x), -1), ((0, 0), (0, layers[0][0].shape[1] - int(np.prod(shape[1:])))))
    for weight, bias, relu in layers:
        expected = expected @ weight.T + bias
        expected = np.maximum(expected, 0) if relu else expected
    error = float(np.abs(run(x) - expected).max())
    if not error <= 1e-4 * max(float(np.abs(expected).max()), 1e-30):
        raise RuntimePathError(f"{path.name}: this version of LiteRT computes something else (off by {error:.3g})")
