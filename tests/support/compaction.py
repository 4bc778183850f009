"""What the tests of compaction share: masks, the masked network computed without the library, and comparisons."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def weight_names(model: nn.Module) -> list[str]:
    """Weights of layers; the last one makes the outputs."""
    names = {"weight", "in_proj_weight"}
    return [n for n, p in model.named_parameters() if n.rpartition(".")[2] in names and p.dim() > 1]


def random_masks(model: nn.Module, sparsity: float, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """``kind`` "rows": whole neurons and channels, not of the output layer; "weights": unstructured, all layers."""
    generator = torch.Generator().manual_seed(seed)
    names, tensors, found = weight_names(model), dict(model.named_parameters()), {}
    for name in names[:-1] if kind == "rows" else names:
        shape = tensors[name].shape
        drawn = torch.rand(shape[0] if kind == "rows" else shape, generator=generator) >= sparsity
        found[name] = rows(shape, drawn) if kind == "rows" else drawn
    return found


def rows(shape: torch.Size, kept: Tensor) -> Tensor:
    """A mask of whole rows."""
    return kept.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).clone()


def dead_rows(model: nn.Module, dead: dict[str, Iterable[int]]) -> dict[str, Tensor]:
    """Masks without the given rows."""
    found = {}
    for name, indices in dead.items():
        weight = model.get_parameter(name)
        kept = torch.ones(len(weight), dtype=torch.bool)
        kept[list(indices)] = False
        found[name] = rows(weight.shape, kept)
    return found


@torch.no_grad()
def masked_copy(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """The model with the masked weights set to zero."""
    copied = copy.deepcopy(model)
    for name, mask in masks.items():
        copied.get_parameter(name).mul_(mask)
    return copied


@torch.no_grad()
def gap(one: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Largest difference of their outputs in evaluation mode, relative to the largest output; in the inputs' dtype."""
    dtype = inputs[0].dtype
    expected, got = (copy.deepcopy(model).to(dtype).eval()(*inputs) for model in (one, other))
    assert expected.shape == got.shape
    return float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-30))


def assert_same(masked: nn.Module, small: nn.Module, net, seed: int = 7) -> None:
    """Equal on other inputs than those that compaction has seen, in another batch size."""
    assert gap(masked, small, net.inputs(5, seed, torch.float64)) <= 1e-5
    assert gap(masked, small, net.inputs(5, seed + 1)) <= 1e-4


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}
