"""CIFAR-10 (JPEG): 50 % and 75 % of the FLOP removed as whole channels, by several criteria and by Torch-Pruning.

    python benchmarks/structured.py --data DIR         # all of it: resumes, docs/results/structured.jsonl and .md
    python benchmarks/structured.py --data DIR --only resnet-20 --seeds 0
    python benchmarks/structured.py --table            # the table alone, from what is there

One dense network per seed, trained as `TRAINING` says; every method prunes a copy of it once, by evidence of 1,000
training images, is compacted, and fine-tuned with one recipe for all, the dense twin too. Validation (5,000 images of
the training part, the same for all) is looked at while building; test accuracy is reported once, at the end. Latency:
dense and compacted take turns in one process, medians, one thread. About 4 core hours: two processes, one for
`--only resnet-20` and one for the others, each with `OMP_NUM_THREADS=1`, do not wait for each other. Every row says on
what it was trained.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actprune
from actprune import Budget, Channel
from actprune.accounting import dense_flop
from actprune.lab.parquet import read_parquet
from actprune.lab.resnet import resnet20

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
TRAINING = {"epochs": 3, "batch": 128, "weight_decay": 5e-4, "lr": {"resnet-20": 0.2, "vgg-bn": 0.1, "vit": 1e-3}}
FINE_TUNING = {
    "epochs": 0.5, "batch": 128, "weight_decay": 5e-4, "lr": {"resnet-20": 0.05, "vgg-bn": 0.03, "vit": 5e-4},
}  # fmt: skip
CALIBRATION = 1000
KEPT = (0.5, 0.25)
SHAPE, CLASSES = (3, 32, 32), 10


# ---- networks -------------------------------------------------------------------------------------------------------


def vgg() -> nn.Module:
    """Six 3x3 convolutions with BatchNorm, 32 to 128 channels, and a Linear."""
    layers: list[nn.Module] = []
    before = 3
    for width, pool in ((32, False), (32, True), (64, False), (64, True), (128, False), (128, True)):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))


class Attention(nn.Module):
    """Self-attention of 4 heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.out = heads, nn.Linear(width, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ViT(nn.Module):
    """Patches of 4x4, width 96, 4 blocks, 4 heads, mean over the patches."""

    def __init__(self, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(width), "attention": Attention(width, 4), "norm2": nn.LayerNorm(width),
                "up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width),
            })
            for _ in range(depth)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = x + block["attention"](block["norm1"](x))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x).mean(1))


NETS: dict[str, Callable[[], nn.Module]] = {"resnet-20": lambda: resnet20(SHAPE, CLASSES), "vgg-bn": vgg, "vit": ViT}


# ---- data and training ----------------------------------------------------------------------------------------------


class Data:
    """All pictures, normalised; the last 5,000 of the training part are for validation."""

    def __init__(self, folder: Path, device: str, images: int | None = None) -> None:
        raw = read_parquet(folder)
        self.x, self.y = (each.to(device) for each in self._ready(raw.train))
        self.test = tuple(each.to(device) for each in self._ready(raw.test))
        self.validation = self.x[-5000:], self.y[-5000:]
        self.x, self.y = self.x[:-5000][:images], self.y[:-5000][:images]

    @staticmethod
    def _ready(pair: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(pair[0]).float().div_(255)
        centre, scale = torch.tensor([0.4913, 0.4824, 0.4472]), torch.tensor([0.247, 0.243, 0.262])
        x = (x - centre.view(3, 1, 1)) / scale.view(3, 1, 1)
        return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(pair[1])

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: shuffled, shifted by up to 4 pixels and mirrored, the same for a whole batch."""
        for index in torch.randperm(len(self.x), generator=generator).to(self.y.device).split(size):
            x = self.x[index]
            down, right, flip = torch.randint(0, 9, (3,), generator=generator).tolist()
            x = F.pad(x, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
            yield (x.flip(3) if flip % 2 else x).contiguous(memory_format=torch.channels_last), self.y[index]


def train(model: nn.Module, net: str, data: Data, recipe: dict[str, Any], seed: int) -> None:
    """SGD with momentum (AdamW for the ViT), one cosine with a warm-up of one tenth."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    lr, epochs = recipe["lr"][net], recipe["epochs"]
    if net == "vit":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr, momentum=0.9, weight_decay=recipe["weight_decay"], nesterov=True
        )
    steps = round(epochs * -(-len(data.x) // recipe["batch"]))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, steps, pct_start=0.1, cycle_momentum=False, div_factor=10, final_div_factor=1000
    )
    model.train().to(memory_format=torch.channels_last)
    epochs_of_batches = (data.batches(recipe["batch"], generator) for _ in range(math.ceil(epochs)))
    for x, y in itertools.islice(itertools.chain.from_iterable(epochs_of_batches), steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, pair: tuple[Tensor, Tensor]) -> float:
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in zip(pair[0].split(500), pair[1].split(500), strict=True)
    )
    return right / len(pair[1])


