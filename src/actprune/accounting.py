"""L2: what a whole network holds and costs, before and after: every figure that is reported comes from here.

A weight is a parameter of two axes or more, whatever module holds it; the rest are biases and scales of norms. Tied
tensors count once. FLOP are those of all matrix products and convolutions of one example, as
``torch.utils.flop_counter`` counts them once fused kernels are taken apart (attention and recurrent layers included).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from actprune.graph import clean_path, unhooked, unwrap, weights_of
from actprune.structure import plainly

LARGEST = 5
"""So many of the tensors that were left alone are named in a table; the others are summed up."""


@dataclass(frozen=True)
class Part:
    """One weight tensor. kind: class of the module that holds it. why: why it is left alone; "" where it is pruned."""

    name: str
    kind: str
    shape: tuple[int, ...]
    total: int
    kept: int
    why: str = ""


@dataclass(frozen=True)
class Account:
    """The whole network. ``flop`` and ``flop_kept`` are of one example; None: no forward pass was seen.

    parts   every weight tensor, in registration order
    biases  numbers in all other parameters; ``biases_kept``: those that no mask has taken
    """

    parts: tuple[Part, ...]
    biases: int
    biases_kept: int
    flop: int | None = None
    flop_kept: int | None = None

    @property
    def weights(self) -> int:
        """Weights before pruning."""
        return sum(part.total for part in self.parts)

    @property
    def kept(self) -> int:
        """Weights left."""
        return sum(part.kept for part in self.parts)

    @property
    def prunable(self) -> int:
        """Weights, before pruning, of the layers that were to be pruned."""
        return sum(part.total for part in self.parts if not part.why)

    @property
    def prunable_kept(self) -> int:
        """Weights left in those."""
        return sum(part.kept for part in self.parts if not part.why)

    @property
    def prunable_share(self) -> float:
        """How much of the network could be pruned at all, 0..1 of its weights."""
        return self.prunable / max(self.weights, 1)

    @property
    def sparsity(self) -> float:
        """Removed fraction of all weights, 0..1."""
        return 1 - self.kept / max(self.weights, 1)

    @property
    def compression(self) -> float:
        """Weights before / after; inf when none is left."""
        return self.weights / self.kept if self.kept else math.inf

    @property
    def flop_share(self) -> float | None:
        """Fraction of the FLOP that is left, if zeros are skipped."""
        return None if self.flop is None or self.flop_kept is None else self.flop_kept / max(self.flop, 1)

    @property
    def left_alone(self) -> tuple[Part, ...]:
        """Weight tensors that were not to be pruned, the largest first."""
        return tuple(sorted((part for part in self.parts if part.why), key=lambda part: -part.total))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready."""
        return {
            "weights": self.weights,
            "kept": self.kept,
            "biases": self.biases,
            "biases_kept": self.biases_kept,
            "sparsity": self.sparsity,
            "compression": self.compression,
            "flop": self.flop,
            "flop_left": self.flop_kept,
            "flop_kept": self.flop_share,
            "prunable": self.prunable,
            "prunable_kept": self.prunable_kept,
            "prunable_share": self.prunable_share,
            "left_alone": [{**asdict(part), "shape": list(part.shape)} for part in self.left_alone],
        }

    def __str__(self) -> str:
        return "\n".join([self.headline(), *self.exceptions()])

    def headline(self) -> str:
        """One line: weights, biases and FLOP of the whole network before and after."""
        share = self.flop_share
        flop = (
            "FLOP unknown (no forward pass was seen: observe(), or give example=; sharded models are not counted)"
            if share is None
            else f"FLOP {self.flop:,} -> {self.flop_kept:,} ({share:.2%} kept)"
        )
        fewer = "" if self.biases_kept == self.biases else f" -> {self.biases_kept:,}"
        return (
            f"whole network: sparsity {self.sparsity:.2%}, compression {self.compression:.3g}x, weights "
            f"{self.weights:,} -> {self.kept:,}, {self.biases:,}{fewer} biases and scales, {flop}"
        )

    def exceptions(self) -> list[str]:
        """How much could be pruned at all, and the largest tensors that could not; nothing when all could."""
        alone = self.left_alone
        if not alone:
            return []
        lines = [f"{self.prunable_share:.2%} of the weights could be pruned; left alone were:"]
        lines += [
            f"  {part.name}  {'x'.join(map(str, part.shape))}  {part.total / self.weights:.2%} of the weights: "
            f"{part.why}"
            for part in alone[:LARGEST]
        ]
        rest = alone[LARGEST:]
        if rest:
            share = sum(part.total for part in rest) / self.weights
            lines.append(f"  and {len(rest)} more tensors with {share:.2%} of the weights")
        return lines


