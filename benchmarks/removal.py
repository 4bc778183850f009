"""What the removal of coupled channels costs: time and memory beside Torch-Pruning, and what an exact norm costs.

    python benchmarks/removal.py            # writes docs/results/removal.md and .json; minutes on one core
    python benchmarks/removal.py --only torchvision/resnet50

Half of the coupled channels of every layer, by magnitude. The contestants take turns in one process on fresh copies of
one network; who begins alternates; medians. A forward pass of the network on the same two examples takes its turn as
well, and is the unit. "Compaction" is everything from the masks on: it follows the network once more, cuts, fits sizes
in the code, and compares with the masked network in float64 and on noise. Torch-Pruning builds its graph and cuts, and
compares nothing. Memory: each contestant once in a process of its own, the most held above what was held before, over
the size of the network. Linux only.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import actprune
import zoo
from actprune import Budget, Channel
from actprune.structure import Norm, Structure, WidthNorm
from first_call import declare_torchvision
from processes import apart, extra

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
NETWORKS = (
    "torchvision/resnet50", "torchvision/mobilenet_v2", "torchvision/convnext_tiny", "torchvision/densenet121",
    "timm/vit_base_patch16_224", "bert-base",
)  # fmt: skip
TURNS = 3
Example = tuple[tuple[Any, ...], dict[str, Any]]


def built(name: str) -> tuple[nn.Module, Example]:
    torch.manual_seed(0)
    if name != "bert-base":
        return zoo.build(name)
    import transformers

    model = transformers.BertForSequenceClassification(transformers.BertConfig()).eval()
    return model, ((), {"input_ids": torch.randint(0, 30000, (2, 128))})


class Contestants:
    """Each a step that is timed, on a copy of the network that is made before."""

    def __init__(self, name: str) -> None:
        self.model, self.example = built(name)
        self.state: Any = None

    def forward(self, model: nn.Module) -> None:
        with torch.no_grad():
            model(*self.example[0], **self.example[1])

    def prune(self, model: nn.Module) -> None:
        recipe = actprune.magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer")
        pruner = actprune.Pruner(model, recipe, example=self.example)
        pruner.prune()
        self.state = pruner.state

    def compaction(self, model: nn.Module) -> None:
        assert self.state is not None
        actprune.compact(model, self.state, example=self.example)

    def peer(self, model: nn.Module) -> None:
        import torch_pruning as tp

        args, kwargs = self.example
        pruner = tp.pruner.BasePruner(
            model, kwargs or args[0], importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)][-1:],
        )  # fmt: skip
        pruner.step()

    steps = ("forward", "prune", "compaction", "peer")

    def run(self, step: str) -> Callable[[], Any]:
        model = copy.deepcopy(self.model)
        if step == "peer":
            return lambda: self.peer(model)
        if step == "compaction" and self.state is None:
            self.prune(model)
        return lambda: getattr(self, step)(model)


def times(name: str) -> dict[str, float]:
    """Median seconds of each step."""
    contestants = Contestants(name)
    taken: dict[str, list[float]] = {step: [] for step in Contestants.steps}
    for turn in range(TURNS + 1):
        for step in Contestants.steps if turn % 2 == 0 else Contestants.steps[::-1]:
            run = contestants.run(step)
            start = time.perf_counter()
            try:
                run()
                taken[step].append(time.perf_counter() - start)
            except Exception:
                if step != "peer":  # Torch-Pruning does not take every network
                    raise
    return {step: median(found[1:]) for step, found in taken.items() if found}


def memory(name: str, step: str) -> dict[str, float]:
    """Most held, in sizes of the network."""
    contestants = Contestants(name)
    run = contestants.run(step)
    if step != "forward":
        contestants.forward(copy.deepcopy(contestants.model))  # whatever is loaded on first use
    size = sum(parameter.numel() * parameter.element_size() for parameter in contestants.model.parameters())
    return {"held": extra(run) / size, "size": size}


def alternating(first: Callable[[], Any], second: Callable[[], Any], turns: int = 60) -> tuple[float, float]:
    """Median seconds of two calls in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for number in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (first, second)[number]()
            taken[number].append(time.perf_counter() - start)
    return median(taken[0][turns // 6 :]), median(taken[1][turns // 6 :])


def norms() -> list[dict[str, Any]]:
    """A plain norm over what is left beside the one that stays the same function."""
    rows = []
    cases: list[tuple[str, nn.Module, Norm, Tensor]] = [
        ("LayerNorm 768 -> 384, (2, 197, 384)", nn.LayerNorm(384), Norm("layer", -1, 768, "eps"),
         torch.randn(2, 197, 384)),
        ("LayerNorm 768 -> 384, (16, 197, 384)", nn.LayerNorm(384), Norm("layer", -1, 768, "eps"),
         torch.randn(16, 197, 384)),
        ("GroupNorm(32) 256 -> 128, (2, 128, 32, 32)", nn.GroupNorm(32, 128), Norm("group", 1, 256, "eps", groups=32),
         torch.randn(2, 128, 32, 32)),
        ("RMSNorm without a weight 768 -> 384, (2, 197, 384)", nn.RMSNorm(384, 1e-6, elementwise_affine=False),
         Norm("rms", -1, 768, "eps"), torch.randn(2, 197, 384)),
    ]  # fmt: skip
    for label, plain, norm, x in cases:
        exact = WidthNorm.of(plain, norm)
        with torch.no_grad():
            one, other = alternating(partial(plain, x), partial(exact, x))
        rows.append({"what": label, "plain": one, "exact": other})
    for name in ("timm/vit_base_patch16_224", "torchvision/convnext_tiny"):
        contestants = Contestants(name)
        contestants.prune(contestants.model)
        made = [
            actprune.compact(contestants.model, contestants.state, example=contestants.example, exact=exact)
            for exact in (False, True)
        ]
        one, other = alternating(*(partial(contestants.forward, model) for model in made), turns=9)
        rows.append({"what": f"{name}, whole network", "plain": one, "exact": other})
    return rows


class Reader(nn.Module):
    """An embedding and a Linear behind it."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(rows, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.table(x))))


def sizes() -> list[dict[str, Any]]:
    """The analysis alone, for small and large tensors."""
    import torchvision

    found: list[tuple[str, nn.Module, Tensor]] = [
        (f"ResNet-50, {side} px", torchvision.models.resnet50(num_classes=10), torch.randn(2, 3, side, side))
        for side in (32, 224)
    ]
    found += [(f"embedding of {rows:,} rows", Reader(rows), torch.randint(0, 100, (2, 16))) for rows in (500, 50_000)]
    structures = {label: Structure(model.eval(), (x,), {}) for label, model, x in found}
    taken: dict[str, list[float]] = {label: [] for label in structures}
    for _ in range(9):
        for label, structure in structures.items():
            start = time.perf_counter()
            structure.analysis()
            taken[label].append(time.perf_counter() - start)
    return [{"what": label, "seconds": median(seconds)} for label, seconds in taken.items()]


def table(found: dict[str, Any]) -> str:
    lines = [
        "# What the removal of coupled channels costs\n",
        f"Made by `python benchmarks/removal.py` ({found['machine']}): half of the channels of every layer, by "
        f"magnitude. Contestants in turns, medians of {TURNS}; memory in processes of their own. In brackets: forward "
        "passes of the same network on the same two examples. Compaction verifies what it made; Torch-Pruning 1.6.1 "
        "does not.\n",
        "| network | MB | forward, s | prune | compaction | Torch-Pruning | memory: forward | prune | compaction | "
        "Torch-Pruning |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["networks"]:
        seconds, held = row["seconds"], row["memory"]

        def cell(step: str, seconds: dict[str, float] = seconds) -> str:
            return f"{seconds[step]:.2f} s ({seconds[step] / seconds['forward']:.1f})" if step in seconds else "fails"

        def times_(step: str, held: dict[str, float] = held) -> str:
            return f"{held[step]:.1f}x" if step in held else "fails"

        lines.append(
            f"| {row['name'].rpartition('/')[2]} | {row['size'] / 1e6:.0f} | {seconds['forward']:.3f} | "
            f"{cell('prune')} | {cell('compaction')} | {cell('peer')} | {times_('forward')} | {times_('prune')} | "
            f"{times_('compaction')} | {times_('peer')} |"
        )
    lines += ["", "## Exact norms\n", "A norm over channels of which some are gone divides by the number of before. "
              "Beside it the plain norm over what is left (`exact=False`), another function.\n",
              "| | plain, ms | exact, ms | ratio |", "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row['what']} | {1e3 * row['plain']:.3g} | {1e3 * row['exact']:.3g} | {row['exact'] / row['plain']:.2f} |"
        for row in found["norms"]
    ]
    lines += [
        "",
        "## Size of the tensors\n",
        "The analysis of a recorded forward, without it.\n",
        "| | ms |",
        "|---|---|",
    ]
    lines += [f"| {row['what']} | {1e3 * row['seconds']:.0f} |" for row in found["sizes"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one of the networks, printed and not written")
    parser.add_argument("--memory", nargs=2, metavar=("STEP", "NETWORK"), help="one step, in this process")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    declare_torchvision()
    if given.memory:
        print(json.dumps(memory(given.memory[1], given.memory[0])))
        return
    networks = []
    for name in [given.only] if given.only else NETWORKS:
        row: dict[str, Any] = {"name": name, "seconds": times(name), "memory": {}}
        for step in Contestants.steps:
            made = apart(__file__, "--memory", step, name)
            if "error" not in made:
                row["memory"][step], row["size"] = made["held"], made["size"]
        networks.append(row)
        print(row, flush=True)
    if given.only:
        return
    machine = f"torch {torch.__version__}, {platform.machine()}, {given.threads} thread(s)"
    found = {"machine": machine, "networks": networks, "norms": norms(), "sizes": sizes()}
    (RESULTS / "removal.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "removal.md").write_text(table(found))


if __name__ == "__main__":
    main()
