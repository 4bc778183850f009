"""L2: programs that are a chain of fully connected layers, the shape that sparse kernels can run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from actprune.program.module import Program
from actprune.program.nodes import Ref, Step
from actprune.program.tree import tensor_at

_FLATTENS = frozenset({"flatten.using_ints", "view", "reshape"})


@dataclass(frozen=True, eq=False)
class Dense:
    """One fully connected step: ``activation(x[:, columns] @ weight.T + bias)``.

    weight ``(out, in)``; bias ``(out,)`` or None; columns: int64 ``(in,)``, the features of the flattened input that a
    first layer reads, or None for all of them.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    activation: Literal["relu", "none"]
    columns: Tensor | None = None


def chain(program: Program, shape: Sequence[int] | None = None) -> list[Dense] | None:
    """The layers of a program that is flatten? -> gather? -> linear -> relu -> ... -> linear, else None.

    shape: of one example, without the batch axis. A program does not know it, so without it a Linear on sequences or a
    ``view(-1, 6)`` that makes two rows of each example looks like a chain, too; give it where it is known.
    """
    steps = _without_batch_size(program)
    if len(program.inputs) != 1 or not steps or program.result != Ref(steps[-1].name):
        return None
    reads = [program.inputs[0], *(step.name for step in steps[:-1])]
    if any(not step.args or step.args[0] != Ref(name) for step, name in zip(steps, reads, strict=True)):
        return None
    flat = steps[0].op in _FLATTENS and _keeps_the_batch(steps[0], shape)
    steps = steps[1:] if flat else steps
    found = list(_layers(program, steps)) if _is_chain(steps) else None
    if found is None or shape is None:
        return found
    return found if flat or len(shape) == 1 else None


def _without_batch_size(program: Program) -> list[Step]:
    """The steps, but for the one that asks for the batch size in ``x.view(x.size(0), -1)``."""
    steps = list(program.steps)
    if len(steps) > 1 and steps[0].op == "sym_size.int" and steps[0].args == (Ref(program.inputs[0]), 0):
        size, flatten = Ref(steps[0].name), steps[1]
        used = [ref for step in steps[1:] for ref in step.refs()].count(size)
        if flatten.op in _FLATTENS and len(flatten.args) == 2 and flatten.args[1][:1] == [size] and used == 1:
            return steps[1:]
    return steps


def _keeps_the_batch(step: Step, shape: Sequence[int] | None) -> bool:
    """Whether it flattens everything but axis 0; a size that is written down must be that of a whole example."""
    if step.op == "flatten.using_ints":
        return bool(step.arg(1, "start_dim", 0) == 1) and step.arg(2, "end_dim", -1) == -1
    sizes = step.args[1]
    return len(sizes) == 2 and (shape is None or sizes[1] in (-1, math.prod(shape)))


def _is_chain(steps: list[Step]) -> bool:
    """Whether it is gather? (linear relu)* linear."""
    ops = [step.op for step in steps]
    if ops[:1] == ["index_select"] and steps[0].args[1] in (1, -1):
        ops = ops[1:]
    if not ops or ops[0] != "linear":
        return False
    pairs = list(zip(ops, [*ops[1:], "linear"], strict=True))
    return all(op in ("linear", "relu") for op in ops) and ("relu", "relu") not in pairs


def _layers(program: Program, steps: list[Step]) -> Iterator[Dense]:
    columns: Tensor | None = None
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.op == "index_select":
            columns = tensor_at(program, step.args[2].name).detach()
        elif step.op == "linear":
            weight, bias = step.args[1], step.arg(2, "bias")
            yield Dense(
                weight.name.removesuffix(".weight"),
                tensor_at(program, weight.name).detach(),
                None if bias is None else tensor_at(program, bias.name).detach(),
                "relu" if after is not None and after.op == "relu" else "none",
                columns,
            )
            columns = None
