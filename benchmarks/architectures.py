"""Half of the channels of 170 networks: pruned, compacted, equal to the masked one, really removed, saved and loaded.

    pip install --no-deps timm torchvision transformers huggingface_hub safetensors tokenizers regex pyyaml ...
    python benchmarks/architectures.py                 # writes docs/results/architectures.md and .json
    python benchmarks/architectures.py --only timm/resnet
    python benchmarks/architectures.py --one timm/resnet18   # one of them, in this process

Every network is tried in a process of its own: `magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer")`,
`compaction`, the same output as the masked network on another input in float64, parameters and FLOP of what is left,
the small network saved as a file and opened without its class. In a second process: Torch-Pruning 1.6.1's group
magnitude pruner at `pruning_ratio=0.5` on the same network. Times are in forward passes of the same network on the same
two examples, memory is the most that the process held over what it held with the network in place.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import zoo
from first_call import declare_torchvision
from processes import apart, peak

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
LIMIT = 300  # seconds for one network


def _flop(model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]) -> int:
    from actprune.accounting import dense_flop

    return sum(dense_flop(model, example, 2).values())


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _forward(model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]) -> float:
    """Seconds, the median of three behind one."""
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            model(*example[0], **example[1])
            times.append(time.perf_counter() - start)
    return median(times[1:])


def _other(example: Any) -> Any:
    """Another input of the same kind."""
    generator = torch.Generator().manual_seed(5)

    def like(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        if item.is_floating_point():
            return torch.randn(item.shape, generator=generator)
        return item.flip(0) if item.dim() > 1 and len(item) == 2 else item

    return torch.utils._pytree.tree_map(like, example)


def ours(name: str) -> dict[str, Any]:
    """One network, a row of the table. Raises what the library raises."""
    import actprune
    from actprune.compact.verify import difference, doubled, masked_call
    from actprune.structure import outputs, tensors_of

    torch.manual_seed(0)
    model, example = zoo.build(name)
    forward = _forward(model, example)
    held = peak()
    row: dict[str, Any] = {"name": name, "forward": forward}
    row |= {"parameters": _parameters(model), "flop": _flop(model, example)}
    recipe = actprune.magnitude(budget=actprune.Budget.channels(0.5), unit=actprune.Channel(), scope="layer")
    start = time.perf_counter()
    pruner = actprune.Pruner(model, recipe, example=example)
    report = pruner.prune()
    row["prune"] = time.perf_counter() - start
    row["channels"] = report.actual
    start = time.perf_counter()
    result = actprune.compaction(model, pruner.state, example=example)
    row["compact"] = time.perf_counter() - start
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(model).values())
    row["memory"] = (peak() - held) / size
    pruner.enforce()
    other = _other(example)
    with torch.no_grad(), doubled():
        expected = outputs(masked_call(model, tensors_of(model))(*other[0], **other[1]))
        got = outputs(result.model(*copy.deepcopy(other)[0], **copy.deepcopy(other)[1]))
    row["difference"] = max(difference(expected, got), result.report.difference["float64"])
    row["parameters_left"], row["flop_left"] = _parameters(result.model), _flop(result.model, example)
    row["forward_small"] = _forward(result.model, example)
    row["changes"] = len(result.report.changes)
    row["saved"] = _saved(result.model)
    return row


def _saved(model: nn.Module) -> str:
    """Whether a process that knows nothing of the model's class can open and run it; else why not."""
    import actprune

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.actprune"
        try:
            actprune.save(model, path)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:120]}"
        script = f"import actprune; actprune.load({str(path)!r})"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
        return "yes" if not done.returncode else done.stderr.strip().splitlines()[-1][:120]


def theirs(name: str) -> dict[str, Any]:
    """Torch-Pruning on the same network: parameters and FLOP that are left."""
    import torch_pruning as tp

    from actprune.structure import outputs

    torch.manual_seed(0)
    model, example = zoo.build(name)
    row: dict[str, Any] = {"parameters": _parameters(model), "flop": _flop(model, example)}
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    args, kwargs = example
    with torch.no_grad():
        before = [tuple(each.shape) for each in outputs(model(*args, **kwargs))]
    held = peak()
    start = time.perf_counter()
    given: Any = kwargs if kwargs else (args[0] if len(args) == 1 else args)
    pruner = tp.pruner.BasePruner(
        model, given, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=heads
    )
    pruner.step()
    row["seconds"] = time.perf_counter() - start
    row["memory"] = (peak() - held) / (4 * row["parameters"])
    with torch.no_grad():
        after = [tuple(each.shape) for each in outputs(model(*args, **kwargs))]
    row["outputs"] = "same" if after == before else "of other shapes"
    row["parameters_left"], row["flop_left"] = _parameters(model), _flop(model, example)
    return row


