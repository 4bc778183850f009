"""L4: every execution path. A new one is one file and one line here."""

from __future__ import annotations

from actprune.runtime.base import Path
from actprune.runtime.paths.eager import TorchCompact, TorchEager
from actprune.runtime.paths.litert import LiteRtBlocks, LiteRtCsr
from actprune.runtime.paths.mkl import MklSparse
from actprune.runtime.paths.numba_sparse import NumbaSparse
from actprune.runtime.paths.openvino import OpenVinoCompact, OpenVinoDense
from actprune.runtime.paths.ort import OrtCompact, OrtDense
from actprune.runtime.paths.torch_csr import TorchCsr

PATHS: tuple[Path, ...] = (
    TorchEager(), OrtDense(), OpenVinoDense(),
    TorchCompact(), OrtCompact(), OpenVinoCompact(),
    LiteRtCsr(), LiteRtBlocks(), NumbaSparse(), TorchCsr(), MklSparse(),
)  # fmt: skip

__all__ = ["PATHS"]
