"""L4: second moments of what each layer receives, for factors that know their data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.errors import ObservationError
from actprune.lowrank.layers import layers_of


def input_moments(model: nn.Module, batches: Iterable[Tensor], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """``E[x x^T]`` of the inputs of each layer by weight name, float64 ``(in * kernel, in * kernel)``.

    batches  inputs, sent through the model in evaluation mode without gradients; for a conv every patch is an x
    names    of the weights; None: of every Linear and conv that can be factorised

    Raises ObservationError for no data and for layers that were not reached, ModelError for unknown names.
    """
    layers = layers_of(model, names)
    sums: dict[str, Tensor] = {}
    rows = dict.fromkeys(layers, 0)

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = _vectors(layer, inputs[0].detach()).double()
            sums[name] = sums.get(name, 0.0) + x.T @ x
            rows[name] += len(x)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    flags = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in flags:
            module.training = flag
    if missing := [name for name, count in rows.items() if not count]:
        raise ObservationError(f"no input reached {', '.join(missing)}; give batches that pass through every layer")
    return {name: total / rows[name] for name, total in sums.items()}


def _vectors(layer: nn.Module, x: Tensor) -> Tensor:
    """What multiplies the weight matrix, one row each: vectors of a Linear, patches of a conv in (in, kernel) order."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    flat = isinstance(layer, nn.Conv1d)
    batched = x if x.ndim == len(layer.kernel_size) + 2 else x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(batched, layer._reversed_padding_repeated_twice, mode=mode)
    options = {"kernel": layer.kernel_size, "dilation": layer.dilation, "stride": layer.stride}
    kernel, dilation, stride = ((1, *o) if flat else tuple(o) for o in options.values())
    image = padded[:, :, None] if flat else padded
    patches = F.unfold(image, kernel, dilation=dilation, stride=stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])
