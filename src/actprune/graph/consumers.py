"""From a record of one forward: which layers read an activation, and what becomes the model's output."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from actprune.graph import ops
from actprune.graph.follow import Path
from actprune.graph.layers import unit_axis
from actprune.graph.record import Node, Record, Value
from actprune.nodes import Consumer


@dataclass(frozen=True)
class _At:
    """A value on the way from a site: its units lie at ``axis``, ``repeat`` entries per neuron."""

    value: Value
    axis: int
    repeat: int


def consumers_of(record: Record, path: Path) -> tuple[Consumer, ...] | None:
    """Every layer that reads the site, or None when any reader is not understood."""
    calls = record.calls()
    layer = path.call.layer
    assert layer is not None
    alone = len(calls[layer]) == 1 and not path.call.nested and not path.summed and not path.mixed
    if not alone or record.unseen > path.call.index or not _only_way(record, path):
        return None
    found: list[Consumer] = []
    axis = len(path.site.shape) + path.place.axis
    units = path.site.shape[axis]
    stack = [_At(path.site, axis, 1)]
    while stack:
        here = stack.pop()
        if here.value in record.results:
            return None
        for node in dict.fromkeys(here.value.readers):
            if node.layer is not None:
                reader = _consumer(node, here, units)
                if reader is None or len(calls[node.layer]) != 1 or node.nested:
                    return None
                found.append(reader)
            elif (after := _after(node, here)) is not None:
                stack.append(after)
            else:
                return None
    order = {name: index for index, name in enumerate(calls)}
    return tuple(sorted(found, key=lambda reader: order[reader.layer])) or None


def _only_way(record: Record, path: Path) -> bool:
    """True if everything between the layer and its site leads to the site and nowhere else."""
    on_path = set(map(id, path.values))
    for value in path.values:
        if value is path.site:
            continue
        leads = all(node.layer is None and any(id(out) in on_path for out in node.outputs) for node in value.readers)
        if not leads or value in record.results:
            return False
    return True


def _after(node: Node, here: _At) -> _At | None:
    """Where the neurons are after a function that keeps them apart and constants constant, else None."""
    name = node.op.name
    if len(node.outputs) != 1 or node.inputs != [here.value]:
        return None
    out = node.outputs[0]
    same_axis = len(out.shape) > here.axis and out.shape[here.axis] == here.value.shape[here.axis]
    if name in ops.SAME or name in ops.DROPOUTS:
        return _At(out, here.axis, here.repeat)
    if ops.keeps_constants(name, node.args, node.kwargs):
        dims = 2 if name.endswith("2d") else 1
        return _At(out, here.axis, here.repeat) if same_axis and here.axis == len(out.shape) - dims - 1 else None
    if name in ops.RESHAPES:
        return _reshaped(here, out)
    if name in ops.REDUCES:
        return _reduced(node, here, out)
    return None


def _reshaped(here: _At, out: Value) -> _At | None:
    """Row-major reshape: the neurons stay together if all axes before theirs hold as many entries as before."""
    shape, axis = here.value.shape, here.axis
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    for new in range(len(out.shape)):
        size = out.shape[new]
        if math.prod(out.shape[:new]) != before or size % max(shape[axis], 1) or size == 0:
            continue
        taken = size // shape[axis]
        if taken * math.prod(out.shape[new + 1 :]) == after:
            return _At(out, new, here.repeat * taken)
    return None


def _reduced(node: Node, here: _At, out: Value) -> _At | None:
    """A mean or maximum over positions: none of the reduced axes may be the neurons' or the examples'."""
    rank = len(here.value.shape)
    given = ops.argument(node.args, node.kwargs, 1, "dim")
    dims = [given] if isinstance(given, int) else list(given or ())
    gone = {dim % rank for dim in dims}
    if not gone or here.axis in gone or min(gone) < here.axis:
        return None
    return _At(out, here.axis, here.repeat)


def _consumer(node: Node, here: _At, units: int) -> Consumer | None:
    layer, shape = node.module, here.value.shape
    if node.inputs != [here.value] or node.layer is None:
        return None
    if isinstance(layer, nn.Linear):
        fits = here.axis == len(shape) - 1 and layer.in_features == units * here.repeat
        return Consumer(node.layer, here.repeat, layer.bias is not None) if fits else None
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    fits = here.axis == len(shape) + unit_axis(layer) and layer.in_channels == units * here.repeat
    return Consumer(node.layer, here.repeat, _foldable(layer)) if fits else None


def _foldable(layer: nn.Conv1d | nn.Conv2d) -> bool:
    """Zero padding would add zeros where the constant should be; a grouped conv reads each channel only in part."""
    pads = layer.padding == "same" or (not isinstance(layer.padding, str) and any(layer.padding))
    return layer.bias is not None and layer.groups == 1 and not (pads and layer.padding_mode == "zeros")


def output_layers(record: Record) -> tuple[str, ...]:
    """Layers that reach the model's result without passing another layer."""
    found = []
    for name, calls in record.calls().items():
        reached = [_reaches(call) for call in calls]
        ends = any(value in record.results for values, _ in reached for value in values)
        if ends and not any(layered for _, layered in reached):
            found.append(name)
    return tuple(found)


def _reaches(call: Node) -> tuple[list[Value], bool]:
    """All values made from a layer's output before the next layer, and whether a layer reads one of them."""
    seen: dict[Value, None] = dict.fromkeys(call.outputs)
    stack, layered = list(call.outputs), False
    while stack:
        for node in stack.pop().readers:
            layered |= node.layer is not None
            new = [] if node.layer is not None else [out for out in node.outputs if out not in seen]
            seen.update(dict.fromkeys(new))
            stack += new
    return list(seen), layered