def account(
    root: nn.Module,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    why: Mapping[str, str],
    flop: Mapping[str, int] | None = None,
) -> Account:
    """Count every parameter of an unwrapped model once.

    weights    by clean name: those that are pruned or might be, with the names that they are known by
    masks      by the same names, True = kept; a weight without one is whole
    why        why a weight was left alone, by name; what is not in ``weights`` says so by its module's kind
    flop       of one example, see ``dense_flop``; None: unknown
    """
    names = {id(tensor): name for name, tensor in weights.items()}
    parts, biases, biases_kept = [], 0, 0
    for name, kind, tensor in _parameters(root):
        known = names.get(id(tensor))
        mask = None if known is None else masks.get(known)
        kept = tensor.numel() if mask is None else int(torch.count_nonzero(mask))
        if tensor.dim() < 2:
            biases, biases_kept = biases + tensor.numel(), biases_kept + kept
            continue
        reason = f"{kind} is of no kind that is pruned" if known is None else why.get(known, "")
        parts.append(Part(known or name, kind, tuple(tensor.shape), tensor.numel(), kept, reason))
    if flop is None:
        return Account(tuple(parts), biases, biases_kept)
    gone = sum(flop.get(part.name, 0) * (part.total - part.kept) // part.total for part in parts if part.total)
    total = sum(flop.values())
    return Account(tuple(parts), biases, biases_kept, total, total - gone)


def held(root: nn.Module, flop: Mapping[str, int] | None = None) -> Account:
    """An unwrapped network as it stands: what is not zero in its Linear and conv weights is kept. See ``account``."""
    weights = weights_of(root)
    return account(root, weights, {name: weight != 0 for name, weight in weights.items()}, {}, flop)


def measured(model: nn.Module, x: Tensor) -> Account:
    """A network as it stands, examples along the first axis of ``x``: what is not zero in its Linear and conv weights
    is kept. The model has to be in evaluation mode. ``x`` on the meta device: nothing is computed, shapes say it all.
    """
    root = unwrap(model)
    runs = copy.deepcopy(root).to("meta") if x.is_meta else root
    return held(root, dense_flop(runs, ((x,), {}), len(x)))


def _parameters(root: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Clean name, kind of the module that holds it, and tensor; each tensor once."""
    seen: set[int] = set()
    for path, module in root.named_modules():
        for leaf, tensor in module.named_parameters(recurse=False):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield clean_path(f"{path}.{leaf}" if path else leaf), type(module).__name__, tensor


# ---- FLOP -----------------------------------------------------------------------------------------------------------


def dense_flop(root: nn.Module, example: Any, examples: int) -> dict[str, int]:
    """FLOP of one example of all that ``root`` computes, as it stands, on ``example`` (``(args, kwargs)``).

    By the weight that a product reads, as ``account`` calls it; "" for products of activations (attention scores).
    examples: how many are in it. The user's hooks do not see this forward, unless it cannot be done without them. The
    model has to be in evaluation mode.
    """
    try:
        with unhooked(root):
            total = _counted(root, example)
    except Exception:  # a hook that changes shapes belongs to the model; what else fails, fails again
        total = _counted(root, example)
    return {name: flop // examples for name, flop in total.items()}


def _counted(root: nn.Module, example: Any) -> dict[str, int]:
    names = {id(tensor): name for name, _, tensor in _parameters(root)}
    for name, weight in weights_of(root).items():
        names[id(weight)] = name
    args, kwargs = example
    counter = _Counter(root, names)
    with plainly(root), torch.no_grad(), counter:
        root(*args, **kwargs)
    return counter.flop


def _grouped_mm_flop(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """Every token by the matrix of its expert."""
    return 2 * left.shape[0] * left.shape[1] * right.shape[-1]


_MORE = {"aten::_grouped_mm": _grouped_mm_flop}  # what torch has no formula of


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOP of products by the weight that they read: a parameter, or a view of it."""

    def __init__(self, root: nn.Module, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop: dict[str, int] = {}
        self._names = {
            tensor.untyped_storage()._cdata: names[id(tensor)] for _, _, tensor in _parameters(root) if tensor.dim() > 1
        }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under it, and to say so would import the compiler, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``; count if it multiplies."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = _MORE.get(func._overloadpacket._qualified_op_name) or flop_registry.get(func._overloadpacket)
        if formula is not None:
            stores = [item.untyped_storage()._cdata for item in args if isinstance(item, Tensor)]
            name = next((self._names[store] for store in stores if store in self._names), "")
            self.flop[name] = self.flop.get(name, 0) + int(formula(*args, **kwargs, out_val=out))
        return out
