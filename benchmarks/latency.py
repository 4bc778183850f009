"""Latency of pruned networks against dense ones, every path, interleaved in one process, one thread.

    python benchmarks/latency.py                  # everything, then docs/results/latency.md
    python benchmarks/latency.py --only article   # some of the networks
    python benchmarks/latency.py --report         # only the report, from the figures so far

The fully connected networks on MNIST are trained and pruned first where runs/ does not hold them yet: the real masks
and the real activations decide what skipping zeros is worth. Two layers of 4096 x 4096, and the channels of LeNet-5 and
ResNet-20, carry random weights and masks: their latency does not depend on what they compute.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import founding
from actprune.lab.sweep import table

RESULTS = Path("docs/results/latency.json")
GOALS = {
    ("article, 98.94 % of weights", 1): "10x dense, 25x eager",
    ("784-1024-1024-512-10, 99 % of weights", 1): "20x dense",
    ("784-1024-1024-512-10, 99 % of weights", 32): "10x dense",
    ("784-1024-1024-512-10, 99 % of weights", 256): "10x dense",
    ("ResNet-20, 50 % of channels", 1): "2.4x dense",
    ("ResNet-20, 75 % of channels", 1): "4x dense",
}
BATCHES = (1, 32, 256)
Case = tuple[nn.Module, dict[str, Tensor], Tensor]


def trained(name: str, **changes: Any) -> Callable[[], Case]:
    """A finished run: its network, masks, and the validation images."""

    def case() -> Case:
        from actprune.lab import RunConfig, run, shipped

        out = Path("runs/latency") / name
        if not (out / "summary.json").exists():
            values = {**founding.TRAINING, "data": "mnist", "method": "activation", "seed": 0, **changes}
            run(RunConfig(**values), out, overwrite=True, plots=False)
        found = shipped.read(out)
        return found.model, found.masks, found.dataset.validation[0][:4096]

    return case


def article(of_all: float) -> dict[str, Any]:
    """The trial of benchmarks/founding.py with the article's sparsity."""
    sparsity = of_all * founding.ALL / founding.HIDDEN
    return {"sparsity": sparsity, "options": {"score": "neuron_weight", "scope": "layer"}}


def wide(sparsity: float) -> dict[str, Any]:
    """784-1024-1024-512-10, ten epochs."""
    options = {"score": "neuron_weight", "scope": "layer"}
    return {"model": "mlp", "hidden": (1024, 1024, 512), "sparsity": sparsity, "options": options, "max_epochs": 10}


def square(fraction: float, *, neurons: bool) -> Callable[[], Case]:
    """Two layers of 4096 x 4096; inputs with 19 % non-zero."""

    def case() -> Case:
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4096))
        if neurons:
            kept = torch.rand(4096, generator=generator) >= fraction
            masks = {"0.weight": kept[:, None].expand(4096, 4096).clone()}
        else:
            masks = {name: torch.rand(4096, 4096, generator=generator) >= fraction for name in ("0.weight", "2.weight")}
        x = torch.rand(512, 4096, generator=generator)
        return model, masks, x * (torch.rand(x.shape, generator=generator) < 0.19)

    return case


def channels(name: str, kept: float) -> Callable[[], Case]:
    """The first ``kept`` of the channels of every conv, the same on both sides of each sum; the classifier stays."""

    def case() -> Case:
        from actprune.lab.models import build
        from actprune.lab.resnet import resnet20

        if name == "resnet-20":
            model, shape = resnet20((3, 32, 32), 10), (3, 32, 32)
        else:
            from actprune.lab import data

            model, shape = build(name, data.load("mnist")), (1, 28, 28)
        masks = {}
        for path, module in model.named_modules():
            last = isinstance(module, nn.Linear) and module.out_features == 10
            if isinstance(module, (nn.Conv2d, nn.Linear)) and not last:
                mask = torch.zeros_like(module.weight, dtype=torch.bool)
                mask[: round(len(mask) * kept)] = True
                masks[f"{path}.weight"] = mask
        return model.eval(), masks, torch.rand(512, *shape, generator=torch.Generator().manual_seed(0))

    return case


CASES: dict[str, Callable[[], Case]] = {
    "article, 90 % of weights": trained("article-0.9", **article(0.9)),
    "article, 98.94 % of weights": trained("article-0.9894", **article(founding.HIGH)),
    "784-1024-1024-512-10, 90 % of weights": trained("wide-0.9", **wide(0.9)),
    "784-1024-1024-512-10, 99 % of weights": trained("wide-0.99", **wide(0.99)),
    "2 x 4096x4096, 50 % of neurons": square(0.5, neurons=True),
    "2 x 4096x4096, 75 % of neurons": square(0.75, neurons=True),
    "2 x 4096x4096, 90 % of neurons": square(0.9, neurons=True),
    "2 x 4096x4096, 90 % of weights": square(0.9, neurons=False),
    "2 x 4096x4096, 99 % of weights": square(0.99, neurons=False),
    "LeNet-5-Caffe, 50 % of channels": channels("lenet-5-caffe", 0.5),
    "LeNet-5-Caffe, 75 % of channels": channels("lenet-5-caffe", 0.25),
    "ResNet-20, 50 % of channels": channels("resnet-20", 0.5),
    "ResNet-20, 75 % of channels": channels("resnet-20", 0.25),
}


