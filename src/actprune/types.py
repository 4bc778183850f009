"""L0: the nouns. Nothing here computes; every other file speaks in these words.

Conventions: a weight has PyTorch's own layout ``(out, in, *kernel)``; a mask is bool with True = kept;
a score is larger = keep; a fraction or sparsity lies in 0..1 and is never a percentage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from actprune.errors import RecipeError, one_of

Sums = dict[str, Tensor]
"""One layer's evidence. Every entry is a SUM, so two of them merge by adding."""

Regrow = Literal["frozen", "free", "dense", "dense_frozen"]
"""What is behind the mask: zeros held at zero ("frozen"); zeros that may grow again ("free"); dense weights that go on
receiving the full gradient ("dense", network surgery); dense weights that stay as they were ("dense_frozen",
movement). With either of the last two the network computes with zeros, and a later step may bring the values back."""


@runtime_checkable
class Evidence(Protocol):
    """What a criterion may look at besides the weight. ``actprune.evidence`` has the kinds that can be collected."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of its entries in ``Layer.evidence``."""
        ...

    @property
    def needs_data(self) -> bool:
        """Whether calibration batches must be shown for it."""
        ...


@dataclass(frozen=True)
class Progress:
    """Where the user's training stands. ``metric``: what ``report_metric`` was last told (training accuracy, 0..1)."""

    step: int = 0
    pruning_step: int = 0
    metric: float | None = None
    metric_at_last_prune: float | None = None


@dataclass(frozen=True)
class LayerFacts:
    """What a ranking must know of one layer besides its score.

    name: clean weight name. shape: ``(out, in, *kernel)``. positions: output positions per example, so that a dense
    layer takes ``2 * weights * positions`` FLOP. mask: current mask (True = kept) or None = all kept. device: of the
    new mask. output: whether it is an output layer.
    """

    name: str
    shape: tuple[int, ...]
    positions: int = 1
    mask: Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output: bool = False


@dataclass(frozen=True)
class Layer:
    """All that is known of one layer when it is scored.

    name: clean parameter name (``"fc1.weight"``). weight: ``(out, in, *kernel)``, detached, full (not sharded), dense
    weights behind the mask included. evidence: everything collected for it, by key. mask: the current one (True =
    kept), or None before the first pruning step. seed: of the recipe. progress: of the training.
    """

    name: str
    weight: Tensor
    evidence: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    seed: int = 0
    progress: Progress = Progress()


@dataclass(frozen=True)
class Cost:
    """Weights and FLOP per example."""

    weights: int = 0
    flop: int = 0


@runtime_checkable
class Criterion(Protocol):
    """Layer -> score of shape ``weight.shape`` (an expanded view is fine). Larger = keep.

    Some have more, where it means something:

    fit(view)            which returns the criterion to score with, for one that must see all layers first
    members              which members of a coupled group it can score, the best first, of "outputs", "inputs", "all"
    lines(layer, axis)   scores of the rows (0) or columns (1) of a weight, where that is not the mean of their weights
    of_groups(name, groups, seed, progress)   scores of coupled groups themselves
    reads_scales         True: it scores the scales of norms
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Everything ``score`` reads besides the weight. A missing need is an early error naming it."""
        ...

    def score(self, layer: Layer) -> Tensor:
        """Score every weight of one layer."""
        ...


@runtime_checkable
class Unit(Protocol):
    """What is removed as one piece: ``rank.units``."""

    def groups(self, view: Any, price: Callable[[LayerFacts], int]) -> Sequence[Any]:
        """The sets of units that compete, as ``rank.candidates.Candidates``. view: an ``edit.View``. price: cost of
        one weight of a layer.
        """
        ...


_BUDGETS = {
    "sparsity": (0.0, 1.0, "a fraction 0 <= s < 1, such as 0.9 for 90 %"),
    "compression": (1.0, math.inf, "weights before / after, at least 1"),
    "parameters": (1, math.inf, "a number of weights, at least 1"),
    "flop": (0.0, 1.0, "a fraction 0 < f <= 1 of the dense FLOP"),
    "channels": (0.0, 1.0, "a share 0 <= s < 1 of the coupled channels, such as 0.5"),
    "bytes": (1, math.inf, "a number of bytes, at least 1"),
    "threshold": (-math.inf, math.inf, "a finite number"),
}


