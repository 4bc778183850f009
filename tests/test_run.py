"""`actprune run` from Python: what a run computes, what it writes, and what it says when something is wrong."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import actprune
import actprune.lab
from actprune.errors import CheckpointError, DataError, ModelError, RecipeError
from actprune.lab import RunConfig, atomic, lock, run
from actprune.lab.recipe import recipe_of
from actprune.lab.seeding import derived_seed, drawn, epoch_order
from actprune.lab.stopping import Patience
from actprune.lab.train import batch_sizes
from actprune.schedules import AccuracyTriggered, Cubic, LayerByLayer, OneShot

QUICK = {
    "model": "mlp", "hidden": (24, 16), "lr": 0.1, "batch_size": 32, "max_epochs": 12, "pruning_steps": 2,
    "start_at": 0.5,
    "retrain_to": 0.9, "sparsity": 0.5, "threads": 1,
}  # fmt: skip


def quick(**changes):
    return RunConfig(**{**QUICK, **changes})


def go(tmp_path, **changes):
    return run(quick(**changes), tmp_path / "run", plots=False)


# ---- the founding method on real images ----------------------------------------------------------------------------


def test_digits_at_ninety_percent_keeps_its_accuracy(tmp_path):
    result = run(RunConfig(threads=1, seed=1), tmp_path / "run")
    found = result.summary
    assert found["pruning_steps_done"] == found["pruning_steps_planned"] == 5
    assert found["target"] == 0.9
    assert abs(found["actual"] - 0.9) < 0.001
    assert found["compression"] == pytest.approx(1 / (1 - found["actual"]))
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
    assert names == {f"{name}.{kind}" for name in ("training", "firing", "survival") for kind in ("svg", "png")}


def test_the_folder_says_what_happened(tmp_path):
    result = go(tmp_path)
    folder = result.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, result.summary["epochs"] + 1))
    pruned = [row for row in rows if row["pruned"]]
    assert [row["pruning"]["pruning_step"] for row in pruned] == [1, 2]
    assert all(row["train_accuracy"] >= bar for row, bar in zip(pruned, (0.5, 0.7), strict=True))
    assert pruned[-1]["sparsity"] == pytest.approx(0.5, abs=0.01)
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


@pytest.mark.parametrize("method", actprune.methods.names())
def test_every_method_runs_with_the_same_training(tmp_path, method):
    result = go(tmp_path, method=method)
    assert result.summary["pruning_steps_done"] == 2
    follows = result.pruner.recipe.budget.kind == "threshold"  # its sparsity follows from the weights
    if (
        method != "activation_literal" and not follows
    ):  # that one counts the output layer, and removes dead weights on top
        assert result.summary["actual"] == pytest.approx(0.5, abs=0.02)
    assert result.summary["test_accuracy"] > (0.2 if follows else 0.5)


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
    assert [round(row["sparsity"], 2) for row in rows if row["pruned"]] == [0.35, 0.48, 0.5]  # 0.5 (1 - (1 - i/3)^3)
    assert result.summary["dense"]["epoch"] == 2


def test_a_recipe_of_ones_own_is_stored(tmp_path):
    recipe = actprune.magnitude(0.6, scope="layer", schedule=AccuracyTriggered(1, 0.5, 0.9))
    result = run(quick(), tmp_path / "run", recipe=recipe, plots=False)
    assert result.pruner.recipe == recipe
    assert all(abs(row["kept"] - 0.4 * row["total"]) < 1 for row in result.summary["layers"])


# ---- when a run ends ------------------------------------------------------------------------------------------------


def test_pruning_steps_that_were_not_reached_are_named(tmp_path):
    result = go(tmp_path, max_epochs=1, start_at=0.89)
    assert result.summary["stopped_by"] == "max epochs"
    assert "0 of 2 pruning steps done" in result.summary["remark"]
    assert result.summary["actual"] == 0


def test_the_best_epoch_after_the_last_pruning_is_taken(tmp_path):
    result = go(tmp_path, stop_at=1.0, max_epochs=15, patience=0)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    last = max(row["epoch"] for row in rows if row["pruned"])
    losses = {row["epoch"]: row["validation_loss"] for row in rows if row["epoch"] > last}
    assert result.summary["weights_from_epoch"] == min(losses, key=losses.get)
    assert result.summary["validation_loss"] == pytest.approx(min(losses.values()), rel=1e-5)
    final = run(quick(stop_at=1.0, max_epochs=15, patience=0, restore_best=False), tmp_path / "last", plots=False)
    assert final.summary["weights_from_epoch"] == 15
    assert final.summary["validation_loss"] == pytest.approx(rows[-1]["validation_loss"], rel=1e-5)


def test_patience_counts_ticks_as_the_founding_code_does():
    after = [Patience()]
    for loss in (1.0, 1.2, 1.3, 1.25, 1.05, 1.2, 1.3, 1.4):
        after.append(after[-1].seen(loss))
    # tick, tick, above the bar but falling: unchanged, below the bar: cleared, then three ticks
    assert [state.ticks for state in after[1:]] == [0, 1, 2, 2, 0, 1, 2, 3]
    assert after[-1].best == 1.0


def test_early_stopping_ends_a_run(tmp_path):
    result = go(tmp_path, patience=1, patience_from="start", lr=3.0, max_epochs=12, start_at=0.9)
    assert result.summary["stopped_by"] == "early stopping"
    assert result.summary["epochs"] < 12


def test_divergence_is_an_error_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"diverged in epoch \d+: the loss is .* smaller learning rate"):
        go(tmp_path, lr=1e18, method="magnitude", start_at=0.9)
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


# ---- pure parts -----------------------------------------------------------------------------------------------------


def test_order_and_draws_depend_on_seed_and_epoch_alone():
    assert torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    assert not torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 3))
    assert not torch.equal(epoch_order(50, 1, 2), epoch_order(50, 2, 1))
    assert torch.equal(epoch_order(50, 1, 2).sort().values, torch.arange(50))
    assert drawn(10, 32, 0, 1).shape == (32,)
    assert drawn(10, 32, 0, 1).max() < 10
    seeds = {derived_seed(seed, epoch, what) for seed in range(9) for epoch in range(9) for what in ("a", "b")}
    assert len(seeds) == 162


@pytest.mark.parametrize(("count", "size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1])])
def test_no_batch_of_one_example(count, size, sizes):
    assert batch_sizes(count, size) == sizes


def test_the_accuracy_schedule_is_given_to_every_method():
    config = quick(sparsity=0.9, seed=7)
    for method in actprune.methods.names():
        recipe = recipe_of(config.with_(method=method), 10, 500)
        assert recipe.schedule == AccuracyTriggered(2, 0.5, 0.9)
        assert recipe.budget.kind == "threshold" or recipe.budget.value == 0.9
        assert recipe.seed == 7
    assert recipe_of(config.with_(pruning_steps=1), 10, 500).schedule == AccuracyTriggered(1, 0.5, 0.9)
    assert recipe_of(config.with_(schedule="before"), 10, 500).schedule == OneShot()
    assert recipe_of(config.with_(schedule="cubic", cubic_epochs=4), 10, 500).schedule == Cubic(1, 41, 20)


# ---- wrong settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 90}, r"sparsity=90 cannot be used; expected less than 1; .* write 0.9 for 90 %"),
        ({"sparsity": -0.1}, r"sparsity=-0.1 cannot be used; expected greater than or equal to 0"),
        (
            {"optimizer": "adamv"},
            r"optimizer='adamv' cannot be used; expected 'sgd', 'adam' or 'adamw'; did you mean 'adam",
        ),
        ({"lr": "fast"}, r"lr='fast' cannot be used; expected a valid number"),
        ({"lr": float("nan")}, r"lr=nan cannot be used"),
        ({"epochs": 3}, r"unknown run setting 'epochs'; did you mean 'max_epochs'"),
        ({"start_at": 0.95}, r"start_at=0.95 lies above retrain_to=0.9"),
        ({"hidden": (10, "x")}, r"hidden='x' cannot be used|hidden=.* cannot be used"),
        ({"batch_size": 0}, r"batch_size=0 cannot be used"),
    ],
)
def test_wrong_settings_name_field_value_and_remedy(changes, message):
    with pytest.raises(RecipeError, match=message):
        quick(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "activaton"}, "unknown method 'activaton'; did you mean 'activation'"),
        ({"options": {"scor": "neuron"}}, "unknown option of method activation 'scor'; did you mean 'score'"),
        ({"options": {"sparsity": 0.5}}, "a setting of the run itself"),
        (
            {"options": {"score": "neurons"}},
            "score of method activation: 'neurons' .* expected 'neuron' or 'neuron_weight'",
        ),
        ({"options": {"keep_at_least": "many"}}, "keep_at_least of method activation: 'many' .* a valid integer"),
        ({"options": {"unit": "neurons"}}, r"'neurons' cannot be used; expected .*'neuron', 'block\(1, 4\)'"),
        ({"options": {"unit": {"type": "Neurom"}}}, "did you mean 'Neuron'"),
        ({"schedule": "cubic", "pruning_steps": 9}, "pruning_steps <= cubic_epochs < max_epochs"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"model": "mpl"}, "did you mean 'mlp'"),
        ({"model": "lenet-5-caffe", "hidden": None}, "at least 16x16"),
    ],
)
def test_what_does_not_exist_is_said_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(actprune.ActpruneError, match=message):
        go(tmp_path, **changes)
    assert not (tmp_path / "run").exists()


# ---- the user's own data and model ---------------------------------------------------------------------------------

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


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_holds_one_run(tmp_path):
    first = go(tmp_path)
    with pytest.raises(CheckpointError, match="holds a finished run; choose another folder"):
        go(tmp_path)
    (first.folder / "summary.json").unlink()
    with pytest.raises(CheckpointError, match="an unfinished run; `actprune resume` goes on"):
        go(tmp_path)
    again = run(quick(seed=9), tmp_path / "run", overwrite=True, plots=False)
    assert again.summary["seed"] == 9
    assert len((again.folder / "metrics.jsonl").read_text().splitlines()) == again.summary["epochs"]


def test_a_folder_with_other_files_is_never_touched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds other files \(.*thesis.tex.*\) and no run"):
        run(quick(), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        lock.locked(tmp_path / "run"),
        pytest.raises(CheckpointError, match=rf"in use by another run \(process {os.getpid()}\)"),
    ):
        go(tmp_path)
    assert go(tmp_path).summary["pruning_steps_done"] == 2  # the lock is gone with its holder


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot write .*run: (File exists|Not a directory)"):
        go(tmp_path)


def test_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    reference = run(quick(), tmp_path / "reference", plots=False)
    real, room = os.fsync, [25]

    def fsync(handle):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(CheckpointError, match=r"cannot write .*No space left on device; free space"):
            go(tmp_path)
    files = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not any(name.endswith(".tmp") for name in files)
    resumed = actprune.lab.resume(tmp_path / "run", plots=False)
    assert 0 < resumed.summary["epochs"] == reference.summary["epochs"]
    for name, tensor in reference.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
