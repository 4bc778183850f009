"""What counting while training costs: a training step with live counting against the same step without it.

    python benchmarks/counting.py

A step is zero_grad, forward, cross entropy (mean square for the Linear(4096) stack), backward, SGD. One model is used
for all contestants, so memory layout is the same; they take turns in random order, block by block, and each block is
compared with the plain block of the same round. ``again`` is the plain step a second time: how far its ratio is from 1
is what this machine cannot tell apart. The first forward after counting is switched on is traced and not timed (it
happens once per training run).

Reported are medians of the ratios with their quartiles, in wall time and in CPU time of the process. The goal is judged
on wall time. On a machine with other work going on, wall time also measures that; CPU time does not count waiting, but
with two threads it counts their spinning. Before anything is timed, the counts are checked against
``(activation != 0).sum()``. Writes docs/results/counting.json and counting.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.evidence import Firing
from actprune.graph import prunable_layers
from actprune.pruner.collector import Collector
from actprune.state import PruneState

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
GOAL = 1.02
EVERY = {"plain": 0, "again": 0, "every=1": 1, "every=8": 8}


def article() -> tuple[nn.Module, Tensor]:
    sizes = [784, 300, 200, 100, 50, 10]
    layers: list[nn.Module] = []
    for index, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(wide, narrow), *([nn.ReLU()] if index < len(sizes) - 2 else [])]
    return nn.Sequential(*layers), torch.randn(128, 784)


def wide() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(4096, 4096), nn.ReLU())]), torch.randn(64, 4096)


def lenet5() -> tuple[nn.Module, Tensor]:
    convs = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)), torch.randn(
        64, 1, 28, 28
    )


NETS: dict[str, tuple[str, Callable[[], tuple[nn.Module, Tensor]], int, int]] = {  # title, build, steps a block, rounds
    "article": ("784-300-200-100-50-10, batch 128", article, 32, 120),
    "wide": ("4 x (Linear(4096) + ReLU), batch 64", wide, 8, 12),
    "lenet5": ("LeNet-5-Caffe with ReLU, batch 64", lenet5, 16, 30),
}


def step_of(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """One training step. A tiny learning rate: speed must not drift with the number of zeros in the activations."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    labels = torch.randint(0, 10, (len(inputs),))

    def step() -> None:
        optimizer.zero_grad()
        out = model(inputs)
        loss = F.cross_entropy(out, labels) if out.shape[1] == 10 else out.square().mean()
        loss.backward()
        optimizer.step()

    return step


def check_counts(model: nn.Module, inputs: Tensor) -> None:
    """Three live batches at frozen weights must give exactly three times the count of one."""
    watch = Collector(model, prunable_layers(model), [Firing()], PruneState())
    watch.start_live()
    for _ in range(3):
        model(inputs)
    watch.stop_live()
    layers = list(model.children())
    values = inputs
    for index, layer in enumerate(layers):
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            axes = [axis for axis in range(values.dim()) if axis != 1]
            assert torch.equal(watch.state.sums[f"{index - 1}.weight"]["fired"], 3 * (values != 0).sum(axes)), index


def block(model: nn.Module, step: Callable[[], None], steps: int, every: int) -> tuple[float, float]:
    """Wall and CPU seconds per step. Some steps pass before the clock starts: the first is traced, caches are warm."""
    watch = Collector(model, prunable_layers(model), [Firing()], PruneState())
    if every:
        watch.start_live(every)
    for _ in range(max(every, 2)):
        step()
    counted = watch.live_batches
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    wall, cpu = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
    assert not every or watch.live_batches - counted == steps // every
    watch.stop_live()
    return wall, cpu


