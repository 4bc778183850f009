"""L4: onnxruntime on the CPU, dense and compacted: buffers bound once for every batch size."""

from __future__ import annotations

from typing import Any

import numpy as np

from actprune.errors import RuntimePathError
from actprune.program import Program
from actprune.runtime.base import Array, Model, Path, Run, compacted, required, sized
from actprune.runtime.entrance import Fill, entrance
from actprune.runtime.onnx_graph import shared_onnx


class OrtDense:
    """The original structure: the fastest dense reference that we know of for small networks."""

    name = "onnxruntime dense"
    extra: str | None = "onnxruntime"
    dense = True

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without onnxruntime and for programs that it cannot run."""
        return _build(self, model, model.dense)


class OrtCompact:
    """The compacted program."""

    name = "onnxruntime compact"
    extra: str | None = "onnxruntime"
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError without onnxruntime, when nothing was compacted and for programs it cannot run."""
        return _build(self, model, compacted(model, self))


def _build(path: Path, model: Model, program: Program) -> Run:
    library = required("onnxruntime", path)
    required("onnx", path)
    content = shared_onnx(model, program)
    session = ort_session(library, content, model.threads)
    shape = model.example.shape[1:]
    run = sized(lambda batch: _bound(library, session, *entrance(program, (batch, *shape))), shape)
    run(model.example)
    return run


def ort_session(library: Any, content: bytes, threads: int) -> Any:
    """A session on the CPU. The defaults (all fusions, weights packed in advance) measured fastest.

    Raises RuntimePathError with onnxruntime's own words.
    """
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads must not slow other paths down
    try:
        return library.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise RuntimePathError(f"onnxruntime refuses this model: {str(error).strip().splitlines()[0]}") from error


def _bound(library: Any, session: Any, source: Array, fill: Fill) -> Run:
    """One copy in, one call, nothing allocated: half the time of ``session.run`` on a small network."""
    binding, value = session.io_binding(), library.OrtValue.ortvalue_from_numpy(source)  # it shares the memory
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    name = session.get_outputs()[0].name
    try:
        result = np.zeros(session.run([name], {session.get_inputs()[0].name: value.numpy()})[0].shape, np.float32)
        output = library.OrtValue.ortvalue_from_numpy(result)
        binding.bind_ortvalue_output(name, output)
    except Exception as error:  # as above
        raise RuntimePathError(f"onnxruntime: {str(error).strip().splitlines()[0]}") from error
    call, raw = session._sess.run_with_iobinding, binding._iobinding
    kept = (session, binding, value, output)

    def run(x: Array, kept: object = kept) -> Array:
        fill(x)
        call(raw, None)
        return result

    return run
