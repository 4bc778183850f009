"""L4: the promise: the compacted network computes what the masked one does, or an error names the first difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actprune.compact.plan import Plan
from actprune.errors import CompactionError
from actprune.graph import hooked, unhooked
from actprune.program import refuse_failing
from actprune.pruner.quiet import quiet
from actprune.structure import Inputs, copied, leaves, mapped, noise, outputs, plainly, tensors_of

TOLERANCE = {"float64": 1e-5, "float32": 1e-4}  # relative to the largest output

EXAMPLES = 32  # examples of the given ones that are compared at most


class Doubled(TorchFunctionMode):
    """Every function computes in float64, whatever it is given: no copy of the model is made."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Widen what goes in; what is written into something takes its type."""
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("__get__", "__set__"):
            return func(*args, **kwargs)
        in_place = (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__iadd__", "__imul__")
        if in_place and args and isinstance(args[0], Tensor):
            kind = args[0].dtype
            args, kwargs = mapped((args, kwargs), lambda item: _as(item, kind))
        else:
            args, kwargs = mapped((args, kwargs), lambda item: _as(item, torch.float64))
        if name.endswith("grouped_mm"):
            return _grouped_mm(*args, **kwargs)
        return func(*args, **kwargs)


def _grouped_mm(left: Tensor, right: Tensor, *, offs: Tensor, **_: Any) -> Tensor:
    """Rows up to ``offs[e]`` by matrix e; PyTorch has it in 32 and 16 bits only."""
    ends = offs.tolist()
    made = left.new_zeros(left.shape[0], right.shape[-1])
    for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        made[start:end] = left[start:end] @ right[expert]
    return made


@contextmanager
def doubled() -> Iterator[None]:
    """Everything inside computes in float64; recurrent layers do not compare their inputs' type with their weights'."""
    with patch.object(nn.RNNBase, "check_input", lambda *_: None), Doubled():
        yield


_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _as(item: Any, kind: torch.dtype) -> Any:
    return item.to(kind) if isinstance(item, Tensor) and item.dtype in _FLOATS and kind in _FLOATS else item


@torch.no_grad()
def check(  # noqa: PLR0917  (two models, two inputs)
    plan: Plan,
    masked: Callable[..., Any],
    model: nn.Module,
    small: nn.Module,
    given: Inputs,
    pair: Inputs,
    others: Sequence[Inputs] = (),
    *,
    single: Inputs | None = None,
    exact: bool = True,
) -> dict[str, float]:
    """Compare outputs in float64 on two examples (and ``others``, which take other ways), and in the model's own types
    on (32 of) the examples and on noise like them.

    single: one of the two examples. Where all is well on it in float64, which costs most, the second is left out: in
    the model's own types both are compared all the same.

    Returns the largest relative differences by type. Constants moved into the biases of a 16-bit model are rounded as
    its weights are, and so much difference is allowed. exact: False: any difference is, and only said.

    Raises CompactionError naming the first layer that differs, or when the example's outputs are not finite.
    """
    found: dict[str, float] = {}
    alone = None if single is None else _alike_on(single, masked, model, small, exact)
    samples = [("float64", each) for each in (*([pair] if alone is None else []), *others)]
    found |= {} if alone is None else {"float64": alone}
    drawn = any(item.is_floating_point() for item in leaves(given))  # tokens have no noise: they are sent as they are
    if not drawn or not all(one is other for one, other in zip(leaves(pair), leaves(given), strict=True)):
        samples.append(("float32", given))
    if drawn:
        samples.append(("float32", noise(given)))
    for name, inputs in samples:
        limit, double = _limit(name, small), name == "float64"
        expected = _run(masked, model, inputs, double=double)
        if inputs is pair or inputs is given:
            _refuse_nan(expected)
        worst = difference(expected, _run(small, small, inputs, double=double))
        if exact and not worst <= limit:
            with _layers(model) as seen, _layers(small) as made:  # once more, to find out where
                _run(masked, model, inputs, double=double)
                _run(small, small, inputs, double=double)
            raise CompactionError(
                f"the compacted model differs from the masked one by {worst:.2g} of the output's scale in {name} "
                f"(at most {limit:g} is allowed){_first(plan, seen, made, limit)}. This is a defect or an "
                "unusual model: leave the layer out of the pruning, or report it"
            )
        found[name] = max(found.get(name, 0.0), worst)
    return found


def _limit(name: str, small: nn.Module) -> float:
    return max(TOLERANCE[name], (4 if name == "float64" else 16) * _rounding(small))


def _alike_on(
    single: Inputs, masked: Callable[..., Any], model: nn.Module, small: nn.Module, exact: bool
) -> float | None:
    """The difference in float64 on one example; None where it says nothing, as not every model takes one."""
    try:
        expected = _run(masked, model, single, double=True)
        worst = difference(expected, _run(small, small, single, double=True))
    except Exception:
        return None
    sound = bool(expected) and all(bool(tensor.isfinite().all()) for tensor in expected)
    return worst if sound and (worst <= _limit("float64", small) or not exact) else None


def _run(call: Callable[..., Any], model: nn.Module, inputs: Inputs, *, double: bool) -> list[Tensor]:
    """What the model returns."""
    args, kwargs = copied(inputs)
    with plainly(model), doubled() if double else nullcontext():
        torch.manual_seed(0)  # a model may draw numbers
        return outputs(call(*args, **kwargs))


@torch.no_grad()
def as_they_are(
    masked: Callable[..., Any], small: nn.Module, model: nn.Module, given: Inputs, *, compare: bool
) -> None:
    """Run ``small`` once as it is, in its own types and with the user's hooks; compare with ``model`` under its masks.

    Raises CompactionError when it does not run, or computes something else: then a hook changes values, as all else was
    compared before.
    """
    with quiet(small):
        try:
            args, kwargs = copied(given)
            got = outputs(small(*args, **kwargs))
        except Exception as error:
            raise CompactionError(
                f"the compacted model does not run as it is: {type(error).__name__}: {error}{_hooked(model)}; remove "
                "such a hook, leave the layer out of the pruning, or use form='graph'"
            ) from error
    if not compare:
        return
    with quiet(model):
        args, kwargs = copied(given)
        expected = outputs(masked(*args, **kwargs))
    limit = max(1e-4, 16 * _rounding(small))
    if not (worst := difference(expected, got)) <= limit:
        raise CompactionError(
            f"the compacted model, as it is, differs from the masked one by {worst:.2g} of the output's scale (at most "
            f"{limit:.2g} is allowed){_hooked(model)}; remove such a hook before compaction, or leave the layers "
            "around it out of the pruning (skip=)"
        )


def masked_call(model: nn.Module, tensors: Mapping[str, Tensor]) -> Callable[..., Any]:
    """``model`` as a function, with the masked ones of its tensors in the place of its own while it runs."""
    own = tensors_of(model)
    changed = [(own[name], tensor) for name, tensor in tensors.items() if own[name] is not tensor]

    def call(*args: Any, **kwargs: Any) -> Any:
        before = [tensor.data for tensor, _ in changed]
        try:
            for tensor, masked in changed:
                tensor.data = masked.data
            return model(*args, **kwargs)
        finally:
            for (tensor, _), data in zip(changed, before, strict=True):
                tensor.data = data

    return call


def _hooked(model: nn.Module) -> str:
    """Words on modules with hooks of the user's own."""
    found = [path or type(model).__name__ for path in hooked(model)]
    return f"; forward hooks of your own may change what the model computes: {', '.join(found[:5])}" if found else ""


@torch.no_grad()
def hooks_change(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the user's forward hooks are part of what the model computes. Raises ModelError if it fails by itself."""
    with quiet(model):
        if not hooked(model):
            return False
        refuse_failing(model, args, dict(kwargs))
        found = outputs(model(*args, **kwargs))
        with unhooked(model):
            try:
                alone = outputs(model(*args, **kwargs))
            except Exception:  # a hook that changes shapes
                return True
    return difference(found, alone) != 0


def _rounding(model: nn.Module) -> float:
    """Relative precision of its coarsest tensor, where that is a 16-bit one."""
    floats = (tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point())
    coarsest = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    return coarsest if coarsest > 1e-5 else 0.0


def _refuse_nan(expected: list[Tensor]) -> None:
    if any(bool(tensor.isnan().any()) for tensor in expected):
        raise CompactionError(
            "the masked model itself returns NaN on the example, so nothing can be compared; give an example such as "
            "the model was trained on, or look for the layer that makes them"
        )


def difference(expected: list[Tensor], got: list[Tensor]) -> float:
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
        axis = 1 if full.dim() > 2 and plan.tensors[name].dim() > 2 else -1
        kept = full if rows is None else full.index_select(axis, torch.nonzero(rows).flatten().to(full.device))
        if not difference([kept], [other]) <= limit:
            return f"; the first layer that differs is {name.removesuffix('.weight')}"
    return "; all layers with weights agree, so the difference lies in what follows them"
