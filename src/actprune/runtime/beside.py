"""L4: a network beside what it was: parameters, bytes, FLOP, and the time of one call, measured in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actprune.accounting import dense_flop
from actprune.program import example_args, refuse_failing
from actprune.pruner.inputs import examples_in
from actprune.pruner.quiet import quiet
from actprune.runtime.measure import measure


@dataclass(frozen=True)
class Beside:
    """Pairs of before and after; ``print`` it for a table.

    parameters  numbers in all parameters, each tensor once
    bytes       of parameters and buffers
    flop        of one example: products and convolutions
    seconds     of one call on the example as it was given, medians
    examples    how many are in it
    """

    parameters: tuple[int, int]
    bytes: tuple[int, int]
    flop: tuple[int, int]
    seconds: tuple[float, float]
    examples: int

    @property
    def speedup(self) -> float:
        """Time before / after."""
        return self.seconds[0] / self.seconds[1]

    def __str__(self) -> str:
        latency = f"latency at batch {self.examples}, ms"
        rows = [("", "before", "after", "left")]
        rows += [
            (name, f"{before:,}", f"{after:,}", f"{after / max(before, 1):.1%}")
            for name, (before, after) in (("parameters", self.parameters), ("bytes", self.bytes), ("FLOP", self.flop))
        ]
        first, second = (f"{1e3 * each:.3g}" for each in self.seconds)
        rows.append((latency, first, second, f"{1 / self.speedup:.1%}"))
        widths = [max(len(row[place]) for row in rows) for place in range(4)]
        lines = []
        for name, *cells in rows:
            lined_up = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *lined_up]))
        return "\n".join(lines)


def beside(before: nn.Module, after: nn.Module, example: Any, *, seconds: float = 1.0) -> Beside:
    """Measure two networks on the same example, in evaluation mode.

    example  a tensor, a tuple of arguments, or a dict of keywords; both take it
    seconds  to spend on timing each of the two, which take turns

    Raises ModelError when one of them fails on it.

    >>> import torch
    >>> big, small = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
    >>> found = beside(big, small, torch.zeros(2, 8), seconds=0.01)
    >>> found.parameters, found.flop
    ((72, 36), (128, 64))
    """
    args, kwargs = example_args(example)
    count = examples_in((args, kwargs)) or 1
    pair = (before, after)
    with quiet(before), quiet(after), torch.no_grad():
        for model in pair:
            refuse_failing(model, args, dict(kwargs))
        flop = [sum(dense_flop(model, (args, kwargs), count).values()) for model in pair]
        runs = {str(place): _call(model) for place, model in enumerate(pair)}
        timings = measure(runs, [(args, kwargs)], min_seconds=seconds)
    medians = [timings[str(place)].median for place in range(2)]
    return Beside(
        (_parameters(before), _parameters(after)), (_bytes(before), _bytes(after)), (flop[0], flop[1]),
        (medians[0], medians[1]), count,
    )  # fmt: skip


def _call(model: nn.Module) -> Callable[[Any], object]:
    on = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))

    def run(inputs: Any) -> object:
        out = model(*inputs[0], **inputs[1])
        if on.type == "cuda":
            torch.cuda.synchronize(on)
        return out

    return run


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _bytes(model: nn.Module) -> int:
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
