"""L4: execution paths for what was shipped, and the measurement that picks one."""

from actprune.runtime.accelerate import Accelerated, accelerate, bench_table
from actprune.runtime.base import Model, Path
from actprune.runtime.beside import Beside, beside
from actprune.runtime.export_onnx import export_onnx
from actprune.runtime.measure import Timing, measure
from actprune.runtime.prepare import prepared
from actprune.runtime.table import Row, speedup, verdict

__all__ = [
    "Accelerated",
    "Beside",
    "Model",
    "Path",
    "Row",
    "Timing",
    "accelerate",
    "bench_table",
    "beside",
    "export_onnx",
    "measure",
    "prepared",
    "speedup",
    "verdict",
]