def measure(network: str, threads: int, scale: float) -> dict[str, Any]:
    """All contestants on one network."""
    title, build, steps, rounds = NETS[network]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, inputs = build()
    check_counts(model, inputs)
    step = step_of(model, inputs)
    order = random.Random(0)
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in EVERY}
    for _ in range(max(3, round(rounds * scale))):
        keys = list(EVERY)
        order.shuffle(keys)
        for key in keys:
            times[key].append(block(model, step, steps, EVERY[key]))
    found: dict[str, Any] = {"network": network, "title": title, "threads": threads, "rounds": len(times["plain"])}
    found["plain_ms"] = 1000 * statistics.median(wall for wall, _ in times["plain"])
    for key in list(EVERY)[1:]:
        found[key] = {}
        for clock, name in enumerate(("wall", "cpu")):
            ratios = [a[clock] / b[clock] for a, b in zip(times[key], times["plain"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            found[key][name] = {"ratio": middle, "low": low, "high": high}
    return found


def table(results: list[dict[str, Any]]) -> str:
    def cell(value: dict[str, float]) -> str:
        return f"{value['ratio']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

    lines = [
        "| network | threads | plain step | clock | plain again | every=1 | every=8 |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for clock in ("wall", "cpu"):
            cells = " | ".join(cell(r[key][clock]) for key in list(EVERY)[1:])
            lines.append(f"| {r['title']} | {r['threads']} | {r['plain_ms']:.2f} ms | {clock} | {cells} |")
    return "\n".join(lines)


def verdict(results: list[dict[str, Any]]) -> str:
    """Met or missed on wall time, and whether a plain step repeated varies as much."""
    lines = []
    for key in ("every=1", "every=8"):
        words: dict[str, list[str]] = {"met": [], "missed": []}
        for r in results:
            ratio, noise = r[key]["wall"]["ratio"], r["again"]["wall"]
            doubt = ", within noise" if noise["low"] <= ratio <= noise["high"] else ""
            words["met" if ratio <= GOAL else "missed"].append(f"{r['network']}/{r['threads']} ({ratio:.3f}{doubt})")
        lines.append(
            f"- {key}, goal <= {GOAL}: " + "; ".join(f"{k} by {', '.join(v) or 'none'}" for k, v in words.items())
        )
    return (
        "\n".join(lines) + '\n\n"Within noise": a plain step repeated varies as much (its quartiles enclose the ratio).'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What counting while training costs.")
    parser.add_argument("--networks", default=",".join(NETS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for threads in map(int, options.threads.split(",")):
        for network in options.networks.split(","):
            before = os.getloadavg()[0]
            row = measure(network, threads, options.scale)
            row["load_average"] = [round(before, 2), round(os.getloadavg()[0], 2)]
            row["command"] = " ".join(["python benchmarks/counting.py", *sys.argv[1:]])
            save(row, options.out)
            print("\n".join(table([row]).splitlines()[2:]), "load", row["load_average"], flush=True)


def save(row: dict[str, Any], folder: Path) -> None:
    """Put one row into the results, in place of an older one: a run cut short loses only what it had not done."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "counting.json"
    rows = json.loads(stored.read_text())["results"] if stored.exists() else []
    rows = [old for old in rows if (old["network"], old["threads"]) != (row["network"], row["threads"])] + [row]
    rows.sort(key=lambda r: (r["threads"], list(NETS).index(r["network"])))
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {versions}"
    stored.write_text(json.dumps({"machine": machine, "results": rows}, indent=1) + "\n")
    loads = [load for r in rows for load in r["load_average"]]
    commands = ", ".join(f"`{command}`" for command in dict.fromkeys(r["command"] for r in rows))
    note = (
        "Ratio of a training step with live counting to the same step without: median (quartiles) over rounds.\n"
        "`plain again` is the same step without counting, measured once more: the noise.\n\n"
        f"Command: {commands}. Machine: {machine}; 1-minute load average before and after each row "
        f"{min(loads):.1f} to {max(loads):.1f} (above the number of threads, other work was competing).\n"
    )
    (folder / "counting.md").write_text(f"# Counting while training\n\n{note}\n{table(rows)}\n\n{verdict(rows)}\n")


if __name__ == "__main__":
    main()
