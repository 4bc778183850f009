"""L2: the pure heart. A pruning step is a function ``View -> Edit``; no optimizer and no process group is known here.

    View     what is known: layers (weight, mask, evidence), who reads whom, progress, seed; read lazily
    Quota    how much is due
    Edit     masks; new values of weights; what grew
    Method   a frozen description with ``edit(view, quota) -> Edit``: every pruning method is one

``ranked.Ranked`` is the standard method: score, rank, keep the best.

No input is modified. The same inputs give the same edit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from actprune.errors import BudgetError, LayerCollapseError, ModelError, RecipeError, one_of
from actprune.nodes import Graph
from actprune.types import (
    Budget,
    Cost,
    Evidence,
    Layer,
    LayerFacts,
    Penalty,
    Progress,
    Regrow,
    Schedule,
    Sharing,
)

Masks = dict[str, Tensor]
Weights = Mapping[str, Tensor]


class Edit(NamedTuple):
    """What a pruning step does.

    masks    new masks by weight name, bool, True = kept
    weights  new values of parameters and buffers by clean name (repaired, folded, rewound, updated); full tensors, or
             this rank's part. What a mask removes is zero afterwards, whatever stands here
    born     entries that grew in this step, bool by weight name: their optimizer state starts again
    dropout  new dropout rates by module path
    copies   new values of parameters of each copy of the model (EMA), by name (filled in by ``pruning_step``)
    dead     cost of what repairs removed in addition because it was dead (filled in by ``pruning_step``)
    actual   fraction removed in the budget's terms, where the masks do not say it (units that span layers)
    notes    sentences for the report
    """

    masks: Masks
    weights: Mapping[str, Tensor] = {}
    born: Mapping[str, Tensor] = {}
    dropout: Mapping[str, float] = {}
    dead: int = 0
    copies: tuple[Mapping[str, Tensor], ...] = ()
    actual: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quota:
    """How much is due: the fraction 0..1 to be removed in all, what is gone already included, in the budget's terms.

    For a threshold the fraction means nothing.
    """

    fraction: float
    budget: Budget


class Source(Protocol):
    """Where a view reads from: the pruner's model, or plain tensors in a test."""

    def layer(self, name: str) -> Layer:
        """Weight, mask and evidence of one layer, read now."""
        ...

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer by clean name, detached and full."""
        ...

    def behind(self, weights: Weights) -> Source:
        """The same, as if the parameters in ``weights`` had these values: evidence is collected again behind them."""
        ...

    def inputs(self, weights: Weights, names: Sequence[str]) -> dict[str, Tensor]:
        """What layers receive, on the two examples kept of the first batch, with the parameters in ``weights``."""
        ...

    def fresh(self, seed: int) -> dict[str, Tensor]:
        """All parameters and buffers as the modules would initialise them, seeded."""
        ...

    def coupling(self) -> Any:
        """What must go together, as ``coupled.Coupling``; seen in one forward when it is first asked for."""
        ...

    def masks(self) -> Mapping[str, Tensor]:
        """Masks in force by parameter name, also of parameters that are no layer's weight."""
        ...

    def scored(self) -> Collection[str]:
        """Weights of which there is evidence: of the layers to be pruned, and of others that help to score these."""
        ...