def gone(row: dict[str, Any], what: str) -> float:
    """Removed share."""
    return float(1 - row[f"{what}_left"] / row[what])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    done = [row for row in rows if "error" not in row["ours"]]
    other = [row for row in rows if "error" not in row["theirs"]]
    same = [row for row in other if row["theirs"]["outputs"] == "same"]
    both = [row for row in done if row in same]
    less = [row["name"] for row in both if any(gone(row["ours"], what) < gone(row["theirs"], what) - 0.005
                                               for what in ("parameters", "flop"))]  # fmt: skip
    equal = sum(row["ours"]["difference"] <= 1e-5 for row in done)
    saved = sum(row["ours"]["saved"] == "yes" for row in done)

    def mid(found: list[dict[str, Any]], who: str, what: str) -> str:
        return f"{median(gone(row[who], what) for row in found):.1%}" if found else "-"

    times = median((row["ours"]["prune"] + row["ours"]["compact"]) / row["ours"]["forward"] for row in done)
    lines = [
        "# Half of the channels of networks that people have\n",
        f"Made by `python benchmarks/architectures.py` (torch {torch.__version__}, {torch.get_num_threads()} threads). "
        f"**{len(done)} of {len(rows)} pruned and compacted, {equal} of those equal to the masked network (1e-5 in "
        f"float64, another input), {saved} saved and opened without their class.** Torch-Pruning 1.6.1 as it comes: "
        f"{len(other)} of {len(rows)}, and of those {len(same)} give outputs of the same shape as before.\n",
        f"On the {len(both)} networks on which both work and keep their outputs, medians of what is gone: parameters "
        f"{mid(both, 'ours', 'parameters')} (Torch-Pruning {mid(both, 'theirs', 'parameters')}), FLOP "
        f"{mid(both, 'ours', 'flop')} ({mid(both, 'theirs', 'flop')}). Pruning and compaction together took "
        f"{times:.0f} forward passes (median). Less than Torch-Pruning by more than half a point: "
        f"{', '.join(less) or 'nowhere'}.\n",
        "Columns: gone = share of parameters / FLOP removed; s = seconds of pruning and compaction (forward passes of "
        "the same network on two examples); memory = most held beyond the network, in sizes of the network. TP = "
        "Torch-Pruning.\n",
        "| network | gone: parameters | FLOP | TP: parameters | TP: FLOP | s (forwards) | TP s | memory | difference | "
        "saved |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    family = ""
    for row in rows:
        mine, peer = row["ours"], row["theirs"]
        here = row["name"].partition("/")[0]
        if here != family:
            family = here
            lines.append(f"| **{family}** | | | | | | | | | |")
        tp = ("fails", "", "") if "error" in peer else (
            f"{gone(peer, 'parameters'):.1%}", f"{gone(peer, 'flop'):.1%}", f"{peer['seconds']:.1f}")  # fmt: skip
        if peer.get("outputs", "same") != "same":
            tp = (f"{tp[0]} (outputs {peer['outputs']})", *tp[1:])
        label = row["name"].partition("/")[2]
        if "error" in mine:
            lines.append(f"| {label} | {mine['error'][:160]} | | {tp[0]} | {tp[1]} | | {tp[2]} | | | |")
            continue
        seconds = mine["prune"] + mine["compact"]
        lines.append(
            f"| {label} | {gone(mine, 'parameters'):.1%} | {gone(mine, 'flop'):.1%} | {tp[0]} | {tp[1]} | "
            f"{seconds:.1f} ({seconds / mine['forward']:.0f}) | {tp[2]} | {mine['memory']:.1f} | "
            f"{mine['difference']:.0e} | "
            f"{'yes' if mine['saved'] == 'yes' else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help="one network, in this process")
    parser.add_argument("--peer", help="Torch-Pruning on one network, in this process")
    parser.add_argument("--only", default="", help="networks whose names begin like this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of architectures.md and .json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.one or given.peer:
        declare_torchvision()
        print(json.dumps(ours(given.one) if given.one else theirs(given.peer)))
        return
    names = [name for name in zoo.NAMES if name.startswith(given.only)]
    path = given.out / "architectures.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    known = {row["name"]: row for row in rows}
    for name in names:
        before = known.get(name)
        if before is not None and "error" not in before["ours"]:
            continue  # resumed
        peer = apart(__file__, "--peer", name, limit=LIMIT) if before is None else before["theirs"]
        known[name] = {"name": name, "ours": apart(__file__, "--one", name, limit=LIMIT), "theirs": peer}
        mine = known[name]["ours"]
        print(name, mine.get("error") or f"{gone(mine, 'parameters'):.1%} gone, {mine['difference']:.0e}", flush=True)
        rows = [known[each] for each in zoo.NAMES if each in known]
        path.write_text(json.dumps(rows, indent=1))
    (given.out / "architectures.md").write_text(table(rows))


if __name__ == "__main__":
    main()
