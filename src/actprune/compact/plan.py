"""L4: what to cut from a masked program, found by repeating until nothing more can go."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.compact.fates import FIXED, Fates, decide, lines, settle
from actprune.compact.flow import Reader, follow, unknown
from actprune.compact.own import Code
from actprune.compact.rules import RULES
from actprune.compact.sizes import StuckError, rewritten
from actprune.program import Program, Ref, Step

Keeps = dict[str, list[Tensor | None]]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that changes.

    masked   the program as it is, float64, with the constants of what goes already folded into biases
    fates    which classes go
    keeps    tensor name -> for each axis, bool: which indices stay (None: all)
    steps    the steps for the smaller shapes, without gathers yet
    gathers  step index -> weight whose first columns leave inputs out
    biases   names of biases that had to be made
    """

    masked: Program
    fates: Fates
    keeps: Keeps
    steps: list[Step]
    gathers: dict[int, str]
    biases: frozenset[str]


@torch.no_grad()
def plan(program: Program, inputs: Mapping[str, Tensor], code: Code, *, round_to: int) -> Plan:
    """Look for dead classes until no more are found: what one removal frees, the next one takes.

    code    what may be rewritten: in the user's own code, sizes and positions must stay as they are
    """
    work = copy.deepcopy(program).double()
    doubles = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    made: set[str] = set()
    most, fewest = -1, -1
    while True:
        fates = decide(follow(work, doubles, RULES, unknown), code)
        settle(fates, round_to)
        steps = _steps(work, fates, code, round_to)
        found, left = int(fates.gone.sum()), _nonzero(work)
        if found <= most and left == fewest:
            return Plan(work, fates, _keeps(fates), steps, _gathers(fates), frozenset(made))
        most, fewest = max(found, most), left
        work = _silenced(work, fates, made)


def _nonzero(program: Program) -> int:
    """Weights that are left; biases do not count, for constants move into them."""
    return sum(int(torch.count_nonzero(tensor)) for tensor in program.tensors().values() if tensor.dim() > 1)


def _steps(program: Program, fates: Fates, code: Code, round_to: int) -> list[Step]:
    """The steps for the smaller shapes; what no step can be written for is brought back."""
    steps = list(program.steps)
    again = True
    while again:
        again = False
        for index, step in enumerate(program.steps):
            try:
                steps[index] = rewritten(step, fates)
                own = steps[index] is not step and not code.follows(program.layer_path(index))
            except StuckError:
                own = True
            if own:
                again |= _keep_around(fates, step)
        if again:
            settle(fates, round_to)
    return steps


def _keep_around(fates: Fates, step: Step) -> bool:
    """Keep whatever goes into a step and comes out of it."""
    found = [fates.flow.see(ref) for ref in (*step.refs(), Ref(step.name))]
    seen = [one for item in found for one in (item if isinstance(item, list) else [item]) if hasattr(one, "ids")]
    return any([fates.keep(one.ids, FIXED) for one in seen])  # noqa: C419  (each must be kept)


def _keeps(fates: Fates) -> Keeps:
    keeps: Keeps = {}
    for name, axes in fates.flow.axes.items():
        keeps[name] = [None if ids is None else fates.alive(ids) for ids in axes]
    for name, ids in fates.flow.elements.items():
        keeps[name] = list(lines(fates, ids))
    return keeps


def _gathers(fates: Fates) -> dict[int, str]:
    return {
        reader.step: reader.weight
        for reader in fates.flow.readers
        if reader.external and not bool(fates.alive(reader.columns).all())
    }


def _silenced(program: Program, fates: Fates, made: set[str]) -> Program:
    """Constants of what goes are moved into biases, and all its weights set to zero: the same function as before."""
    tensors = {name: tensor.detach().clone() for name, tensor in program.tensors().items()}
    steps = list(program.steps)
    done: set[str] = set()
    for reader in fates.flow.readers:
        if reader.slot not in done:  # a bias of two readers takes what they are sent once
            _fold(tensors, steps, reader, ~fates.alive(reader.columns), made)
            done.add(reader.slot)
    for reader in fates.flow.readers:
        tensors[reader.weight][:, ~fates.alive(reader.columns)] = 0
    for name, axes in fates.flow.axes.items():
        rows = axes[0]
        if rows is not None and tensors[name].is_floating_point() and not name.endswith(".running_var"):
            tensors[name][~fates.alive(rows)] = 0
    return Program(program.inputs, steps, program.result, tensors, program.plain_buffers(), program.batch)


def _fold(tensors: dict[str, Tensor], steps: list[Step], reader: Reader, dead: Tensor, made: set[str]) -> None:
    """Add what the dead columns send to the bias, which is made where there is none."""
    weight = tensors[reader.weight]
    constant = torch.where(dead, reader.constant, 0.0).nan_to_num(0.0)
    sent = weight.flatten(2).sum(2) @ constant if weight.dim() > 2 else weight @ constant
    if not bool((sent != 0).any()):
        return
    step = steps[reader.step]
    bias = step.arg(2, "bias")
    if bias is None:
        name = reader.weight.removesuffix("weight") + "bias"
        tensors[name] = torch.zeros_like(sent)
        made.add(name)
        for index, other in enumerate(steps):
            if len(other.args) > 1 and other.args[1] == Ref(reader.weight) and other.arg(2, "bias") is None:
                steps[index] = Step(other.name, other.op, (*other.args[:2], Ref(name), *other.args[3:]), other.kwargs)
        bias = Ref(name)
    tensors[bias.name] = tensors[bias.name] + sent
