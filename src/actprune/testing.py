"""L5: ``check_method``, the contract that every method must pass; run it on your own recipe.

    from actprune.testing import check_method
    check_method(my_method)        # my_method(sparsity, *, seed=0) -> Method

Each check raises AssertionError saying what was expected and what was found.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from actprune.compact import compact
from actprune.edit import Method
from actprune.errors import LayerCollapseError
from actprune.evidence import Gradient, HessianGradient, OfActivations, SquaredGradient
from actprune.pruner.pruner import Pruner
from actprune.pruner.report import PruneReport
from actprune.rank.units import Weight
from actprune.recipes import from_dict, parts, to_dict
from actprune.schedules import Cubic, Every
from actprune.scopes import NM

Data = tuple[Tensor, Tensor]


class Factory(Protocol):
    """What a method is: a function of the sparsity, with a keyword ``seed``, that returns a recipe."""

    def __call__(self, sparsity: float, *, seed: int = 0) -> Method:
        """Build the recipe."""
        ...


def check_method(make: Factory) -> None:
    """Run every check. A recipe with an n:m pattern is checked at the sparsity that the pattern fixes."""
    for check in CHECKS:
        check(make)


def check_round_trips(make: Factory) -> None:
    """A recipe is comparable, printable and serialisable."""
    recipe = make(0.5)
    names: dict[str, Any] = {**parts(), type(recipe).__name__: type(recipe)}
    assert eval(repr(recipe), names) == recipe, f"eval(repr(recipe)) is not the recipe: {recipe!r}"
    assert from_dict(to_dict(recipe)) == recipe, f"from_dict(to_dict(recipe)) is not the recipe: {recipe!r}"
    assert hash(recipe) == hash(make(0.5)), "two recipes built alike must be equal and hash alike"


def check_exact_budget(make: Factory) -> None:
    """Target is actual: exactly for weights, overshooting by less than one unit for neurons and blocks."""
    for sparsity in _sparsities(make):
        recipe = make(sparsity)
        model = small_net(recipe)
        pruner, report = prune(model, recipe, sparsity)
        masks = pruner.masks
        if getattr(recipe, "spans", False):
            _check_really_removed(pruner, report, sparsity)
            continue
        staged = getattr(recipe, "allocation", None) == "staged"
        if staged:
            first = next(iter(masks.values()))
            removed, total = int((~first).sum()), first.numel()
        else:
            removed = sum(int((~mask).sum()) for mask in masks.values())
            total = _counted(model, recipe, masks)
        need = math.floor(sparsity * total + 0.5)
        assert removed >= need, f"{recipe.name}: asked {need} of {total} weights, removed only {removed}"
        exact = isinstance(getattr(recipe, "unit", Weight()), Weight) and not recipe.closing
        slack = 0 if exact else total if recipe.closing else 2 * _largest_unit(masks)
        assert removed <= need + slack, f"{recipe.name}: asked {need} of {total} weights, removed {removed}"
        if not staged:
            assert math.isclose(report.actual, removed / total), "the report must say what was really removed"
        for name, mask in masks.items():
            assert not model.get_parameter(name)[~mask].any(), f"{name}: pruned weights must be exactly zero"


def _check_really_removed(pruner: Pruner, report: PruneReport, sparsity: float) -> None:
    """Of units that span layers: what the report says is what the compacted network lacks, and at least the target."""
    recipe, model = pruner.recipe, pruner.model
    total = sum(parameter.numel() for parameter in model.parameters())
    left = sum(parameter.numel() for parameter in compact(model, pruner.state).parameters())
    assert math.isclose(report.actual, 1 - left / total), (
        f"{recipe.name}: {report.actual} said, {1 - left / total} gone"
    )
    most = 2 * _largest_unit(pruner.masks) / total
    assert sparsity <= report.actual <= sparsity + most, f"{recipe.name}: asked {sparsity}, removed {report.actual}"


def check_ties(make: Factory) -> None:
    """Equal weights everywhere: still the exact budget, and the same seed gives the same mask."""
    sparsity = _sparsities(make)[0]
    chosen = []
    for _ in range(2):
        model = small_net(make(sparsity))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.05)
        chosen.append(prune(model, make(sparsity, seed=3), sparsity)[0].masks)
    _assert_same(chosen[0], chosen[1], "two prunings with the same seed differ on tied scores")


def check_monotone(make: Factory) -> None:
    """A recipe that promises monotone masks never revives a weight by pruning further."""
    recipe = make(0.7)
    if not getattr(recipe, "monotone", True) or _pattern(recipe):
        return
    model = small_net(recipe)
    pruner, _ = prune(model, recipe, 0.3)
    before = {name: mask.clone() for name, mask in pruner.masks.items()}
    observe(pruner, model)
    pruner.prune(0.7)
    for name, mask in pruner.masks.items():
        assert not (mask & ~before[name]).any(), f"{recipe.name}: {name} got weights back although masks are monotone"


def check_emptied_layer(make: Factory) -> None:
    """A layer of zeros is pruned like any other or refused as a collapse; nothing becomes NaN."""
    sparsity = _sparsities(make)[0]
    recipe = make(sparsity)
    model = small_net(recipe)
    with torch.no_grad():
        model.get_parameter("2.weight").zero_()
    try:
        pruner, _ = prune(model, recipe, sparsity)
    except LayerCollapseError:
        return
    assert all(bool(torch.isfinite(p).all()) for p in pruner.model.parameters()), "pruning made weights NaN or Inf"


def check_dtypes(make: Factory) -> None:
    """bf16, fp16 and fp64 work; parameters stay the same objects with the same dtype and device."""
    sparsity = _sparsities(make)[0]
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = small_net(make(sparsity)).to(dtype)
        before = {name: (parameter, parameter.dtype, parameter.device) for name, parameter in model.named_parameters()}
        pruner, report = prune(model, make(sparsity), sparsity)
        assert report.actual > 0, f"{dtype}: nothing was pruned"
        for name, parameter in model.named_parameters():
            assert before[name][0] is parameter, f"{dtype}: {name} was replaced by another parameter"
            assert before[name][1:] == (parameter.dtype, parameter.device), f"{dtype}: {name} changed dtype or device"
        assert all(mask.dtype == torch.bool for mask in pruner.masks.values()), "masks must be bool"


def check_resume(make: Factory) -> None:
    """Saving after one pruning and going on in a new process gives the masks of an uninterrupted run."""
    first, second = (_sparsities(make) * 2)[:2]
    recipe = make(second)
    model = small_net(recipe)
    whole, _ = prune(model, recipe, first)
    stored, weights = whole.state_dict(), copy.deepcopy(model.state_dict())
    observe(whole, model)
    whole.prune(second)
    again = small_net(recipe)
    again.load_state_dict(weights)
    resumed = Pruner(again, recipe, sharing_elsewhere=True)
    resumed.load_state_dict(stored)
    observe(resumed, again)
    resumed.prune(second)
    _assert_same(whole.masks, resumed.masks, "a resumed run gives other masks")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), f"a resumed run gives other weights in {name}"


def check_ranks(make: Factory) -> None:
    """Statistics of two halves of the data, added up, give the masks of the whole data (where they can be added)."""
    sparsity = _sparsities(make)[0]
    recipe = make(sparsity)
    if not all(getattr(each, "merges", True) for each in recipe.evidence):
        return
    inputs, labels = small_data()
    parts = (slice(0, 40), slice(40, None))
    squares = any(isinstance(each, SquaredGradient) for each in recipe.evidence)  # of backward passes: the same ones
    whole = Pruner(model := small_net(recipe), recipe, sharing_elsewhere=True)
    observe(whole, model, parts=parts if squares else (slice(None),))
    whole.prune(sparsity)
    halves = []
    for part in parts:
        half = Pruner(model := small_net(recipe), recipe, sharing_elsewhere=True)
        observe(half, model, (inputs[part], labels[part]))
        halves.append(half)
    left, right = halves
    for name, sums in left.state.sums.items():
        for key, value in sums.items():
            value.add_(right.state.sums[name][key])
    for name, gradient in left.state.gradients.items():
        gradient.add_(right.state.gradients[name])
    left.state.inputs += right.state.inputs
    left.prune(sparsity)
    _assert_same(whole.masks, left.masks, "merged statistics of two ranks give other masks than one process")


def check_steps(make: Factory) -> None:
    """Three pruning steps that ``optimizer.step()`` triggers: all of them happen, the last meets the budget."""
    sparsity = _sparsities(make)[-1]
    recipe = make(sparsity)
    model = small_net(recipe)
    schedule = Every(1, 2) if _pattern(recipe) else Cubic(0, 3, 1)
    recipe = dataclasses.replace(recipe, schedule=schedule)
    pruner = Pruner(model, recipe, example=small_data()[0][:2], sharing_elsewhere=True)
    inputs, labels = small_data()
    looks = recipe.count_on == "observe" and any(isinstance(each, OfActivations) for each in recipe.evidence)
    looks |= _differentiates_twice(recipe)
    optimizer = torch.optim.SGD([*model.parameters(), *pruner.extra_parameters()], lr=0.01, momentum=0.9)
    pruner.attach(optimizer)
    reports = []
    for _ in range(4):
        if looks:
            observe(pruner, model)
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(inputs), labels) + pruner.penalty()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        reports.append(pruner.last_report)
        for name, mask in pruner.masks.items():
            assert not model.get_parameter(name)[~mask].any() or recipe.regrow == "free", f"{name}: zeros are not held"
    assert pruner.state.pruning_step == 3, f"{recipe.name}: 3 pruning steps were due, {pruner.state.pruning_step} done"
    last = reports[-1]
    assert last is not None
    if getattr(recipe, "allocation", None) != "staged" and recipe.budget.kind != "threshold":
        assert last.actual >= last.target - 0.5 / _counted(model, recipe, pruner.masks), (
            f"{last} is short of its target"
        )
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters()), "pruning while training made NaN or Inf"


CHECKS: tuple[Callable[[Factory], None], ...] = (
    check_round_trips,
    check_exact_budget,
    check_ties,
    check_monotone,
    check_emptied_layer,
    check_dtypes,
    check_resume,
    check_ranks,
    check_steps,
)


def small_net(recipe: Method | None = None) -> nn.Sequential:
    """A seeded 32-24-16-8-4 ReLU net; its weights are named 0.weight, 2.weight, 4.weight, 6.weight.

    For a recipe that scores the scales of norms there is one behind each hidden layer.
    """
    normed = getattr(getattr(recipe, "criterion", None), "reads_scales", False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = (32, 24, 16, 8, 4)
        layers: dict[str, nn.Module] = {}
        for place, (width, following) in enumerate(pairwise(widths)):
            layers[f"{2 * place}"] = nn.Linear(width, following)
            if place == len(widths) - 2:
                break
            if normed:
                layers[f"norm{place}"] = norm = nn.BatchNorm1d(following)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
            layers[f"{2 * place + 1}"] = nn.ReLU()
        return nn.Sequential(OrderedDict(layers))


def small_data() -> Data:
    """64 seeded inputs of 32 features in multiples of 1/8 (so that sums are exact), and labels 0..3."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(-8, 9, (64, 32), generator=generator) / 8
    return inputs, torch.randint(0, 4, (64,), generator=generator)


