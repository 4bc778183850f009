"""L4: plain PyTorch: the dense model as its user runs it, and the compacted program."""

from __future__ import annotations

import torch
from torch import nn

from actprune.runtime.base import Array, Model, Run, compacted


class TorchEager:
    """The original model in eager PyTorch: the reference everything else is checked against and compared to."""

    name = "torch eager"
    extra: str | None = None
    dense = True

    def build(self, model: Model) -> Run:
        """The user's own module where there is one: a program's interpreter costs differently."""
        return eager(model.dense if model.original is None else model.original)


class TorchCompact:
    """The compacted program in eager PyTorch."""

    name = "torch eager compact"
    extra: str | None = None
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError when nothing was compacted."""
        return eager(compacted(model, self))


def eager(module: nn.Module) -> Run:
    """``module`` on numpy arrays, in evaluation mode, without gradients. Its threads are PyTorch's own setting."""
    module = module.eval()

    def run(x: Array) -> Array:
        with torch.inference_mode():
            result: Array = module(torch.from_numpy(x)).numpy()
        return result

    return run