# ---- methods --------------------------------------------------------------------------------------------------------

UNIT = Channel()
METHODS: dict[str, Callable[..., Any]] = {
    "activation": lambda **o: actprune.activation(unit=UNIT, score="neuron", **o),
    "taylor": lambda **o: actprune.methods.taylor(unit=UNIT, **o),
    "magnitude": lambda **o: actprune.magnitude(unit=UNIT, **o),
    "norm scale": lambda **o: actprune.methods.slimming(unit=UNIT, **o),
    "random": lambda **o: actprune.random(unit=UNIT, **o),
}
PEER = "Torch-Pruning, group norm"


def _zeros(model: nn.Module) -> Tensor:
    return torch.zeros(2, *SHAPE, device=next(model.parameters()).device)


def flop(model: nn.Module) -> int:
    return sum(dense_flop(model, ((_zeros(model),), {}), 2).values())


def pruned(dense: nn.Module, method: str, kept: float, data: Data, seed: int) -> nn.Module:
    """A smaller copy with at most ``kept`` of the FLOP, groups ranked over the whole network."""
    if method == PEER:
        return peer(dense, kept)
    recipe = METHODS[method](budget=Budget.flop(kept), scope="global", seed=seed)
    x, y = data.x[:CALIBRATION], data.y[:CALIBRATION]
    model = copy.deepcopy(dense)
    pruner = actprune.Pruner(model, recipe, example=x[:2])
    with pruner.observe():
        for a, b in zip(x.split(100), y.split(100), strict=True):
            loss = F.cross_entropy(model(a), b, reduction="sum")
            if loss.requires_grad:
                loss.backward()
    pruner.prune()
    return actprune.compact(model, pruner.state, example=x[:2])


def peer(dense: nn.Module, kept: float) -> nn.Module:
    """The smallest pruning ratio that leaves at most ``kept`` of the FLOP, found by bisection."""
    import torch_pruning as tp

    def at(ratio: float) -> nn.Module:
        model = copy.deepcopy(dense)
        attentions = [module for module in model.modules() if isinstance(module, Attention)]
        heads = {layer: each.heads for each in attentions for layer in (each.q, each.k, each.v)}
        bare = [(model.places, 2)] if isinstance(model, ViT) else None
        pruner = tp.pruner.BasePruner(
            model, _zeros(model), importance=tp.importance.GroupMagnitudeImportance(p=2), global_pruning=True,
            pruning_ratio=ratio, ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)][-1:],
            num_heads=heads, prune_num_heads=True, max_pruning_ratio=0.95, unwrapped_parameters=bare,
        )  # fmt: skip
        pruner.step()
        for module in attentions:
            module.heads = pruner.num_heads[module.q]
        return model

    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        if flop(at(middle)) <= kept * flop(dense):
            high = middle
        else:
            low = middle
    return at(high)


# ---- trials ---------------------------------------------------------------------------------------------------------


