"""From a record of one forward: where each layer's activation is final."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from actprune.graph import ops
from actprune.graph.layers import unit_axis
from actprune.graph.record import Leaf, Node, Record, Value
from actprune.graph.units import Place, after
from actprune.nodes import Site

NON_LINEAR, NORM, READ, PRODUCT, PASS, PERHAPS = range(6)
"""What may come next after a value, best first: its non-linearity, its norm, a layer that reads it, a product with
another tensor (a gate), what is only passed when something better follows (a residual sum, a pooling, a scale that the
model owns), and a function that is a non-linearity unless it is part of one of these (a square inside a norm)."""


@dataclass
class Path:
    """The way from a layer's own output to its site, where its units lie at ``place``.

    known   whether we know when ``operation`` returns zeros; smooth: whether a non-linearity or a gate was met
    summed, mixed  other neurons have flowed in, or a neuron without inputs does not become a constant
    """

    call: Node
    site: Value
    place: Place
    values: list[Value]
    operation: str = "none"
    exact_zero: bool = False
    known: bool = True
    smooth: bool = False
    summed: bool = False
    mixed: bool = False


class Step(NamedTuple):
    """One continuation: through ``node`` (None: a module of the user's own) to ``value``."""

    rank: int
    name: str
    node: Node | None
    value: Value
    place: Place
    through: list[Value]
    norm: bool = False


def path_of(record: Record, call: Node) -> Path:
    """Follow one layer call to the point where its activation is final.

    A sum or a pooling is only passed when a norm or a non-linearity follows; flatten and matmul are never passed. A
    product with what a non-linearity has made (GLU, squeeze-and-excite) is where the activation is final, for both
    factors; one with anything else is passed (a scale, a mask). Where the parts of a layer meet in one product, that
    is where all of them are final.
    """
    path = _walk(record, call, call.outputs[0], Place(unit_axis(call.module)))
    return path if path.smooth else _rejoined(record, path) or path


def _walk(record: Record, call: Node, here: Value, place: Place) -> Path:
    path = Path(call, here, place, [here])
    passed: list[Value] = [here]
    summed = switched = False
    while (step := _next(record, here, place)) is not None:
        if switched and not _scales(step):
            break
        here, place = step.value, step.place
        passed += [*step.through, here]
        summed |= step.rank == PASS
        if step.rank == PASS:
            continue
        path.site, path.place, path.summed, path.values = here, place, summed, list(dict.fromkeys(passed))
        if step.rank == PRODUCT and step.node is not None:
            if _multiply(path, step.node):
                break
        else:
            _apply(path, step)
            switched = step.rank in (NON_LINEAR, PERHAPS)
    return path


def _scales(step: Step) -> bool:
    """Whether neurons that have switched are still only multiplied: by a gate, or on the way to one."""
    return step.rank == PRODUCT or (step.rank == PASS and step.name in ops.SCALES)


def _multiply(path: Path, product: Node) -> bool:
    """Note a product at the path's site. Returns whether that ends the path: a non-linearity has made a factor."""
    path.operation, path.known, path.smooth, path.mixed = product.op.name, True, True, True
    path.exact_zero |= any(map(_zeros, product.inputs))
    return any(map(_gate, product.inputs))


def _apply(path: Path, step: Step) -> None:
    """Note a norm, a non-linearity or a module of the user's own at the path's site."""
    node = step.node
    path.operation = step.name
    path.known = step.norm if node is None else step.name not in ops.SEEN
    path.smooth |= step.rank != NORM or not path.known
    path.mixed |= step.rank == PERHAPS or (step.rank == NORM and step.name not in ops.NORMS)
    if node is not None and step.rank != NORM:
        path.mixed |= len(set(node.inputs)) > 1 or step.place.parts > 1
        path.exact_zero = ops.exact_zero(step.name, node.args, node.kwargs)


def _rejoined(record: Record, path: Path) -> Path | None:
    """The path of a layer whose equal parts go their own ways and meet in one place (a GLU's halves); None: no such.

    What becomes of a layer that is read as a whole, too, is final before it is taken apart.
    """
    if any(node.layer is not None for value, _, _ in _same_neurons(path.site, path.place) for node in value.readers):
        return None
    parts = dict(_parts(path.site, path.place))
    ways = [_walk(record, path.call, part, place) for part, place in parts.values()]
    if not ways or {way.site for way in ways} != {ways[0].site} or set(parts) != set(range(ways[0].place.parts)):
        return None
    first = ways[0]
    first.mixed = True
    first.smooth = any(way.smooth for way in ways)
    first.exact_zero = any(way.exact_zero for way in ways)
    return first


def _parts(whole: Value, place: Place) -> Iterator[tuple[int, tuple[Value, Place]]]:
    """Equal parts that are views of a layer's units, by their index: where one lies in memory tells which it is."""
    for value, where, _ in _same_neurons(whole, place):
        for node in value.readers:
            for part in node.outputs if node.op.name in ops.PARTS else ():
                found = after(node.op.name, (node.args, node.kwargs), value.shape, part.shape, where)
                index = _index(value, part, where.axis) if found is not None else None
                if found is not None and index is not None:
                    yield index, (part, found)


def _index(whole: Value, part: Value, axis: int) -> int | None:
    """Which of the equal parts along an axis a view is."""
    (_, strides, start, _), (shape, own, begin, _) = whole.layout, part.layout
    if strides is None or own != strides:
        return None
    index, rest = divmod(begin - start, shape[axis] * strides[axis])
    return None if rest else int(index)


def _gate(value: Value) -> bool:
    """Whether a non-linearity has made it, casts, dropout and arithmetic with numbers since then aside."""
    maker = _maker(value)
    return maker is not None and (ops.non_linear(maker.op.name) or maker.op.name in ops.SMOOTH)


def _zeros(value: Value) -> bool:
    """Whether it is exactly zero over a range of what its non-linearity is given."""
    maker = _maker(value)
    return maker is not None and ops.exact_zero(maker.op.name, maker.args, maker.kwargs)


def _maker(value: Value) -> Node | None:
    node = value.producer
    while node is not None and len(node.inputs) == 1 and _keeps(node):
        node = node.inputs[0].producer
    return node


def _next(record: Record, here: Value, place: Place) -> Step | None:
    """The best continuation from a value, or None when its journey ends here."""
    best: Step | None = None
    for value, where, through in _same_neurons(here, place):
        for node in value.readers:
            step = _step(node, value, where, through)
            if step is not None and (best is None or step.rank < best.rank):
                best = step
        for leaf in record.leaves:
            if leaf.inputs == [value] and leaf.output is not value and _better(leaf, value, best):
                best = Step(NORM, leaf.name, None, leaf.output, where, through, leaf.norm)
    return None if best is None or best.rank == READ else best


def _better(leaf: Leaf, value: Value, best: Step | None) -> bool:
    """Take a module of the user's own for the next step: to us it is a norm or an activation, whatever it does inside.

    So it goes before a function within it (x * sigmoid(x)), unless that function's result is what the module returns.
    """
    if leaf.output.shape != value.shape or (best is not None and best.rank == NORM):
        return False
    known = best is not None and best.rank in (NON_LINEAR, PERHAPS) and best.name not in ops.SEEN
    return best is None or not known or best.value is not leaf.output


def _same_neurons(here: Value, place: Place) -> Iterator[tuple[Value, Place, list[Value]]]:
    """A value and what casts, dropout, transpositions and arithmetic with numbers make of it, where its units lie
    there, and the values passed on the way.
    """
    stack: list[tuple[Value, Place, list[Value]]] = [(here, place, [])]
    while stack:
        value, where, through = stack.pop(0)
        yield value, where, through
        for node in value.readers:
            if _keeps(node) or node.op.name in ops.TRANSPOSES:
                found = [(out, _after(node, value, where)) for out in node.outputs]
                stack += [(out, there, [*through, out]) for out, there in found if there is not None]


def _after(node: Node, value: Value, place: Place) -> Place | None:
    if len(node.outputs) != 1:
        return None
    return after(node.op.name, (node.args, node.kwargs), value.shape, node.outputs[0].shape, place)


def _keeps(node: Node) -> bool:
    """Whether casts, dropout or arithmetic with numbers hand each neuron on as it is, or scaled."""
    name = node.op.name
    return name in ops.SAME or name in ops.DROPOUTS or ops.is_scalar_step(name, node.args, node.kwargs)


def _step(node: Node, value: Value, place: Place, through: list[Value]) -> Step | None:
    rank = _rank(node, value)
    if rank == READ:
        return Step(READ, "", node, value, place, through)
    if rank == PRODUCT and not all(_one_per_unit(factor, value, place) for factor in node.inputs):
        rank = PASS  # the same for all neurons (a mask of tokens, a norm's scale): it tells none from the others
    there = None if rank is None else _after(node, value, place)
    return None if rank is None or there is None else Step(rank, node.op.name, node, node.outputs[0], there, through)


def _one_per_unit(factor: Value, value: Value, place: Place) -> bool:
    return len(factor.shape) >= -place.axis and factor.shape[place.axis] == value.shape[place.axis]


def _rank(node: Node, value: Value) -> int | None:
    name = node.op.name
    if node.layer is not None:
        return READ
    if len(node.outputs) != 1 or value not in node.inputs:
        return None
    if name in ops.POOLS or name == "glu":
        return NON_LINEAR if name == "glu" else PASS
    return _rank_of_same_shape(node, value) if node.outputs[0].shape == value.shape else None


def _rank_of_same_shape(node: Node, value: Value) -> int | None:
    name, first = node.op.name, node.inputs[0] is value
    told = (
        (NON_LINEAR, first and ops.non_linear(name)),
        (NORM, first and ops.is_norm(name)),
        (PRODUCT, name in ops.PRODUCTS and len(node.inputs) == 2),
        (PASS, _passed(node)),
        (PERHAPS, name in ops.SMOOTH or name in ops.SEEN),
    )
    return next((rank for rank, applies in told if applies), None)


def _passed(node: Node) -> bool:
    """A sum of whole tensors (a residual), a scale that the model owns, a mask; no arithmetic with a number."""
    name = node.op.name
    takes_part = name in ops.SUMS or name in ops.SCALES or name == "masked_fill"
    return takes_part and not ops.is_scalar_step(name, node.args, node.kwargs)


def site_of(path: Path) -> Site:
    """How to find the site of a path again in later forwards."""
    layer, place = path.call.layer, path.place
    assert layer is not None
    axis = -1 if place.axis == -1 else len(path.site.shape) + place.axis
    if path.site.module is not None:
        kind, (where, call) = "module", path.site.module
    else:
        producer = path.site.producer
        assert producer is not None
        kind, where, call = "function", producer.op.key, producer.call
    found = (path.operation, path.exact_zero, axis, path.known, path.smooth, place.parts)
    return Site(layer, "module" if kind == "module" else "function", where, call, *found)
