"""L4: a program compacted: its steps for the smaller shapes, gathers in front of first layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from actprune.compact.cut import columns_name
from actprune.compact.fates import Fates
from actprune.compact.plan import Plan
from actprune.compact.sizes import StuckError
from actprune.program import Program, Ref, Step
from actprune.program.ops import base
from actprune.structure import Recorder, Value, tensors


class Steps:
    """Which slots of a record the steps of a program have made."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.slots: dict[str, list[int]] = {}

    @contextmanager
    def watching(self, recorder: Recorder) -> Iterator[None]:
        """Note what every step of the program returns."""
        run = self.program.run_step

        def noted(index: int, values: Mapping[str, Any]) -> Any:
            with torch.no_grad():
                out = run(index, values)
            slots = [recorder.known(each) for each in tensors(out)]
            self.slots[self.program.steps[index].name] = [slot for slot in slots if slot is not None]
            return out

        object.__setattr__(self.program, "run_step", noted)
        try:
            yield
        finally:
            del self.program.__dict__["run_step"]

    def values(self, name: str, fates: Fates) -> list[Value]:
        """What a step has made, or what is stored under a name; nothing for an input."""
        found = fates.found
        stored = [slot for slot, known in found.record.names.items() if known == name][:1]
        return [found.values[slot] for slot in self.slots.get(name, stored)]


def as_program(plan: Plan, steps: Steps, small: Mapping[str, Tensor]) -> Program:
    """The small program. Raises StuckError with the values that a step cannot be written for."""
    masked = steps.program
    made: list[Step] = []
    for step in masked.steps:
        new = _with_bias(_rewritten(step, steps, plan.fates), plan)
        weight = next((ref.name for ref in new.refs() if ref.name in plan.gathers), None)
        if weight is not None and len(new.args) > 1 and new.args[1] == Ref(weight):
            axis = 1 if small[weight].dim() > 2 else -1
            made.append(Step(f"{new.name}_inputs", "index_select", (new.args[0], axis, Ref(columns_name(weight)))))
            made.append(Step(new.name, new.op, (Ref(f"{new.name}_inputs"), *new.args[1:]), new.kwargs))
        else:
            made.append(new)
    return Program(masked.inputs, made, masked.result, small, masked.plain_buffers(), masked.batch)


def _with_bias(step: Step, plan: Plan) -> Step:
    """A layer that has been given a bias reads it."""
    weight = step.args[1] if len(step.args) > 1 else None
    if not isinstance(weight, Ref) or step.arg(2, "bias") is not None:
        return step
    name = weight.name.removesuffix("weight") + "bias"
    if name not in plan.biases:
        return step
    return Step(step.name, step.op, (*step.args[:2], Ref(name), *step.args[3:]), step.kwargs)


def _rewritten(step: Step, steps: Steps, fates: Fates) -> Step:
    """``step`` for the smaller shapes; the same object where nothing has to change. Raises StuckError."""
    results = steps.values(step.name, fates)
    if base(step.op) in ("conv1d", "conv2d"):
        return _conv(step, fates)
    change = _REWRITES.get(base(step.op))
    first = step.args[0] if step.args else None
    source = steps.values(first.name, fates) if isinstance(first, Ref) else []
    if change is None or not source or not results:
        return step
    if all(line is None for value in (*source, *results) for line in fates.lines(value)):
        return step
    try:
        made: Step = change(step, fates, source[0], results)
        return made
    except StuckError as error:
        raise StuckError([*source, *results]) from error


