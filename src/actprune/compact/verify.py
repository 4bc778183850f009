"""L4: the promise: the compacted network computes what the masked one does, or an error names the first difference."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actprune.compact.plan import Plan
from actprune.errors import CompactionError
from actprune.graph import hooked, unhooked
from actprune.program import Program, export, first_names, refuse_failing
from actprune.pruner.quiet import quiet

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}  # relative to the largest output

EXAMPLES, _NOISE = 32, 16  # examples of the given ones that are compared at most, and of noise at least


@torch.no_grad()
def check(
    plan: Plan, masked: Program, small: nn.Module, inputs: Mapping[str, Tensor], keywords: Sequence[str] = ()
) -> dict[str, float]:
    """Compare outputs in float64 and float32, on (32 of) the examples and on noise like them.

    Returns the largest relative differences by dtype; float64 is left out where the masked model itself cannot use it.

    keywords: the inputs that ``small`` takes by name. Constants moved into the biases of a 16-bit model are rounded as
    its weights are, and so much difference is allowed.

    Raises CompactionError naming the first layer that differs, or when the example's outputs are not finite.
    """
    if masked.batch is None:
        inputs = {name: value[:EXAMPLES] if value.dim() else value for name, value in inputs.items()}
    found = {}
    for dtype, least in TOLERANCE.items():
        limit = max(least, 4 * _rounding(small))
        one = copy.deepcopy(masked).to(dtype).eval()
        if not _runs(one, next(_samples(inputs, dtype, masked.batch))):
            continue  # it converts something to a type of its own, which its weights then have to be
        other = _in(dtype, small, masked, inputs, keywords)
        worst = 0.0
        for number, values in enumerate(_samples(inputs, dtype, masked.batch)):
            with _layers(one) as seen, _layers(other) as small_seen:
                expected, got = _flat(one(**values)), _flat(_called(other, values, masked, keywords))
            if number == 0:
                _refuse_nan(expected)
            worst = max(worst, _difference(expected, got))
            if not worst <= limit:
                raise CompactionError(
                    f"the compacted model differs from the masked one by {worst:.2g} of the output's scale in "
                    f"{dtype} (at most {limit:g} is allowed){_first(plan, seen, small_seen, limit)}. This is a defect "
                    "or an unusual model: leave the layer out of the pruning, or use form='graph'"
                )
        found[str(dtype).removeprefix("torch.")] = worst
    return found


@torch.no_grad()
def as_they_are(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    small: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    compare: bool,
) -> None:
    """Run ``small`` once as it is, in its own types and with the user's hooks; compare with ``model`` under its masks.

    Raises CompactionError when it does not run, or computes something else: then a hook changes values, as all else was
    compared before.
    """
    with quiet(small):
        try:
            got = _flat(_called_as_is(small, args, kwargs))
        except Exception as error:
            raise CompactionError(
                f"the compacted model does not run as it is: {type(error).__name__}: {error}{_hooked(model)}; remove "
                "such a hook, leave the layer out of the pruning, or use form='graph'"
            ) from error
    if not compare:
        return
    own, first = dict(model.named_parameters(remove_duplicate=False)), first_names(model)
    values: dict[str, Tensor] = {}
    for name, mask in masks.items():
        if name in own:
            place = first[name]  # of tied names only one may be given
            values[place] = values.get(place, own[place]).masked_fill(mask.to(own[place].device) == 0, 0)
    with quiet(model):
        expected = _flat(torch.func.functional_call(model, values, args, dict(kwargs)))
    limit = max(1e-4, 16 * _rounding(small))
    if not (worst := _difference(expected, got)) <= limit:
        raise CompactionError(
            f"the compacted model, as it is, differs from the masked one by {worst:.2g} of the output's scale (at most "
            f"{limit:.2g} is allowed){_hooked(model)}; remove such a hook before compaction, or leave the layers "
            "around it out of the pruning (skip=)"
        )


def _called_as_is(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if isinstance(model, Program) and kwargs:
        places = [name for name in model.inputs if name not in kwargs]
        return model(**dict(zip(places, args, strict=True)), **kwargs)
    return model(*args, **kwargs)


def _hooked(model: nn.Module) -> str:
    """Words on modules with hooks of the user's own."""
    found = [path or type(model).__name__ for path in hooked(model)]
    return f"; forward hooks of your own may change what the model computes: {', '.join(found[:5])}" if found else ""