@dataclass(frozen=True)
class View:
    """All that a pruning step may look at. Plain data; ``layer``, ``tensor``, ``behind`` .. read on demand.

    facts     the layers to be pruned, in execution order
    others    cost of the layers left alone
    graph     where each activation is final and who reads it; None: not seen yet
    last      whether this is the last pruning step planned
    dead      cost of what was removed because it was dead, in all steps so far
    snapshot  parameters and buffers as they were at the step that a repair wants to go back to
    dropout   dropout rates before anything was pruned, by module path
    """

    facts: tuple[LayerFacts, ...]
    source: Source
    others: Cost = Cost()  # noqa: RUF009  (frozen)
    graph: Graph | None = None
    progress: Progress = Progress()  # noqa: RUF009  (frozen)
    seed: int = 0
    last: bool = False
    dead: int = 0
    snapshot: Mapping[str, Tensor] = field(default_factory=dict)
    dropout: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Sequence[Layer], positions: Mapping[str, int] | None = None, **rest: Any) -> View:
        """A view of plain tensors: one layer after the other, as in a test or a notebook."""
        facts = tuple(
            LayerFacts(layer.name, tuple(layer.weight.shape), (positions or {}).get(layer.name, 1), layer.mask)
            for layer in layers
        )
        return cls(facts, _Plain({layer.name: layer for layer in layers}), **rest)

    @property
    def names(self) -> list[str]:
        """The layers to be pruned, in execution order."""
        return [facts.name for facts in self.facts]

    def layer(self, name: str) -> Layer:
        """Weight, mask and evidence of one layer."""
        return self.source.layer(name)

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer by clean name (a bias, say), detached and full."""
        return self.source.tensor(name)

    def behind(self, weights: Weights) -> View:
        """The view behind an edit: evidence is collected again with these weights in place (sequential, rounds)."""
        return replace(self, source=self.source.behind(weights))

    def inputs(self, weights: Weights, names: Sequence[str]) -> dict[str, Tensor]:
        """What layers receive with these weights in place, ``(2, ..)``: two examples of the first batch."""
        return self.source.inputs(weights, names)

    @property
    def coupling(self) -> Any:
        """What must go together (``coupled.Coupling``)."""
        return self.source.coupling()

    @property
    def scored(self) -> Collection[str]:
        """Weights that ``layer`` knows: of the layers to be pruned, and of others that help to score these."""
        return self.source.scored()

    def without_masks(self) -> View:
        """The view in which everything competes again."""
        return replace(self, facts=tuple(replace(facts, mask=None) for facts in self.facts))


@dataclass(frozen=True)
class _Plain:
    """Layers that are there already."""

    layers: Mapping[str, Layer]

    def layer(self, name: str) -> Layer:
        return self.layers[name]

    def tensor(self, name: str) -> Tensor:
        return self.layers[name].weight

    def behind(self, weights: Weights) -> _Plain:
        changed = {name: replace(layer, weight=weights.get(name, layer.weight)) for name, layer in self.layers.items()}
        return _Plain(changed)

    def inputs(self, weights: Weights, names: Sequence[str]) -> dict[str, Tensor]:
        raise ModelError("a view of plain tensors has no model to run; take the view from a Pruner")

    def fresh(self, seed: int) -> dict[str, Tensor]:
        raise ModelError("a view of plain tensors has no model to initialise; take the view from a Pruner")

    def masks(self) -> Mapping[str, Tensor]:
        return {name: layer.mask for name, layer in self.layers.items() if layer.mask is not None}

    def scored(self) -> Collection[str]:
        return self.layers

    def coupling(self) -> Any:
        raise ModelError("a view of plain tensors has no model to follow; take the view from a Pruner")


@runtime_checkable
class Repair(Protocol):
    """What may change kept weights after a pruning step: fold, rewind, reshuffle, rescale. Frozen; ``actprune.repair``.

    A repair may also say, as plain attributes: ``restarts`` (the optimizer's state is forgotten), ``lr_scale`` (factor
    on the learning rate once something is pruned), ``replays`` (the step of the learning-rate schedule to go back to
    after each pruning step), ``remembers`` (the optimizer step after which the snapshot is taken).
    """

    def repair(self, view: View, edit: Edit) -> Edit:
        """The edit with this repair done. Pure."""
        ...


@runtime_checkable
class Closing(Repair, Protocol):
    """A repair that removes more than was chosen, because it is dead. in_budget: whether that counts."""

    @property
    def in_budget(self) -> bool:
        """Whether what it removes counts towards the budget."""
        ...

    def closes(self, graph: Graph, masks: Masks) -> Masks:
        """The masks without what is dead under them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A pruning method: how one pruning step edits, and how the steps are carried out. Comparable, printable.

    repairs         what is done to the weights after the masks are chosen, in this order
    count_on        when evidence is collected: inside ``observe()``, or on the live "train" batches
    count_every     of how many live batches one is counted
    regrow          what is behind the mask: see ``types.Regrow``
    penalty         a term of the loss, with what it learns
    sharing         how the finished weights are shared and coded; carried out by whoever trains, not by the Pruner
    skip_output     leave the last layer alone (it has no activation that another layer sees)
    allow_collapse  fnmatch patterns of weights that may be emptied ("fc1.weight", "*")
    reset_counts    forget the evidence after every pruning step (False accumulates it, as the founding code does)
    """

    name: str
    budget: Budget
    schedule: Schedule
    repairs: tuple[Repair, ...] = ()
    count_on: Literal["observe", "train"] = "observe"
    count_every: int = 1
    regrow: Regrow = "frozen"
    penalty: Penalty | None = None
    sharing: Sharing | None = None
    skip_output: bool = False
    allow_collapse: tuple[str, ...] = ()
    reset_counts: bool = False
    seed: int = 0

    @property
    @abstractmethod
    def evidence(self) -> tuple[Evidence, ...]:
        """Everything that must be collected before ``edit`` can look at it."""

    def needed(self, progress: Progress) -> tuple[Evidence, ...]:
        """What the next pruning step looks at; a part of ``evidence``."""
        return self.evidence

    @property
    def collects_again(self) -> bool:
        """Whether ``edit`` collects evidence again (``view.behind``): the calibration inputs are kept for that."""
        return False

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate once something is pruned."""
        return math.prod(getattr(repair, "lr_scale", 1.0) for repair in self.repairs)

    @property
    def replays(self) -> int | None:
        """The step of the learning-rate schedule to go back to after each pruning step; None: the schedule goes on."""
        return next((step for repair in self.repairs if (step := getattr(repair, "replays", None)) is not None), None)

    @property
    def remembers(self) -> int | None:
        """The optimizer step after which the snapshot is taken; None: no repair wants one."""
        return next((step for repair in self.repairs if (step := getattr(repair, "remembers", None)) is not None), None)

    @property
    def restarts(self) -> bool:
        """Whether the optimizer's state is forgotten at every pruning step."""
        return any(getattr(repair, "restarts", False) for repair in self.repairs)

    @property
    def closing(self) -> tuple[Closing, ...]:
        """Repairs that remove what is dead as well."""
        return tuple(repair for repair in self.repairs if isinstance(repair, Closing))

    @abstractmethod
    def edit(self, view: View, quota: Quota) -> Edit:
        """One pruning step, before repairs. Pure.

        Raises BudgetError when the quota cannot be met.
        """

    def __post_init__(self) -> None:
        one_of("count_on", self.count_on, ("observe", "train"))
        one_of("regrow", self.regrow, get_args(Regrow))
        self._must("budget", self.budget, Budget, "Budget.sparsity(0.9)")
        self._must("schedule", self.schedule, Schedule, "schedules.OneShot()")
        if not isinstance(self.repairs, tuple):
            raise RecipeError(f"repairs={self.repairs!r}: expected a tuple of repairs, such as (Rewind(0),)")
        for repair in self.repairs:
            self._must("repairs", repair, Repair, "repair.Rewind(0)")
        if self.penalty is not None:
            self._must("penalty", self.penalty, Penalty, "penalties.NuclearNorm(1e-3)")
        if self.sharing is not None:
            self._must("sharing", self.sharing, Sharing, "Sharing()")
        if isinstance(self.count_every, bool) or not isinstance(self.count_every, int) or self.count_every < 1:
            raise RecipeError(f"count_every={self.count_every!r} makes no sense; use 1 for each batch, 8 for each 8th")
        patterns: object = self.allow_collapse
        if isinstance(patterns, str):
            raise RecipeError(f"allow_collapse={patterns!r}: expected a tuple of patterns, such as ({patterns!r},)")

    @staticmethod
    def _must(slot: str, value: object, protocol: type, example: str) -> None:
        if not isinstance(value, protocol) or isinstance(value, type):
            members = {name for name in dir(protocol) if not name.startswith("_")}
            lacks = sorted(name for name in members if not hasattr(value, name))
            what = f"it has no {', '.join(lacks)}" if lacks else "it is a class or of another kind"
            raise RecipeError(
                f"{slot}={value!r} cannot be carried out: {what}; expected a {protocol.__name__}, such as {example}"
            )