@dataclass(frozen=True)
class Budget:
    """How much is to be left. Build it with one of the class methods.

    ``of="prunable"`` counts the layers that may be pruned; ``of="all"`` also counts the weights of layers left
    alone (the founding article counts its unpruned output layer in the denominator).
    """

    kind: Literal["sparsity", "compression", "parameters", "flop", "channels", "bytes", "threshold"]
    value: float
    of: Literal["prunable", "all"] = "prunable"

    def __post_init__(self) -> None:
        one_of("budget", self.kind, _BUDGETS)
        one_of("denominator of a budget (of=)", self.of, ("prunable", "all"))
        low, high, word = _BUDGETS[self.kind]
        ok = (
            low <= self.value <= high
            and not (self.kind in ("sparsity", "channels") and self.value == 1)
            and not math.isnan(self.value)
        )
        if not ok or math.isinf(self.value) or (self.kind == "flop" and self.value == 0):
            raise RecipeError(f"budget {self.kind}={self.value!r} cannot be used; expected {word}")

    @classmethod
    def sparsity(cls, value: float, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Fraction of weights removed, 0 <= value < 1."""
        return cls("sparsity", value, of)

    @classmethod
    def compression(cls, value: float, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Weights before / weights after, >= 1."""
        return cls("compression", value, of)

    @classmethod
    def parameters(cls, kept: int, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Number of weights kept."""
        return cls("parameters", kept, of)

    @classmethod
    def flop(cls, kept: float, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Fraction of the dense FLOP kept, 0 < kept <= 1 (2 FLOP per weight and output position)."""
        return cls("flop", kept, of)

    @classmethod
    def channels(cls, removed: float) -> Budget:
        """Share of the coupled channels to be removed, 0 <= removed < 1 (unit=Channel() or Head() only)."""
        return cls("channels", removed)

    @classmethod
    def bytes(cls, kept: int) -> Budget:
        """Bytes of parameters and buffers that the compacted network may hold (unit=Channel() or Head() only)."""
        return cls("bytes", kept)

    @classmethod
    def threshold(cls, value: float) -> Budget:
        """No budget: whatever scores at least ``value`` is kept, and the fraction follows from the scores."""
        return cls("threshold", value)


@runtime_checkable
class Schedule(Protocol):
    """When to prune and how far, both pure functions of ``Progress``.

    ``pruning_steps`` is the number of pruning steps it plans; None means one for every layer (staged local scope).
    """

    @property
    def pruning_steps(self) -> int | None:
        """Number of pruning steps planned."""
        ...

    def due(self, progress: Progress) -> bool:
        """Is a pruning step due now? Never true for a schedule that waits for an explicit ``prune()``."""
        ...

    def target(self, progress: Progress, final: float) -> float:
        """Cumulative removal, 0..final, that pruning step number ``progress.pruning_step`` aims at."""
        ...


@runtime_checkable
class Penalty(Protocol):
    """A term that a method adds to the loss, and what it learns beside the weights. Stored in recipes, so frozen.

    Derive from it and write what is needed; the rest does nothing. The Pruner calls it only in training, and only until
    the last pruning step is done.
    """

    def learnt(self, weight: Tensor) -> dict[str, Tensor]:
        """Initial values of the tensors learnt beside this weight, each with a name; {} for none."""
        return {}

    def loss(self, weights: Mapping[str, Tensor], learnt: Mapping[str, Mapping[str, Tensor]], step: int) -> Tensor:
        """What is added to the loss, 0-dim and differentiable; weights by clean name, ``step`` optimizer steps done."""
        return torch.zeros((), device=next(iter(weights.values())).device if weights else None)

    def forward(self, module: nn.Module, x: Tensor, output: Tensor, learnt: Mapping[str, Tensor]) -> Tensor | None:
        """What one layer sends on in training instead of ``output``; None: the output itself."""
        return None

    def before_step(self, weight: Tensor, gradient: Tensor, learnt: Mapping[str, Tensor]) -> None:
        """Called before an optimizer step for each layer that has a gradient: set ``.grad`` of what is learnt where
        autograd cannot (straight-through). weight: dense, the values behind the mask included; gradient: of the loss
        by the weight that the network computed with, at every entry.
        """
        return None

    def after_step(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Change the weights in place after an optimizer step (a proximal step)."""
        return None


@dataclass(frozen=True)
class Sharing:
    """How the finished network is stored by Deep Compression (Han et al. 2016): weights of a layer share 2^bits values.

    bits: pairs of fnmatch pattern of a weight name and bits, the first match counts. index_bits: width of a gap.
    tune_epochs: in which the shared values are fine-tuned, taken from the epochs of the run. tune_lr: learning rate
    then; small, as a shared value moves by the sum of its weights' gradients.
    """

    bits: tuple[tuple[str, int], ...] = (("*", 6),)
    index_bits: int = 5
    tune_epochs: int = 2
    tune_lr: float = 1e-4

    def __post_init__(self) -> None:
        ok = all(1 <= width <= 8 for _, width in self.bits) and 1 <= self.index_bits <= 16 and self.tune_epochs >= 0
        if not ok:
            raise RecipeError(f"{self} cannot be used; expected 1 to 8 bits per weight and 1 to 16 per index")