def measured(name: str, seconds: float) -> Iterator[dict[str, Any]]:
    """One line per path and batch size."""
    from actprune.compact import compaction
    from actprune.lab.latency import measure
    from actprune.runtime import prepared

    model, masks, data = CASES[name]()
    with torch.no_grad():
        for weight, mask in masks.items():
            model.get_parameter(weight).masked_fill_(~mask, 0)
    small = compaction(model, masks, example=data[:2], form="graph").model
    job = prepared(small, data[:2], threads=1, dense=model)
    for batch in measure(job, BATCHES, data, seconds):
        for row in batch.rows:
            yield {
                "case": name,
                "eager_s": batch.eager,
                "dense_s": batch.dense,
                "verdict": batch.verdict,
                **asdict(row),
            }


def machine() -> str:
    """What it was measured on: ratios differ between machines."""
    from importlib.metadata import version

    from actprune.lab.environment import cpu_name

    names = ("torch", "onnxruntime", "openvino", "ai-edge-litert", "numba", "mkl")
    return f"{cpu_name()}, 1 thread; " + ", ".join(f"{name} {version(name)}" for name in names)


def write(found: dict[str, Any], cases: list[str]) -> None:
    """docs/results/latency-table.md and latency.svg; latency.md is written by hand."""
    lines = [line for line in found["lines"] if line["case"] in cases]
    text = [
        f"Measured by `python benchmarks/latency.py` on: {found['machine']}.",
        "Microseconds per call: medians of interleaved samples. *eager* runs the dense original in PyTorch; *dense* is",
        "the fastest runtime of the dense original (eager, onnxruntime or OpenVINO, float32). *chosen* is what",
        "`actprune.accelerate` takes.",
        "",
        _summary(lines, cases),
        "## Every path: times faster than the fastest dense runtime",
        "",
        _paths(lines, cases),
    ]
    RESULTS.with_name("latency-table.md").write_text("\n".join(text))
    _plot(lines, cases)


def _summary(lines: list[dict[str, Any]], cases: list[str]) -> str:
    rows = []
    for case, batch in _keys(lines, cases):
        own = [line for line in lines if line["case"] == case and line["batch"] == batch]
        best = next(line for line in own if line["chosen"])
        rows.append((
            case, str(batch), _us(best["eager_s"]), _us(best["dense_s"]), best["path"], _us(best["median_s"]),
            f"**{best['dense_s'] / best['median_s']:.1f}x**", f"{best['eager_s'] / best['median_s']:.1f}x",
            GOALS.get((case, batch), ""),
        ))  # fmt: skip
    head = ("network, removed", "batch", "eager us", "dense us", "chosen", "us", "over dense", "over eager", "goal")
    return table(head, rows)


def _paths(lines: list[dict[str, Any]], cases: list[str]) -> str:
    paths = list(dict.fromkeys(line["path"] for line in lines))
    rows = []
    for case, batch in _keys(lines, cases):
        own = {line["path"]: line for line in lines if line["case"] == case and line["batch"] == batch}
        rows.append((case, str(batch), *(_ratio(own.get(path)) for path in paths)))
    return table(("network, removed", "batch", *paths), rows)


def _ratio(line: dict[str, Any] | None) -> str:
    return f"{line['dense_s'] / line['median_s']:.2f}" if line and line["median_s"] else ""


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.2f}" if seconds < 1e-5 else f"{1e6 * seconds:,.0f}"


def _keys(lines: list[dict[str, Any]], cases: list[str]) -> list[tuple[str, int]]:
    found = dict.fromkeys((line["case"], line["batch"]) for line in lines)
    return sorted(found, key=lambda key: (cases.index(key[0]), key[1]))


def _plot(lines: list[dict[str, Any]], cases: list[str]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shown = [case for case in cases if any(line["case"] == case for line in lines)]
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(shown) + 1.2))
    for offset, batch in enumerate((1, 32, 256)):
        best = {line["case"]: line for line in lines if line["chosen"] and line["batch"] == batch}
        gains = [best[case]["dense_s"] / best[case]["median_s"] if case in best else 0 for case in shown]
        places = [index + 0.27 * (offset - 1) for index in range(len(shown))]
        axes.barh(places, gains, height=0.25, label=f"batch {batch}", color=("#1b6ca8", "#e08e2b", "#5a8f4e")[offset])
        for place, gain in zip(places, gains, strict=True):
            axes.text(gain * 1.03, place, f"{gain:.1f}x", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than the fastest dense runtime (1 thread)")
    axes.legend(fontsize=8)
    figure.tight_layout()
    for kind in ("svg", "png"):
        undated = {"Date": None} if kind == "svg" else None
        figure.savefig(RESULTS.with_name(f"latency.{kind}"), dpi=120, metadata=undated)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--seconds", type=float, default=3.0, help="per network and batch size, about")
    parser.add_argument("--report", action="store_true", help="only write the report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = json.loads(RESULTS.read_text())["lines"] if RESULTS.exists() else []
    for name in [name for name in CASES if options.only in name and not options.report]:
        lines = [line for line in lines if line["case"] != name] + list(measured(name, options.seconds))
        best = [line for line in lines if line["case"] == name and line["chosen"]]
        for line in best:
            print(f"{name}, batch {line['batch']}: {line['verdict']}", flush=True)
        RESULTS.write_text(json.dumps({"machine": machine(), "lines": lines}, indent=1) + "\n")
    write(json.loads(RESULTS.read_text()), list(CASES))


if __name__ == "__main__":
    main()
