"""Global selection against torch.nn.utils.prune.global_unstructured, and against selection layer by layer.

    python benchmarks/selection.py --sizes 1e6,1e7,1e8

Both prune 90 % of the same fully connected layers by magnitude, from plain weights to pruned weights. Two networks per
size: ``equal`` (four square layers) and ``first`` (the proportions of LeNet-300-100: 88 % of the weights in the first
layer).

Time: the contestants take turns in one process; medians. Between the scopes only the selection (``global`` and
``layer``) is compared, because writing the zeros is the same work for both. Memory: every contestant runs once in a
process of its own. The kernel's record of the peak resident memory (VmHWM in /proc/self/status) is reset
(5 > /proc/self/clear_refs), and the resident memory just before is subtracted, so interpreter, torch and the weights
themselves do not count; the new masks do. Writes docs/results/selection.json and selection.md. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from actprune.edit import Quota, View, pruning_step
from actprune.lab.sweep import table
from actprune.methods.magnitude import magnitude
from actprune.scopes import Scope
from actprune.types import Layer
from processes import extra

SPARSITY = 0.9
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
Weights = dict[str, Tensor]


def shapes(network: str, size: int) -> dict[str, tuple[int, int]]:
    if network == "equal":
        side = round(math.sqrt(size / 4))
        return {f"fc{i}.weight": (side, side) for i in range(1, 5)}
    scale = math.sqrt(size / 266_200)
    dims = [round(width * scale) for width in (784, 300, 100, 10)]
    return {f"fc{i}.weight": (dims[i], dims[i - 1]) for i in range(1, 4)}


def weights_of(network: str, size: int) -> Weights:
    torch.manual_seed(0)
    bounds = {name: (shape, 1 / math.sqrt(shape[1])) for name, shape in shapes(network, size).items()}
    return {name: torch.empty(shape).uniform_(-bound, bound) for name, (shape, bound) in bounds.items()}


def masks_of(weights: Weights, scope: Scope) -> Weights:
    recipe = magnitude(SPARSITY, scope=scope)
    view = View.of([Layer(name, weight) for name, weight in weights.items()])
    return pruning_step(recipe, view, Quota(SPARSITY, recipe.budget)).masks


def actprune_global(weights: Weights) -> None:
    for name, mask in masks_of(weights, "global").items():
        weights[name].mul_(mask)


def select_global(weights: Weights) -> None:
    masks_of(weights, "global")


def select_layer(weights: Weights) -> None:
    masks_of(weights, "layer")


def torch_global(weights: Weights) -> None:
    modules = []
    for weight in weights.values():
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        module.weight = nn.Parameter(weight)
        modules.append((module, "weight"))
    prune.global_unstructured(modules, prune.L1Unstructured, amount=SPARSITY)


CONTESTANTS: dict[str, Callable[[Weights], None]] = {
    "torch": torch_global,
    "actprune": actprune_global,
    "global": select_global,
    "layer": select_layer,
}


def times(weights: Weights, first: str, second: str, repeats: int) -> tuple[float, float, float]:
    """Median seconds of two contestants and the median of their ratio, turn by turn, so that a busy machine slows both.

    Each gets fresh weights; who begins alternates; one more turn warms up.
    """
    taken: dict[str, list[float]] = {first: [], second: []}
    for turn in range(repeats + 1):
        for name in (first, second) if turn % 2 else (second, first):
            copy = {key: weight.clone() for key, weight in weights.items()}
            start = time.perf_counter()
            CONTESTANTS[name](copy)
            taken[name].append(time.perf_counter() - start)
            del copy
    ours, theirs = taken[first][1:], taken[second][1:]
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return statistics.median(ours), statistics.median(theirs), ratio


def extra_memory(contestant: str, network: str, size: int) -> float:
    """Peak resident memory of one run above what was resident before it, MB. To be called in a fresh process."""
    CONTESTANTS[contestant](weights_of("equal", 10_000))  # whatever is loaded on first use
    weights = weights_of(network, size)
    return extra(lambda: CONTESTANTS[contestant](weights)) / 1e6


def extra_memory_in_a_process(contestant: str, network: str, size: int) -> float:
    command = [sys.executable, __file__, "--memory", contestant, "--network", network, "--sizes", str(size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(network: str, size: int, repeats: int) -> dict[str, float | str]:
    weights = weights_of(network, size)
    actprune_s, torch_s, time_ratio = times(weights, "actprune", "torch", max(3, repeats // 5))
    global_s, layer_s, global_over_layer = times(weights, "global", "layer", repeats)
    del weights
    torch_mb = extra_memory_in_a_process("torch", network, size)
    actprune_mb = extra_memory_in_a_process("actprune", network, size)
    return {
        "network": network,
        "weights": sum(math.prod(shape) for shape in shapes(network, size).values()),
        "torch_s": torch_s,
        "actprune_s": actprune_s,
        "time_ratio": time_ratio,
        "torch_mb": torch_mb,
        "actprune_mb": actprune_mb,
        "memory_ratio": actprune_mb / torch_mb,
        "global_s": global_s,
        "layer_s": layer_s,
        "global_over_layer": global_over_layer,
    }


def text(rows: list[dict[str, float | str]]) -> str:
    values = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return table(list(rows[0]), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e6,1e7,1e8")
    parser.add_argument("--network", choices=["equal", "first"], help="only this one")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=list(CONTESTANTS), help="print the extra memory of one run and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [round(float(size)) for size in options.sizes.split(",")]
    if options.memory:
        print(extra_memory(options.memory, options.network, sizes[0]))
        return
    networks = [options.network] if options.network else ["equal", "first"]
    rows = [row(network, size, options.repeats) for network in networks for size in sizes]
    command = f"python benchmarks/selection.py --sizes {options.sizes} --repeats {options.repeats}"
    command += f" --threads {options.threads}"
    machine = f"torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s)"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "selection.json").write_text(
        json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n"
    )
    notes = "Seconds and ratios: medians. MB: peak extra resident memory. `global` and `layer`: the selection alone."
    (RESULTS / "selection.md").write_text(f"`{command}`, {machine}.\n{notes}\n\n{text(rows)}\n")
    print(text(rows))


if __name__ == "__main__":
    main()
