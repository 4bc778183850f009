"""L2: rules of sums, means, maxima and softmax along axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from actprune.structure.analysis import Call, Mixing, Rule
from actprune.structure.values import Value, along, support

_SUMS = frozenset({"sum", "linalg_vector_norm", "norm", "count_nonzero", "nansum"})
"""What entries that are zero do not change."""


def reduce(call: Call) -> Value | list[Value]:
    """Along axes without labels anything goes; with labels a sum stays the same without zeros, others do not."""
    source: Value = call.args[0]
    axes = _axes(call, source)
    labels = _left(call, source, axes)
    reduced = [Value(shape, tuple(_dropped(each, axes, len(source.shape), len(shape)) for each in labels))
               for shape in call.shapes]  # fmt: skip
    const = _constant(call, source, axes)
    if const is not None and len(reduced) == 1:
        return reduced[0].with_(const=const)
    return reduced


def _axes(call: Call, source: Value) -> list[int]:
    position = 2 if call.node.op in ("linalg_vector_norm", "norm") else 1
    given = call.arg(position, "dim", None)
    if isinstance(given, bool) or given is None:
        given = None
    listed: Sequence[int] = [given] if isinstance(given, int) else list(given or range(len(source.shape)))
    return [axis % max(len(source.shape), 1) for axis in listed]


def _left(call: Call, source: Value, axes: list[int]) -> list[Tensor]:
    """Arrays of the result: those that lie along the axes are summed up, or stay."""
    kept = []
    for each in source.labels:
        inside, outside = support(each) & set(axes), support(each) - set(axes)
        if not inside:
            kept.append(each)
        elif outside:  # all that goes into one result goes together
            first = each
            for axis in inside:
                first = first.narrow(axis, 0, 1)
            call.join(each, first)
            kept.append(first)
        else:
            _across(call, source, each, axes)
    return kept


def _across(call: Call, source: Value, labels: Tensor, axes: list[int]) -> None:
    if call.node.op in _SUMS and len(support(labels)) == 1:
        call.summed(labels.reshape(-1), along(call.const(source), next(iter(support(labels)))))
        return
    if call.node.op == "mean" and len(support(labels)) == 1:
        kind = call.analysis.norms(call.node.module, source)
        if kind is not None:
            axis = next(iter(support(labels)))
            const = call.const(source)
            own = {f"{call.node.module}.weight", f"{call.node.module}.scale"}  # a norm of the user's own class
            call.analysis.scales |= own & call.analysis.tensors.keys()
            call.analysis.mixings.append(
                Mixing(call.node.module, kind, labels.reshape(-1), along(const, axis), source.shape[axis])
            )
            return
        if (
            call.analysis.rewrites
        ):  # a mean over what is left is made one over all there were, as those that go are zero
            call.summed(labels.reshape(-1), along(call.const(source), next(iter(support(labels)))))
            return
    call.pin([labels], "mixes its entries")


def _dropped(array: Tensor, axes: list[int], before: int, after: int) -> Tensor:
    """An array without the reduced axes, unless they stay at length 1."""
    if before == after:
        return array
    for axis in sorted(axes, reverse=True):
        array = array.squeeze(axis)
    return array


def _constant(call: Call, source: Value, axes: list[int]) -> Tensor | None:
    """Of equal constants a mean or maximum is that constant; a sum depends on how many there are, unless they are 0."""
    if source.const is None or len(call.shapes) > 1:
        return None
    const = source.const
    if support(const) & set(axes):
        return None
    keeps = call.node.op in ("mean", "amax", "amin", "max", "min")
    if not keeps and not (call.node.op in _SUMS and bool((const[~const.isnan()] == 0).all())):
        return None
    return _dropped(const, axes, len(source.shape), len(call.shape))


def softmax(call: Call) -> Value:
    """Along its axis every entry depends on all others: that axis stays."""
    source: Value = call.args[0]
    axis = call.arg(1, "dim", -1) % max(len(source.shape), 1)
    labels = []
    for each in source.labels:
        if support(each) == {axis}:
            call.pin([each], "mixes its entries")
        elif axis in support(each):
            first = each.narrow(axis, 0, 1)
            call.join(each, first)
            labels.append(first)
        else:
            labels.append(each)
    shares = axis == len(source.shape) - 1 and "log" not in call.node.op
    return Value(call.shape, tuple(labels), shares=shares, whole=shares and not _may_exclude_all(call))


def _may_exclude_all(call: Call) -> bool:
    """Whether a mask was added before, which may leave nothing to share: then zeros come out of a safe softmax."""
    if call.node.op != "_safe_softmax":
        return False
    slot = call.node.args[0].number
    maker = next((node for node in call.analysis.record.nodes if slot in node.outs), None)
    return maker is not None and maker.op.rstrip("_") in ("add", "masked_fill", "where")


def scan(call: Call) -> list[Value]:
    """Cumulated sums, sorting, the largest k: the axis stays, the others go along."""
    source: Value = call.args[0]
    position = {"topk": 2, "kthvalue": 2}.get(call.node.op, 1)
    axis = call.arg(position, "dim", -1)
    axis = (axis if isinstance(axis, int) and not isinstance(axis, bool) else -1) % max(len(source.shape), 1)
    call.pin(source.on(axis) if source.shape else [], "orders its entries")
    labels = tuple(each for each in source.labels if axis not in support(each))
    made = []
    for shape in call.shapes:
        same = len(shape) == len(source.shape)
        made.append(Value(shape, labels if same else tuple(_dropped(each, [axis], 1, 0) for each in labels)))
    return made


def triangle(call: Call) -> Value:
    """A triangle of the last two axes: they stay."""
    source: Value = call.args[0]
    last = {len(source.shape) - 1, len(source.shape) - 2}
    call.pin([each for each in source.labels if support(each) & last], "takes a triangle of it")
    return Value(call.shape, tuple(each for each in source.labels if not support(each) & last))


_REDUCES = (
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "prod", "any", "all", "var", "std", "var_mean",
    "std_mean", "logsumexp", "linalg_vector_norm", "norm", "aminmax", "median", "nanmedian", "nansum", "count_nonzero",
    "mode",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCES, reduce), **dict.fromkeys(("_softmax", "softmax", "_log_softmax", "log_softmax"), softmax),
    **dict.fromkeys(("_safe_softmax",), softmax), **dict.fromkeys(("triu", "tril"), triangle),
    **dict.fromkeys(("cumsum", "cumprod", "sort", "topk", "kthvalue", "cummax", "cummin", "argsort", "logcumsumexp",
                     "renorm"), scan),
}  # fmt: skip
