"""`activation(0.5)` at the first call, without arguments, on networks that people have: 40 of timm, torchvision and
transformers, with random weights and (transformers) small configurations.

    pip install --no-deps timm torchvision transformers huggingface_hub safetensors tokenizers regex pyyaml ...
    python benchmarks/first_call.py             # writes docs/results/first_call.md
    python benchmarks/first_call.py resnet18    # one of them, in this process

Each network is observed on one batch of two examples and pruned, in a process of its own. The table says how its layers
were judged, how much of the network could be pruned, and how long it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from processes import apart

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
LIMIT = 300  # seconds for one network

TIMM = (
    "resnet18", "resnet50", "efficientnet_b0", "mobilenetv3_small_100", "mobilenetv2_100", "convnext_atto",
    "regnety_002", "densenet121", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "beit_base_patch16_224", "eva02_tiny_patch14_224", "mixer_s32_224", "poolformer_s12",
    "ghostnet_100", "hrnet_w18_small", "dpn48b", "xception41",
)  # fmt: skip
TORCHVISION = ("vgg11_bn", "alexnet", "googlenet", "shufflenet_v2_x0_5", "mnasnet0_5", "squeezenet1_1", "vit_b_32",
               "maxvit_t")  # fmt: skip
WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
}
SMALL = {
    "BertModel": WIDTHS,
    "RobertaModel": WIDTHS,
    "ElectraModel": {**WIDTHS, "embedding_size": 16},
    "AlbertModel": {**WIDTHS, "embedding_size": 16},
    "LlamaForCausalLM": {**WIDTHS, "num_key_value_heads": 2},
    "MistralForCausalLM": {**WIDTHS, "num_key_value_heads": 2},
    "Qwen2ForCausalLM": {**WIDTHS, "num_key_value_heads": 2},
    "GemmaForCausalLM": {**WIDTHS, "num_key_value_heads": 2, "head_dim": 8},
    "PhiForCausalLM": WIDTHS,
    "GPTNeoXForCausalLM": WIDTHS,
    "OPTForCausalLM": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "vocab_size": 99, "word_embed_proj_dim": 32},
    "BloomForCausalLM": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "DistilBertModel": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 99},
    "T5Model": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "BartModel": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 2,
                  "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 99},
}  # fmt: skip
NAMES = (*(f"timm/{name}" for name in TIMM), *(f"torchvision/{name}" for name in TORCHVISION),
         *(f"transformers/{name}" for name in SMALL))  # fmt: skip


def build(name: str) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """A network, and how it is called on one batch of two."""
    source, _, what = name.rpartition("/")
    if source == "timm":
        import timm

        model = timm.create_model(what, num_classes=10)
        x = torch.randn(2, *model.default_cfg["input_size"])
        return model, lambda each: each(x)
    if source == "torchvision":
        import torchvision

        options = {"init_weights": True, "aux_logits": False} if what == "googlenet" else {}
        x = torch.randn(2, 3, 224, 224)
        return torchvision.models.get_model(what, num_classes=10, **options), lambda each: each(x)
    import transformers

    kind = getattr(transformers, what)
    model = kind(kind.config_class(**SMALL[what]))
    tokens = {"input_ids": torch.randint(3, 99, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
    if what in ("T5Model", "BartModel"):
        tokens["decoder_input_ids"] = tokens["input_ids"]
    return model, lambda each: each(**tokens)


def one(name: str) -> dict[str, Any]:
    """Observe, prune: a row of the table."""
    import actprune

    declare_torchvision()
    torch.manual_seed(0)
    model, call = build(name)
    began = time.perf_counter()
    pruner = actprune.Pruner(model.eval(), actprune.activation(0.5))
    with pruner.observe():
        call(model)
    report = pruner.prune()
    seconds = time.perf_counter() - began
    call(model)
    kinds = {"firing counted at": 0, "mean |activation| at": 0, "always firing:": 0, "firing counted if": 0}
    for part in "; ".join(report.notes).split("; "):
        for kind in kinds:
            if part.startswith(kind):
                kinds[kind] = len(part.removeprefix(kind).rpartition(" at ")[2].split(","))
    return {
        "name": name, "seconds": seconds, "actual": report.actual, "sparsity": report.sparsity,
        "prunable": report.network.prunable_share, "counted": kinds["firing counted at"],
        "mean_abs": kinds["mean |activation| at"], "always": kinds["always firing:"],
        "seen": kinds["firing counted if"],
    }  # fmt: skip


def declare_torchvision() -> None:
    """Its operators, for a wheel that was built for another PyTorch and brings none that load here."""
    if _LIBRARIES:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                   "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                   "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
                   "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"):  # fmt: skip
        library.define(schema)
    _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # a library is gone when its object is


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    works = sum("error" not in row for row in rows)
    head = ("network", "s", "of prunable removed", "prunable", "counted", "mean \\|a\\|", "as seen", "always")
    lines = [
        "# `activation(0.5)` at the first call\n",
        f"Made by `python benchmarks/first_call.py`: {works} of {len(rows)} networks. One batch of two examples, no "
        "arguments. *Prunable*: share of the network's weights in layers that can be pruned. The last columns: layers "
        "whose firing is counted (exact zeros), judged by mean |activation| (smooth or gated), one or the other by "
        "what is seen (modules of the network's own that are no norms), always firing (no non-linearity before the "
        "next reader).\n",
        f"| {' | '.join(head)} |", f"|{'---|' * len(head)}",
    ]  # fmt: skip
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} | | | | | | |")
            continue
        lines.append(
            f"| {row['name']} | {row['seconds']:.1f} | {row['actual']:.2%} | {row['prunable']:.1%} | "
            f"{row['counted']} | {row['mean_abs']} | {row['seen']} | {row['always']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one(sys.argv[1])))
        return
    rows = []
    for name in NAMES:
        rows.append(apart(__file__, name, limit=LIMIT))
        print(name, rows[-1].get("error") or f"{rows[-1]['seconds']:.1f} s", flush=True)
    (RESULTS / "first_call.md").write_text(table(rows))


if __name__ == "__main__":
    main()
