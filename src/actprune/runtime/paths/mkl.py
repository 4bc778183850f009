"""L4: MKL's inspector-executor, the library that copes best with moderate sparsity (closed source, Intel's licence)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actprune.errors import RuntimePathError
from actprune.runtime.base import Array, Model, Run, matrices, sized
from actprune.runtime.paths.mkl_library import Matrix, mkl

CHUNK = 32  # examples at a time: all activations of a chunk stay in the cache
Layer = tuple[Array, Array, bool]
Step = tuple[Array, Array, Callable[[], int], bool]  # result, bias, product, relu


class MklSparse:
    """CSR products on transposed chunks of 32 examples, single vectors at batch 1."""

    name = "mkl sparse"
    extra: str | None = "mkl"
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without MKL and for models that are no chain."""
        layers, library, shape = matrices(model), mkl(model.threads), model.example.shape[1:]
        library.MKL_Set_Num_Threads(model.threads)
        chunks: dict[int, Run] = {}

        def chunk(width: int) -> Run:
            if width not in chunks:
                matrix = [Matrix(library, weight, width) for weight, _, _ in layers]
                chunks[width] = _chunk(matrix, layers, width)
            return chunks[width]

        def prepare(batch: int) -> Run:
            full, rest = divmod(batch, CHUNK)
            return _pieces(batch, len(layers[-1][0]), [chunk(CHUNK)] * full + ([chunk(rest)] if rest else []))

        run = sized(prepare, shape)
        run(model.example)
        return run


def _chunk(matrices: list[Matrix], layers: list[Layer], width: int) -> Run:
    """The whole network on ``(width, features)`` inputs; the result is a transposed view of its last buffer."""
    source = np.zeros((layers[0][0].shape[1], width), np.float32)
    here, steps = source, []
    for matrix, (weight, bias, relu) in zip(matrices, layers, strict=True):
        result = np.zeros((len(weight), width), np.float32)
        steps.append((result, np.repeat(bias[:, None], width, axis=1), matrix.product(here, result), relu))
        here = result
    enter, leave, copy = source.T, here.T, np.copyto

    def run(x: Array) -> Array:
        copy(enter, x)
        for result, bias, product, relu in steps:
            copy(result, bias)
            if product():
                raise RuntimePathError("mkl: a sparse product failed")
            if relu:
                np.maximum(result, 0, out=result)
        return leave

    return run


def _pieces(batch: int, outputs: int, runs: list[Run]) -> Run:
    """Chunk after chunk into one result ``(batch, outputs)``."""
    result = np.zeros((batch, outputs), np.float32)
    targets = [(i * CHUNK, result[i * CHUNK : (i + 1) * CHUNK], run) for i, run in enumerate(runs)]

    def all_of(x: Array) -> Array:
        flat = x.reshape(batch, -1)
        for start, target, run in targets:
            target[:] = run(flat[start : start + CHUNK])
        return result

    return all_of
