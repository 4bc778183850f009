"""L4: OpenVINO on the CPU, dense and compacted; often ahead of onnxruntime on narrow convolutions."""

from __future__ import annotations

import io
from typing import Any

from actprune.errors import RuntimePathError
from actprune.program import Program
from actprune.runtime.base import Array, Model, Path, Run, compacted, required, sized
from actprune.runtime.entrance import Fill, entrance
from actprune.runtime.onnx_graph import shared_onnx


class OpenVinoDense:
    """The original structure."""

    name = "openvino dense"
    extra: str | None = "openvino"
    dense = True

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without OpenVINO and for programs that it cannot run."""
        return _build(self, model, model.dense)


class OpenVinoCompact:
    """The compacted program."""

    name = "openvino compact"
    extra: str | None = "openvino"
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without OpenVINO, when nothing was compacted and for programs it cannot run."""
        return _build(self, model, compacted(model, self))


def _build(path: Path, model: Model, program: Program) -> Run:
    library = required("openvino", path)
    required("onnx", path)
    content = shared_onnx(model, program)
    shape = model.example.shape[1:]

    def prepare(batch: int) -> Run:
        return _compiled(library, content, *entrance(program, (batch, *shape)), model.threads)

    run = sized(prepare, shape)
    run(model.example)
    return run


def _compiled(library: Any, content: bytes, source: Array, fill: Fill, threads: int) -> Run:
    """Compiled for one batch size: fixed shapes let OpenVINO choose its kernels.

    Without the precision hint it computes in bfloat16 where the processor can, and is wrong in the third digit.
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = library.Core()
    try:
        model = core.read_model(io.BytesIO(content))
        model.reshape(list(source.shape))
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(library.Tensor(source, shared_memory=True))
        request.infer()
    except Exception as error:  # OpenVINO raises RuntimeError and several of its own
        raise RuntimePathError(f"openvino refuses this model: {str(error).strip().splitlines()[0]}") from error
    result, infer = request.get_output_tensor().data, request.infer

    def run(x: Array) -> Array:
        fill(x)
        infer(share_outputs=True)
        return result  # type: ignore[no-any-return]

    return run