def _reshape(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    sizes = _fitted(list(step.args[1]), list(results[0].shape), fates.shape(results[0]))
    return step if sizes == list(step.args[1]) else Step(step.name, step.op, (step.args[0], sizes), step.kwargs)


def _fitted(written: list[object], old: list[int], new: tuple[int, ...]) -> list[object]:
    """Sizes as written, with those that change replaced; a computed one becomes -1, which only one of them can be."""
    fitted: list[object] = []
    for size, before, after in zip(written, old, new, strict=True):
        if before == after or size == -1:
            fitted.append(size)
        else:
            fitted.append(-1 if isinstance(size, Ref) else after)
    if fitted.count(-1) > 1:
        raise StuckError
    return fitted


def _unflatten(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    axis, sizes = step.args[1] % len(source.shape), list(step.args[2])
    part = slice(axis, axis + len(sizes))
    fitted = _fitted(sizes, list(results[0].shape)[part], fates.shape(results[0])[part])
    return step if fitted == sizes else Step(step.name, step.op, (step.args[0], step.args[1], fitted), step.kwargs)


def _split(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    axis = step.arg(2, "dim", 0) % len(source.shape)
    before = [one.shape[axis] for one in results]
    after = [fates.shape(one)[axis] for one in results]
    if before == after or (base(step.op) == "chunk" and _chunks(sum(after), step.arg(1, "chunks")) == after):
        return step
    return Step(step.name, "split_with_sizes", (step.args[0], after, axis))


def _chunks(length: int, number: int) -> list[int]:
    """Lengths of what ``chunk`` makes: so many of equal length, the last one shorter."""
    each = -(-length // number)
    return [min(each, length - start) for start in range(0, length, each)]


def _slice(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    axis = step.arg(1, "dim", 0) % len(source.shape)
    kept = fates.lines(source)[axis]
    if kept is None:
        return step
    length = len(kept)
    start, end = (_position(step.arg(2 + i, name), length, default) for i, (name, default) in enumerate(_ENDS))
    if step.arg(4, "step", 1) != 1 or not isinstance(start, int) or not isinstance(end, int):
        raise StuckError
    first = int(kept[:start].sum())
    return Step(step.name, step.op, (step.args[0], axis, first, first + int(kept[start:end].sum())))


_ENDS = (("start", 0), ("end", None))


def _position(value: object, length: int, default: int | None) -> object:
    if value is None:
        return length if default is None else default
    if not isinstance(value, int):
        return value
    return min(max(value + length if value < 0 else value, 0), length)


def _select(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    axis, index = step.args[1] % len(source.shape), step.args[2]
    kept = fates.lines(source)[axis]
    if kept is None:
        return step
    if not isinstance(index, int) or not bool(kept[index]):
        raise StuckError
    return Step(step.name, step.op, (step.args[0], axis, int(kept[: index % len(kept)].sum())))


def _expand(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    if fates.shape(results[0]) == results[0].shape:
        return step
    sizes = _fitted(list(step.args[1]), list(results[0].shape), fates.shape(results[0]))
    if [size for size in sizes if size == -1] != [size for size in step.args[1] if size == -1]:
        raise StuckError  # -1 would mean "as it is" here
    return Step(step.name, step.op, (step.args[0], sizes), step.kwargs)


def _pad(step: Step, fates: Fates, source: Value, results: list[Value]) -> Step:
    sizes = list(step.args[1])
    for number in range(len(sizes) // 2):
        kept = fates.lines(results[0])[-1 - number]
        if kept is None:
            continue
        before, after = sizes[2 * number : 2 * number + 2]
        sizes[2 * number : 2 * number + 2] = [int(kept[:before].sum()), int(kept[len(kept) - after :].sum())]
    return step if sizes == list(step.args[1]) else Step(step.name, step.op, (step.args[0], sizes, *step.args[2:]))


def _conv(step: Step, fates: Fates) -> Step:
    """Whole groups that have gone leave fewer; where the same channel went in all of them, their number stays."""
    groups, ref = step.arg(6, "groups", 1), step.args[1]
    axes = fates.found.axes.get(ref.name) if isinstance(ref, Ref) else None
    if groups == 1 or axes is None or axes[0] is None:
        return step
    rows = fates.alive(axes[0])
    by_group = rows.reshape(groups, -1)
    if bool(rows.all()) or not bool((by_group == by_group[:, :1]).all()):
        return step
    names = ("bias", "stride", "padding", "dilation")
    settings = [
        step.arg(2 + i, name, default) for i, (name, default) in enumerate(zip(names, (None, 1, 0, 1), strict=True))
    ]
    listed = [[value] if isinstance(value, int) else value for value in settings]
    return Step(step.name, step.op, (*step.args[:2], *listed, int(by_group[:, 0].sum())))


_REWRITES: dict[str, Any] = {
    "reshape": _reshape, "unflatten": _unflatten, "split": _split, "split_with_sizes": _split, "chunk": _split,
    "slice": _slice, "select": _select, "expand": _expand, "pad": _pad, "constant_pad_nd": _pad,
}  # fmt: skip
