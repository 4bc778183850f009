"""From a record of one forward: where each layer's activation is final."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from actprune.graph import ops
from actprune.graph.layers import unit_axis
from actprune.graph.record import Leaf, Node, Record, Value
from actprune.nodes import Site

NON_LINEAR, NORM, READ, PRODUCT, SUM = range(5)
"""What may come next after a value, best first: its non-linearity, its norm, a layer that reads it, a product with
another tensor (a gate), a residual sum."""


@dataclass
class Path:
    """The way from a layer's own output to its site. ``summed`` / ``mixed``: other neurons have flowed in."""

    call: Node
    site: Value
    operation: str
    exact_zero: bool
    values: list[Value]
    summed: bool = False
    mixed: bool = False


def path_of(record: Record, call: Node) -> Path:
    """Follow one layer call to the point where its activation is final.

    A sum is only passed when a norm or a non-linearity follows; pooling, flatten and matmul are never passed. A product
    with what a non-linearity has made (GLU, squeeze-and-excite) is where the activation is final, for both factors; one
    with anything else is passed (a scale, a mask).
    """
    here = call.outputs[0]
    path = Path(call, here, "none", False, [here])
    passed: list[Value] = [here]
    summed = False
    while (step := _next(record, here)) is not None:
        rank, name, node, here, through = step
        passed += [*through, here]
        summed |= rank == SUM
        if rank == SUM:
            continue
        path.site, path.operation, path.summed, path.values = here, name, summed, list(dict.fromkeys(passed))
        path.mixed |= rank == NORM and name not in ops.NORMS
        if rank == NON_LINEAR:
            path.exact_zero = node is not None and ops.exact_zero(name, node.args, node.kwargs)
            gated = _next(record, here)
            if gated is None or gated[0] != PRODUCT:
                break
            rank, name, node, here, through = gated
            path.site, path.operation, path.values = here, name, [*path.values, *through, here]
        if rank == PRODUCT:
            assert node is not None
            path.mixed = True
            path.exact_zero |= any(_zeros(factor) for factor in node.inputs)
            if any(_gate(factor) for factor in node.inputs):
                break
    return path


def _gate(value: Value) -> bool:
    """Whether a non-linearity has made it, casts, dropout and arithmetic with numbers since then aside."""
    maker = _maker(value)
    return maker is not None and ops.non_linear(maker.op.name)


def _zeros(value: Value) -> bool:
    """Whether it is exactly zero over a range of what its non-linearity is given."""
    maker = _maker(value)
    return maker is not None and ops.exact_zero(maker.op.name, maker.args, maker.kwargs)


def _maker(value: Value) -> Node | None:
    node = value.producer
    while node is not None and len(node.inputs) == 1 and _keeps(node):
        node = node.inputs[0].producer
    return node


Step = tuple[int, str, Node | None, Value, list[Value]]


def _next(record: Record, here: Value) -> Step | None:
    """The best continuation from a value, or None when its journey ends here."""
    best: Step | None = None
    for value, through in _same_neurons(here):
        for node in value.readers:
            rank = _rank(node, value)
            if rank is not None and (best is None or rank < best[0]):
                best = (rank, node.op.name, node, node.outputs[0] if node.outputs else value, through)
        for leaf in record.leaves:
            if leaf.inputs == [value] and leaf.output is not value and _better(leaf, value, best):
                best = (NORM, leaf.name, None, leaf.output, through)
    return None if best is None or best[0] == READ else best


def _better(leaf: Leaf, value: Value, best: Step | None) -> bool:
    """Take a module of the user's own for the next step: to us it is a norm or an activation, whatever it does inside.

    So it goes before a function within it (x * sigmoid(x)), unless that function's result is what the module returns.
    """
    if leaf.output.shape != value.shape or (best is not None and best[0] == NORM):
        return False
    return best is None or best[0] != NON_LINEAR or best[3] is not leaf.output


def _same_neurons(here: Value) -> Iterator[tuple[Value, list[Value]]]:
    """A value and what casts, dropout and arithmetic with numbers make of it, with the values passed on the way."""
    stack: list[tuple[Value, list[Value]]] = [(here, [])]
    while stack:
        value, through = stack.pop(0)
        yield value, through
        for node in value.readers:
            if _keeps(node):
                stack += [(out, [*through, out]) for out in node.outputs]


def _keeps(node: Node) -> bool:
    """Whether casts, dropout or arithmetic with numbers hand each neuron on as it is, or scaled."""
    name = node.op.name
    return name in ops.SAME or name in ops.DROPOUTS or ops.is_scalar_step(name, node.args, node.kwargs)


def _rank(node: Node, value: Value) -> int | None:
    name = node.op.name
    if node.layer is not None:
        return READ
    if name in ops.PRODUCTS and _product(node, value):
        return PRODUCT
    if len(node.outputs) != 1 or node.outputs[0].shape != value.shape or node.inputs[0] is not value:
        return SUM if name in ops.SUMS and _sum_of_equals(node, value) else None
    if ops.non_linear(name):
        return NON_LINEAR
    if ops.is_norm(name):
        return NORM
    return SUM if name in ops.SUMS and _sum_of_equals(node, value) else None


def _product(node: Node, value: Value) -> bool:
    """Whether another activation, of the same shape or broadcast to it, is multiplied in."""
    same = len(node.outputs) == 1 and node.outputs[0].shape == value.shape
    return same and len(node.inputs) == 2 and value in node.inputs


def _sum_of_equals(node: Node, value: Value) -> bool:
    """True for a sum of whole tensors (a residual), not of a tensor and a number."""
    same = len(node.outputs) == 1 and node.outputs[0].shape == value.shape
    return same and not ops.is_scalar_step(node.op.name, node.args, node.kwargs)


def site_of(path: Path) -> Site:
    """How to find the site of a path again in later forwards."""
    layer = path.call.layer
    assert layer is not None
    from_end = unit_axis(path.call.module)
    axis = -1 if from_end == -1 else len(path.site.shape) + from_end
    known = ops.is_known(path.operation)
    smooth = ops.is_smooth(path.operation) or not known
    if path.site.module is not None:
        where, call = path.site.module
        return Site(layer, "module", where, call, path.operation, path.exact_zero, axis, known, smooth)
    producer = path.site.producer
    assert producer is not None
    return Site(layer, "function", producer.op.key, producer.call, path.operation, path.exact_zero, axis, known, smooth)