@torch.no_grad()
def hooks_change(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the user's forward hooks are part of what the model computes. Raises ModelError if it fails by itself."""
    if not all(isinstance(item, Tensor) for item in (*args, *kwargs.values())):
        return False  # export() says what is wrong with them
    with quiet(model):
        refuse_failing(model, args, kwargs)
        if not hooked(model):
            return False
        found = _flat(model(*args, **kwargs))
        with unhooked(model):
            try:
                alone = _flat(model(*args, **kwargs))
            except Exception:  # a hook that changes shapes
                return True
    return _difference(found, alone) != 0


def _runs(program: Program, values: Mapping[str, Tensor]) -> bool:
    try:
        program(**values)
    except RuntimeError:
        return False
    return True


def _rounding(model: nn.Module) -> float:
    """Relative precision of its coarsest tensor."""
    floats = (tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point())
    return max((torch.finfo(dtype).eps for dtype in floats), default=0.0)


def _refuse_nan(expected: list[Tensor]) -> None:
    if any(bool(tensor.isnan().any()) for tensor in expected):
        raise CompactionError(
            "the masked model itself returns NaN on the example, so nothing can be compared; give an example such as "
            "the model was trained on, or look for the layer that makes them"
        )


def _in(
    dtype: torch.dtype, small: nn.Module, masked: Program, inputs: Mapping[str, Tensor], keywords: Sequence[str]
) -> nn.Module:
    """A copy that computes in ``dtype``; where its own code insists on another (``x.float()``), a program of it."""
    copied = copy.deepcopy(small).to(dtype).eval()
    try:
        _called(copied, next(_samples(inputs, dtype, masked.batch)), masked, keywords)
    except RuntimeError:
        places = tuple(value for name, value in inputs.items() if name not in keywords)
        return export(small, (places, {name: inputs[name] for name in keywords})).to(dtype)
    return copied


def _called(model: nn.Module, values: Mapping[str, Tensor], masked: Program, keywords: Sequence[str]) -> Any:
    if isinstance(model, Program):
        return model(**values)
    places = (values[name] for name in masked.inputs if name not in keywords)
    return model(*places, **{name: values[name] for name in keywords})


def _samples(inputs: Mapping[str, Tensor], dtype: torch.dtype, batch: int | None) -> Iterator[dict[str, Tensor]]:
    """The example, and noise like it: activations that happen to be silent on the example fire on the noise."""
    floats = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    yield floats
    generator = torch.Generator().manual_seed(0)
    yield {name: _noise(value, generator, batch) for name, value in floats.items()}


def _noise(value: Tensor, generator: torch.Generator, batch: int | None) -> Tensor:
    """Normal, as large as ``value`` gets, and for more examples where the batch is free; integers are repeated."""
    if value.dim() and batch is None and len(value):
        value = value[torch.arange(max(len(value), _NOISE)) % len(value)]
    if not value.is_floating_point():
        return value
    scale = value.abs().amax() if value.numel() and bool(value.any()) else 1.0
    return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value) * scale


def _flat(output: Any) -> list[Tensor]:
    return [item for item in torch.utils._pytree.tree_leaves(output) if isinstance(item, Tensor)]


def _difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """Largest absolute difference over the largest finite output; infinite for other shapes and for NaN in one only."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in got]:
        return float("inf")
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        if one.numel() and one.is_floating_point():
            scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().amax()) or 1.0
            same = (one == other) | (one.isnan() & other.isnan())
            gap = float((one - other).masked_fill(same, 0.0).abs().amax()) / scale
            worst = max(worst, float("inf") if math.isnan(gap) else gap)
    return worst


@contextmanager
def _layers(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Outputs of the layers that have weights, by weight name, in order of their first calls."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, __, out: seen.setdefault(name, out.detach()) if isinstance(out, Tensor) else None

    handles = [
        module.register_forward_hook(keep(f"{path}.weight"))
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first(plan: Plan, seen: Mapping[str, Tensor], small: Mapping[str, Tensor], limit: float) -> str:
    """Which layer is the first to differ in the rows that were kept."""
    for name, full in seen.items():
        rows = plan.keeps.get(name, [None])[0]
        other = small.get(name)
        if other is None:
            continue
        axis = 1 if full.dim() > 2 and plan.masked.tensors()[name].dim() > 2 else -1
        kept = full if rows is None else full.index_select(axis, torch.nonzero(rows).flatten().to(full.device))
        if not _difference([kept], [other]) <= limit:
            return f"; the first layer that differs is {name.removesuffix('.weight')}"
    return "; all layers with weights agree, so the difference lies in what follows them"