def final_fraction(budget: Budget, total_weights: int) -> float:
    """The fraction to be removed in the end: of the weights, or of the FLOP ("flop"), of the coupled channels
    ("channels"), of the bytes ("bytes": then ``total_weights`` are bytes).

    sparsity s -> s; compression c -> 1 - 1/c; parameters p -> 1 - p/total; flop f -> 1 - f; a threshold asks for
    nothing, which is 0. Raises BudgetError when more parameters are to be kept than there are.
    """
    match budget.kind:
        case "sparsity" | "channels":
            return budget.value
        case "compression":
            return 1 - 1 / budget.value
        case "flop":
            return 1 - budget.value
        case "threshold":
            return 0.0
    if budget.value > total_weights:
        raise BudgetError(
            f"asked to keep {budget.value:.0f} {budget.kind}, but there are only {total_weights}; ask for fewer"
        )
    return 1 - budget.value / total_weights


@torch.no_grad()
def pruning_step(method: Method, view: View, quota: Quota, copies: Sequence[View] = ()) -> Edit:
    """The whole pruning step: the method's edit, then its repairs; these also on copies of the model, whose own weights
    send other constants.

    Raises what they raise, and LayerCollapseError when a layer would be emptied that may not be.
    """
    if not view.facts and not getattr(method, "spans", False):
        raise RecipeError("there is no layer to select from; check skip= and include_frozen=")
    if not 0 <= quota.fraction <= 1:
        raise BudgetError(
            f"asked to remove a fraction of {quota.fraction!r}; expected 0 <= fraction <= 1, such as 0.9 for 90 %"
        )
    edit = method.edit(view, quota)
    chosen = edit.masks
    _check_masks(method, view, chosen)
    others = tuple(_repaired(method, each, edit).weights for each in copies)
    edit = _repaired(method, view, edit)._replace(copies=others)
    _refuse_collapse(method, edit.masks, quota)
    if edit.masks is chosen:
        return edit
    dead = 0
    for facts in view.facts:
        lost = chosen[facts.name] & ~edit.masks[facts.name]
        dead += int(torch.count_nonzero(lost)) * price(quota.budget, facts)
    return edit._replace(dead=dead)


