"""`actprune run` from Python: what a run computes, what it writes, and what it says when something is wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import actprune
import actprune.lab
from actprune.accounting import dense_flop
from actprune.coupled import Channel
from actprune.errors import DataError, ModelError
from actprune.lab import RunConfig, atomic, run, shipped
from actprune.rank.units import Neuron
from actprune.schedules import AccuracyTriggered, LayerByLayer
from support.runs import QUICK, go, quick


def test_digits_at_ninety_percent_keeps_its_accuracy(tmp_path):
    result = run(RunConfig(threads=1, seed=1), tmp_path / "run")
    found = result.summary
    assert found["pruning_steps_done"] == found["pruning_steps_planned"] == 5
    assert found["target"] == 0.9
    assert abs(found["actual"] - 0.9) < 0.001
    assert found["compression"] == pytest.approx(1 / (1 - found["sparsity"])) == pytest.approx(104700 / 10920, abs=0.1)
    assert found["test_accuracy"] > 0.92  # 95.0 to 97.5 % over seeds 0..9
    assert found["train_accuracy"] > 0.96  # 98.4 to 99.2 %
    assert found["dense"]["epoch"] < found["epochs"]
    masks = load_file(result.folder / "masks.safetensors")
    weights = load_file(result.folder / "model.safetensors")
    assert set(masks) == {"fc1.weight", "fc2.weight", "fc3.weight", "fc4.weight"}  # the output layer is left alone
    for name, mask in masks.items():
        assert not weights[name][~mask.bool()].any()
        assert torch.equal(weights[name], result.model.get_parameter(name))
    removed = 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
    assert removed == pytest.approx(found["actual"])
    names = {path.name for path in (result.folder / "plots").iterdir()}
    assert names == {
        f"{name}.{kind}" for name in ("training", "firing", "survival", "neurons") for kind in ("svg", "png")
    }


def test_the_folder_says_what_happened(tmp_path):
    result = go(tmp_path)
    folder = result.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, result.summary["epochs"] + 1))
    pruned = [row for row in rows if row["pruned"]]
    assert [row["pruning"]["pruning_step"] for row in pruned] == [1, 2]
    assert all(row["train_accuracy"] >= bar for row, bar in zip(pruned, (0.5, 0.7), strict=True))
    assert pruned[-1]["actual"] == pytest.approx(0.5, abs=0.01)
    assert pruned[-1]["sparsity"] == pruned[-1]["pruning"]["network"]["sparsity"] < pruned[-1]["actual"]
    assert RunConfig(**json.loads((folder / "config.json").read_text())) == quick()
    recipe = actprune.recipes.from_dict(json.loads((folder / "recipe.json").read_text()))
    assert recipe == result.pruner.recipe
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["threads"] == 1
    assert environment["torch"] == torch.__version__
    assert json.loads((folder / "summary.json").read_text()) == atomic.finite(result.summary)
    counts = load_file(folder / "pruning_steps" / "pruning-step-01.safetensors")
    assert int(counts["fc1.weight/rows"]) == rows.index(pruned[0]) * 1293 + 1293  # every training example, every epoch
    assert int(counts["fc1.weight/fan_in"]) == 64
    assert {path.stem for path in (folder / "checkpoints").iterdir()} == {"last", "pruning-step-01", "pruning-step-02"}


def test_equal_settings_give_equal_bits_and_leave_the_global_rng_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = run(quick(), tmp_path / "a", plots=False)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    second = run(quick(), tmp_path / "b", plots=False)
    third = run(quick(seed=5), tmp_path / "c", plots=False)
    states = [result.model.state_dict() for result in (first, second, third)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("method", [name for name in actprune.methods.names() if name != "slimming"])
def test_every_method_runs_with_the_same_training(tmp_path, method):
    before = method == "grasp"  # what it keeps of a trained network, whose gradient is gone, does not train on
    result = go(tmp_path, method=method, **({"schedule": "before"} if before else {}))
    assert result.summary["pruning_steps_done"] == (1 if before else 2)
    follows = result.pruner.recipe.budget.kind == "threshold"  # its sparsity follows from the weights
    if (
        method != "activation_literal" and not follows
    ):  # that one counts the output layer, and removes dead weights on top
        masks = list(result.pruner.masks.values())
        whole = isinstance(
            getattr(result.pruner.recipe, "unit", None), (Neuron, Channel)
        )  # overshoots by less than its largest unit
        unit = max(mask[0].numel() for mask in masks) / sum(mask.numel() for mask in masks)
        slack = max(0.02, unit if whole else 0)
        assert 0.5 - 0.02 <= result.summary["actual"] <= 0.5 + slack
    assert result.summary["test_accuracy"] > (0.2 if follows else 0.5)


def test_coupled_channels_by_a_budget_of_what_is_left(tmp_path):
    """The model of somebody else, whose norms have scales; what the summary says is what the small network lacks."""
    options = {"unit": "channel(round_to=2)", "budget": "flop(0.5)"}
    config = {"model": "support.nets:normed", "options": options, "max_epochs": 4, "schedule": "cubic"}
    values = {key: value for key, value in QUICK.items() if key not in ("hidden", "sparsity")}
    for method in ("slimming", "activation"):
        result = run(RunConfig(**{**values, **config, "method": method}), tmp_path / method, plots=False)
        assert 0.5 <= result.summary["actual"] < 0.65
        assert result.summary["pruning_steps_done"] == 2
        small = shipped.small(shipped.read(tmp_path / method))
        before = dense_flop(result.model, ((torch.zeros(1, 1, 8, 8),), {}), 1)
        after = dense_flop(small.model, ((torch.zeros(1, 1, 8, 8),), {}), 1)
        assert 1 - sum(after.values()) / sum(before.values()) == pytest.approx(result.summary["actual"], abs=0.02)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_precisions(tmp_path, precision):
    result = go(tmp_path, precision=precision, max_epochs=20)
    assert result.summary["pruning_steps_done"] == 2
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "bf16-mixed": torch.float32}[precision]
    assert result.model.get_parameter("fc1.weight").dtype == dtype
    assert result.summary["test_accuracy"] > 0.5


def test_local_literal_scope_prunes_one_layer_per_pruning_step(tmp_path):
    result = go(
        tmp_path, method="activation_literal", options={"scope": "layer", "remove_dead": False}, hidden=(24, 16, 12)
    )
    assert result.pruner.recipe.schedule == LayerByLayer(0.5)
    assert result.summary["pruning_steps_planned"] == 3
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    touched = [
        [layer["name"] for layer in row["pruning"]["layers"] if layer["kept"] < layer["total"]]
        for row in rows
        if row["pruned"]
    ]
    assert [len(names) for names in touched] == list(range(1, len(touched) + 1))


def test_snip_before_training(tmp_path):
    result = go(tmp_path, method="snip", schedule="before", sparsity=0.8)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["epoch"] == 0
    assert rows[0]["pruned"]
    assert rows[0]["train_accuracy"] is None
    assert rows[-1]["sparsity"] == pytest.approx(0.8, abs=0.001)
    assert result.summary["dense"]["epoch"] == 0


def test_cubic_schedule_prunes_between_epochs(tmp_path):
    result = go(tmp_path, method="activation", schedule="cubic", pruning_steps=3, cubic_epochs=6, stop_at=1.0)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["pruned"]] == [3, 5, 7]  # after the first step of these
    assert [round(row["actual"], 2) for row in rows if row["pruned"]] == [0.35, 0.48, 0.5]  # 0.5 (1 - (1 - i/3)^3)
    assert result.summary["dense"]["epoch"] == 2


def test_a_recipe_of_ones_own_is_stored(tmp_path):
    recipe = actprune.magnitude(0.6, scope="layer", schedule=AccuracyTriggered(1, 0.5, 0.9))
    result = run(quick(), tmp_path / "run", recipe=recipe, plots=False)
    assert result.pruner.recipe == recipe
    assert all(abs(row["kept"] - 0.4 * row["total"]) < 1 for row in result.summary["layers"])


def test_pruning_steps_that_were_not_reached_are_named(tmp_path):
    result = go(tmp_path, max_epochs=1, start_at=0.89)
    assert result.summary["stopped_by"] == "max epochs"
    assert "0 of 2 pruning steps done" in result.summary["remark"]
    assert result.summary["actual"] == 0


OWN = """
import torch
from torch import nn

