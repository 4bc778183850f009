"""L4: what the code that will run the small tensors allows: the user's own may insist on what a program can rewrite."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from actprune.compact.gathered import GatheredLinear
from actprune.program import Program, first_names

_STANDARD = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True, eq=False)
class Code:
    """``model``: the user's own, whose copy gets the small tensors; None where a program is made instead.

    ``gather``: inputs may be left out at all.
    """

    model: nn.Module | None
    gather: bool

    def leaves_inputs_out(self, weight: str) -> bool:
        """Whether the layer can be made to read some of its inputs only."""
        if self.model is None or not self.gather:
            return self.gather
        return type(_layer(self.model, weight)) in (nn.Linear, GatheredLinear)

    def takes_bias(self, program: Program, weight: str) -> bool:
        """Whether a layer without bias can be given one."""
        if not weight.endswith(".weight") or f"{weight.removesuffix('weight')}bias" in program.tensors():
            return False
        if self.model is None:
            return True
        tied = [name for name, first in first_names(self.model).items() if first == weight]
        return isinstance(_layer(self.model, weight), _STANDARD) and len(tied) == 1

    def follows(self, path: str | None) -> bool:
        """Whether a step's numbers (of groups) come from a standard layer, and so from the layer's tensors."""
        return self.model is None or (path is not None and isinstance(_layer(self.model, f"{path}.weight"), _STANDARD))


def _layer(model: nn.Module, weight: str) -> nn.Module | None:
    """The module that holds a weight under the name ``weight``."""
    path, _, leaf = weight.rpartition(".")
    return model.get_submodule(path) if leaf == "weight" else None