def _repaired(method: Method, view: View, edit: Edit) -> Edit:
    for repair in method.repairs:
        edit = repair.repair(view, edit)
    return edit


def price(budget: Budget, facts: LayerFacts) -> int:
    """Cost of one weight of a layer in the budget's terms: 1, or its FLOP per example."""
    return 2 * facts.positions if budget.kind == "flop" else 1


def _check_masks(method: Method, view: View, masks: Masks) -> None:
    """A method of somebody else's may forget a layer. Where units span layers, other parameters have masks, too."""
    spans = getattr(method, "spans", False)
    if spans:
        masks = {name: masks[name] for name in view.names if name in masks}
    if set(masks) != set(view.names) and not spans:
        odd = sorted(set(masks) ^ set(view.names))
        raise RecipeError(f"{method.name} returned masks that do not belong to the layers it was shown: {odd}")
    for facts in view.facts:
        if facts.name not in masks:
            continue
        mask = masks[facts.name]
        if tuple(mask.shape) != facts.shape or mask.dtype != torch.bool:
            raise RecipeError(
                f"{method.name} returned a mask of {facts.name!r} with shape {tuple(mask.shape)} and {mask.dtype}; "
                f"expected bool of shape {facts.shape}"
            )


def _refuse_collapse(method: Method, masks: Masks, quota: Quota) -> None:
    """Raise LayerCollapseError when a layer is empty that was not allowed to be."""
    emptied = [
        name
        for name, mask in masks.items()
        if not torch.count_nonzero(mask) and not any(fnmatchcase(name, pattern) for pattern in method.allow_collapse)
    ]
    if emptied:
        kept = sum(int(torch.count_nonzero(mask)) for mask in masks.values())
        layers = ", ".join(f"{name!r} (0 of {masks[name].numel()} weights kept)" for name in emptied)
        allowed = ", ".join(repr(name) for name in emptied)
        what = f"removing a fraction of {quota.fraction:.6g}"
        if quota.budget.kind == "threshold":
            what = f"removing all that scores below {quota.budget.value:g}"
        raise LayerCollapseError(
            f"{what} would empty {layers}, while {kept} weights are kept elsewhere; "
            f"keep some with keep_at_least=1, ask for less, or set allow_collapse=({allowed},)"
        )
