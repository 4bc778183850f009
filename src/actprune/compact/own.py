"""L4: what the code that will run the small tensors allows: the user's own may insist on what a program can rewrite."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actprune.compact.gathered import GatheredLinear
from actprune.errors import CompactionError
from actprune.program import Program, first_names

_STANDARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Code:
    """What is compacted, and what may be done to it.

    owner   the model: the user's own, or a program
    gather  inputs may be left out at all
    """

    owner: nn.Module
    gather: bool

    @property
    def model(self) -> nn.Module | None:
        """The user's own, whose copy gets the small tensors; None for a program."""
        return None if isinstance(self.owner, Program) else self.owner

    def leaves_inputs_out(self, weight: str | None) -> bool:
        """Whether the layer can be made to read some of its inputs only."""
        if weight is None or self.model is None or not self.gather:
            return self.gather and weight is not None
        return type(_layer(self.model, weight)) in (nn.Linear, GatheredLinear)

    def takes_bias(self, tensors: Mapping[str, Tensor], weight: str) -> bool:
        """Whether a layer without bias can be given one."""
        if not weight.endswith(".weight") or f"{weight.removesuffix('weight')}bias" in tensors:
            return False
        tied = [name for name, first in first_names(self.owner).items() if first == weight]
        return isinstance(_layer(self.owner, weight), _STANDARD) and len(tied) == 1

    def owns_bias(self, module: str, weight: str, bias: str) -> bool:
        """Whether the bias is added to what the weight gives: they belong to one module, which is the one that runs."""
        head = weight.rpartition(".")[0]
        return head == bias.rpartition(".")[0] and (module == head or isinstance(_layer(self.owner, weight), _STANDARD))


def refuse_uncuttable(model: nn.Module) -> None:
    """Raise CompactionError for a model that cannot be copied, or whose tensors cannot be looked at."""
    if isinstance(model, (torch.jit.ScriptModule, torch.fx.GraphModule)) and not isinstance(model, Program):
        raise CompactionError(
            f"the model is a {type(model).__name__}, whose code is fixed; compact the module that it was made from, "
            "then script or trace the result"
        )
    for path, module in model.named_modules():
        if "quantized" in type(module).__module__.split("."):
            raise CompactionError(
                f"{path or 'the model'} is quantised ({type(module).__module__}.{type(module).__name__}), and packed "
                "weights cannot be cut; compact the float model, then quantise the result"
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise CompactionError(f"{name} is on the meta device and has no values; load the weights first")
        if hasattr(tensor, "full_tensor"):
            raise CompactionError(
                f"{name} is sharded (FSDP), and no rank can cut what others hold; load the weights into a plain model "
                "of your class and compact that: plain.load_state_dict({name: value.full_tensor() if "
                "hasattr(value, 'full_tensor') else value for name, value in model.state_dict().items()}), then "
                "compact(plain, pruner.state); go on training with the result, sharded anew"
            )
    _refuse_uncopyable(model)


def _refuse_uncopyable(model: nn.Module) -> None:
    """Say which attribute stands in the way of a copy."""
    own = {"_parameters", "_buffers", "_modules"}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in own or isinstance(value, (int, float, str, type(None))):
                continue
            try:
                copy.deepcopy(value)
            except Exception as error:
                where = f"{path}.{name}" if path else name
                raise CompactionError(
                    f"the model cannot be copied: its attribute {where} (a {type(value).__name__}) cannot: {error}; "
                    "take it off before compaction and put it on the result, give the module a __deepcopy__, or, for a "
                    "computed weight, use torch.nn.utils.remove_weight_norm or remove_spectral_norm first"
                ) from error


def _layer(model: nn.Module, weight: str) -> nn.Module | None:
    """The module that holds a weight under the name ``weight``."""
    path, _, leaf = weight.rpartition(".")
    return model.get_submodule(path) if leaf == "weight" else None