def trial(  # noqa: PLR0917  (what a row is about)
    dense: nn.Module, net: str, method: str, kept: float, data: Data, seed: int
) -> dict[str, Any]:
    """One row."""
    start = time.perf_counter()
    small = copy.deepcopy(dense) if method == "dense twin" else pruned(dense, method, kept, data, seed)
    seconds = time.perf_counter() - start
    before = accuracy(small, data.validation)
    start = time.perf_counter()
    train(small, net, data, FINE_TUNING, seed + 100)
    row: dict[str, Any] = {"net": net, "seed": seed, "method": method, "kept": kept, "seconds_to_prune": seconds}
    row |= {"fine_tuning_seconds": time.perf_counter() - start, "validation_before_fine_tuning": before}
    row |= {"validation": accuracy(small, data.validation), "test": accuracy(small, data.test)}
    row |= {"device": str(data.y.device), "epochs": TRAINING["epochs"], "fine_tuning_epochs": FINE_TUNING["epochs"]}
    dense, small = copy.deepcopy(dense).cpu(), small.cpu()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in (1, 32):
        found = actprune.beside(dense, small, data.test[0][:batch].cpu(), seconds=0.5)
        row |= {
            "parameters": found.parameters,
            "flop": found.flop,
            f"milliseconds_{batch}": [1e3 * s for s in found.seconds],
        }
    torch.set_num_threads(threads)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over the seeds."""
    lines = [
        "# CIFAR-10 (JPEG): half and a quarter of the FLOP, as whole channels\n",
        f"Made by `python benchmarks/structured.py --data DIR`: {TRAINING['epochs']} epochs dense, "
        f"{FINE_TUNING['epochs']} of fine-tuning, evidence of {CALIBRATION:,} images; {len(rows)} trials. Accuracy on "
        "the 10,000 test pictures in %, mean ± standard deviation over the seeds; \"at once\": validation accuracy "
        "before fine-tuning. Latency is of the compacted network over that of the dense one, one thread, measured in "
        "turns.\n",
    ]  # fmt: skip
    for net in dict.fromkeys(row["net"] for row in rows):
        lines += [f"## {net}\n", "| FLOP left | method | seeds | test | at once | parameters left | FLOP, measured | "
                  "latency, batch 1 | batch 32 |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        mine = [row for row in rows if row["net"] == net]
        for kept, method in dict.fromkeys((row["kept"], row["method"]) for row in mine):
            found = [row for row in mine if (row["kept"], row["method"]) == (kept, method)]

            def share(key: str, found: list[dict[str, Any]] = found) -> str:
                return f"{mean(row[key][1] / row[key][0] for row in found):.1%}"

            def spread(key: str, found: list[dict[str, Any]] = found) -> str:
                values = [100 * row[key] for row in found]
                return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"

            lines.append(
                f"| {kept:.0%} | {method} | {len(found)} | {spread('test')} | "
                f"{spread('validation_before_fine_tuning')} | {share('parameters')} | {share('flop')} | "
                f"{share('milliseconds_1')} | {share('milliseconds_32')} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of train.parquet and test.parquet")
    parser.add_argument("--only", choices=list(NETS), action="append", help="one of the networks; repeatable")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/structured"), help="where dense networks are kept")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help="so many training images only: a first look, written nowhere")
    parser.add_argument("--table", action="store_true", help="write the table of the rows that are there")
    given = parser.parse_args()
    path = RESULTS / "structured.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if given.table or given.data is None:
        order = {method: place for place, method in enumerate(["dense twin", *METHODS, PEER])}
        rows.sort(key=lambda row: (list(NETS).index(row["net"]), -row["kept"], order[row["method"]], row["seed"]))
        (RESULTS / "structured.md").write_text(table(rows))
        return
    warnings.simplefilter("ignore")
    data = Data(given.data, given.device, given.images)
    given.runs.mkdir(parents=True, exist_ok=True)
    for seed in map(int, given.seeds.split(",")):
        for net in given.only or NETS:
            torch.manual_seed(seed)
            dense = NETS[net]().to(given.device)
            place = given.runs / f"{net}-{seed}.pt"
            if place.exists() and given.images is None:
                dense.load_state_dict(torch.load(place, weights_only=True, map_location=given.device))
            else:
                train(dense, net, data, TRAINING, seed)
                if given.images is None:
                    torch.save(dense.state_dict(), place)
                print(net, seed, f"dense: {accuracy(dense, data.validation):.2%} validation", flush=True)
            dense.eval()
            asked = [("dense twin", 1.0), *((method, kept) for kept in KEPT for method in (*METHODS, PEER))]
            for method, kept in asked:
                if any((r["net"], r["seed"], r["method"], r["kept"]) == (net, seed, method, kept) for r in rows):
                    continue
                row = trial(dense, net, method, kept, data, seed)
                rows.append(row)
                if given.images is None:
                    with path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                print(
                    net,
                    seed,
                    method,
                    kept,
                    f"{row['validation']:.2%}",
                    f"{row['fine_tuning_seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