def observe(
    pruner: Pruner, model: nn.Module, data: Data | None = None, parts: Sequence[slice] = (slice(None),)
) -> None:
    """Show the data once, in these parts, with a backward pass of each if the recipe's criterion needs gradients."""
    inputs, labels = data or small_data()
    inputs = inputs.to(next(model.parameters()).dtype)
    wants_gradient = any(isinstance(each, Gradient) and each.of is None for each in pruner.recipe.evidence)
    with pruner.observe():
        for part in parts:
            output = model(inputs[part])
            if wants_gradient:
                loss = nn.functional.cross_entropy(output.float(), labels[part], reduction="sum")
                loss.backward(create_graph=_differentiates_twice(pruner.recipe))  # type: ignore[no-untyped-call]


def _differentiates_twice(recipe: Method) -> bool:
    return any(isinstance(each, HessianGradient) for each in recipe.evidence)


def prune(model: nn.Module, recipe: Method, fraction: float) -> tuple[Pruner, PruneReport]:
    """Observe the small data and prune to ``fraction``."""
    pruner = Pruner(model, recipe, sharing_elsewhere=True)
    observe(pruner, model)
    return pruner, pruner.prune(fraction)


def _sparsities(make: Factory) -> list[float]:
    pattern = _pattern(make(0.5))
    return [1 - pattern.n / pattern.m] if pattern else [0.25, 0.6]


def _pattern(recipe: Method) -> NM | None:
    """The n:m pattern that fixes the sparsity, if there is one."""
    return next((value for value in vars(recipe).values() if isinstance(value, NM)), None)


def _counted(model: nn.Module, recipe: Method, masks: dict[str, Tensor]) -> int:
    if recipe.budget.of == "prunable":
        return sum(mask.numel() for mask in masks.values())
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


def _largest_unit(masks: dict[str, Tensor]) -> int:
    return max(mask[0].numel() for mask in masks.values())


def _assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], message: str) -> None:
    assert ours.keys() == theirs.keys(), message
    for name, mask in ours.items():
        assert torch.equal(mask, theirs[name]), f"{message} ({name}: {int((mask != theirs[name]).sum())} weights)"