def data():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 3, 6, 6, generator=g), torch.randint(0, 4, (300,), generator=g)
    x[torch.arange(300), 0, y, y] += 6
    return (x[:200], y[:200]), (x[200:], y[200:])

def wrong_shape():
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 20), nn.ReLU(), nn.Linear(20, 4))

def nothing_to_prune(shape, classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, classes))

class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(shape[0], 8, 3), nn.BatchNorm2d(8)
        self.drop, self.out = nn.Dropout(0.1), nn.Linear(8 * 16, classes)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))
"""


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_own_model_and_data(tmp_path, own):
    result = go(tmp_path, data=f"{own}:data", model=f"{own}:Net", hidden=None, lr=0.02, options={"score": "neuron"})
    assert result.summary["pruning_steps_done"] == 2
    assert result.summary["test_accuracy"] > 0.6
    conv = next(row for row in result.summary["layers"] if row["name"] == "conv.weight")
    assert conv["kept"] == 27 * conv["neurons_alive"]  # whole channels


def test_wrong_image_shape(tmp_path, own):
    with pytest.raises(DataError, match=r"shape \(3, 6, 6\).*fails on an input \(2, 3, 6, 6\)"):
        go(tmp_path, data=f"{own}:data", model=f"{own}:wrong_shape", hidden=None)


def test_a_model_without_hidden_layers(tmp_path, own):
    with pytest.raises(ModelError, match=r"nothing to prune.*output layers"):
        go(tmp_path, data=f"{own}:data", model=f"{own}:nothing_to_prune", hidden=None)


def test_labels_out_of_range(tmp_path):
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 4
    path = tmp_path / "bad.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y + 1)
    with pytest.raises(DataError, match=r"test: label 4 at index 3 .* expected integers 0..3"):
        go(tmp_path, data=str(path))
