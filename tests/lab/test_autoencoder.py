"""An autoencoder, pruned without any label: its loss, its score, what it reports and what it refuses."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from actprune.artifact import save
from actprune.errors import DataError, RecipeError
from actprune.lab import RunConfig, resume, run, shipped
from actprune.lab.cli.main import app
from actprune.lab.data import load
from actprune.lab.evaluate import evaluate
from actprune.lab.packing import pack_run
from actprune.lab.predict import predict
from actprune.lab.setup import build
from actprune.lab.task import Autoencode, Classify, task_of

SMALL = {"task": "autoencode", "model": "autoencoder", "hidden": (32, 12, 32), "optimizer": "adam", "lr": 0.003,
         "max_epochs": 4, "sparsity": 0.6, "schedule": "cubic", "pruning_steps": 2, "cubic_epochs": 2, "threads": 1,
         "batch_size": 32}  # fmt: skip


def config(**changes):
    return RunConfig(**{**SMALL, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(config(), tmp_path_factory.mktemp("autoencoder") / "run")


class Constant(nn.Module):
    """Answers the same to everything."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer.expand(len(x), -1)


def test_explained_variance_of_a_copy_is_one_and_of_the_mean_zero():
    data = load("digits")
    task = task_of("autoencode", data)
    copy = evaluate(nn.Flatten(), data.train, task=task)
    assert (copy.loss, copy.accuracy) == (0.0, 1.0)
    mean = evaluate(Constant(task.mean), data.train, task=task)
    assert mean.accuracy == pytest.approx(0.0, abs=1e-6)
    assert mean.loss == pytest.approx(float(data.train[0].flatten(1).var(0, correction=0).mean()), rel=1e-5)
    assert evaluate(Constant(task.mean + 1), data.train, task=task).accuracy < 0


def test_loss_and_score_do_not_depend_on_batches():
    data = load("digits")
    task = task_of("autoencode", data)
    x = data.train[0][:100]
    out = torch.rand(100, 64, generator=torch.Generator().manual_seed(0))
    whole = task.loss(out, x, None)
    assert task.loss(out, x, None, "sum") / 100 == pytest.approx(float(whole), rel=1e-5)
    parts = sum(task.tally(a, b, None) for a, b in zip(out.split(30), x.split(30), strict=True))
    assert torch.allclose(parts, task.tally(out, x, None), rtol=1e-6)


def test_classification_is_scored_as_before():
    out, y = torch.randn(50, 10, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 10
    task = Classify()
    assert torch.equal(task.loss(out, out, y), nn.functional.cross_entropy(out, y))
    assert task.score(task.tally(out, out, y), 50) == int((out.argmax(1) == y).sum()) / 50
    with pytest.raises(DataError, match="without labels"):
        task.loss(out, out, None)


def test_data_that_never_varies_is_refused():
    data = load("digits")
    flat = type(data)(**{**vars(data), "train": (torch.ones(9, 1, 8, 8), torch.zeros(9, dtype=torch.int64))})
    with pytest.raises(DataError, match="all training examples are equal"):
        task_of("autoencode", flat)


def test_a_run_says_what_its_figures_are(finished):
    found = json.loads((finished.folder / "summary.json").read_text())
    assert found["task"] == "autoencode"
    assert found["score_name"] == "explained variance"
    assert found["loss_name"] == "mean squared error per pixel"
    assert found["actual"] == pytest.approx(0.6, abs=0.01)
    x, y = load("digits").test
    task = task_of("autoencode", load("digits"))
    assert isinstance(task, Autoencode)
    again = evaluate(finished.model, (x, y), task=task)
    assert (found["test_loss"], found["test_accuracy"]) == (again.loss, again.accuracy)
    assert found["test_loss"] == pytest.approx(
        float((finished.model(x) - x.flatten(1)).square().mean().detach()), rel=1e-4
    )
    assert 0.2 < found["test_accuracy"] < 1


def test_it_learns_more_than_the_mean_and_pictures_it(finished):
    assert (finished.folder / "plots" / "reconstruction.png").stat().st_size > 1000
    assert "explained variance" in (finished.folder / "plots" / "training.svg").read_text()


@pytest.mark.parametrize("method", ["activation", "magnitude", "random", "apoz"])
def test_every_method_prunes_it_without_a_label(tmp_path, monkeypatch, method):
    whole = load("digits")
    parts = {"x": whole.train[0], "test": whole.test, "validation": whole.validation}
    torch.save(parts, tmp_path / "d")
    (tmp_path / f"labels_{method}.py").write_text(
        f"import torch\nd = torch.load({str(tmp_path / 'd')!r}, weights_only=True)\n"
        "def made(step):\n    n = len(d['x'])\n    y = torch.arange(n) // step % 10\n"
        "    part = lambda name: (d[name][0], y[:len(d[name][0])])\n"
        "    return (d['x'], y), part('test'), part('validation')\n"
        "def one():\n    return made(1)\ndef other():\n    return made(7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for version in ("one", "other"):
        wanted = config(data=f"labels_{method}:{version}", method=method, max_epochs=3)
        folder = run(wanted, tmp_path / version, plots=False).folder
        found.append([(folder / name).read_bytes() for name in ("model.safetensors", "masks.safetensors")])
    assert found[0] == found[1]


def test_prunings_can_wait_for_explained_variance(tmp_path):
    wanted = config(schedule="accuracy", start_at=0.2, retrain_to=0.5, max_epochs=12, stop_at=1.0, patience=0)
    summary = run(wanted, tmp_path / "run", plots=False).summary
    assert summary["pruning_steps_done"] == 2
    short = run(config(schedule="accuracy", start_at=0.98), tmp_path / "short", plots=False).summary
    assert "explained variance did not reach" in short["remark"]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, finished):
    run(config(), tmp_path / "again", plots=False)
    again = resume(tmp_path / "again", checkpoint="pruning-step-01", plots=False)
    for name in ("metrics.jsonl", "model.safetensors", "masks.safetensors"):
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_a_gradient_method_uses_the_reconstruction_error():
    from actprune.lab.train import calibrate

    setup = build(config(method="snip", schedule="before", calibration_from="validation"))
    calibrate(setup, 0, 16)
    setup.pruner.prune()
    assert setup.pruner.sparsity == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "article", "hidden": None}, DataError, "model='autoencoder'"),
        ({"task": "classify"}, DataError, r"\(batch, 10\)"),
        ({"labels": 100}, RecipeError, "reads no label"),
        ({"calibration_from": "unlabelled"}, RecipeError, "calibration_from='train'"),
        ({"task": "generate"}, RecipeError, "task='generate' cannot be used"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(config(**changes), tmp_path / "run", plots=False)


def test_shipping_an_autoencoder(tmp_path, finished):
    again = shipped.read(finished.folder)
    small = shipped.small(again)
    x = again.dataset.test[0][:5]
    assert torch.allclose(small.model(x), finished.model(x), atol=1e-5)
    path = save(small.model, tmp_path / "small.actprune", about=again.about())
    with pytest.raises(DataError, match="rebuilds its input"):
        predict(path, "digits", 1, 64, None)
    with pytest.raises(RecipeError, match="goes by accuracy"):
        pack_run(again, max_loss=0.1, epochs=0)


def test_the_terminal_says_explained_variance(tmp_path):
    arguments = ["run", "--task", "autoencode", "--model", "autoencoder", "--hidden", "16", "--optimizer", "adam",
                 "--lr", "0.003", "--schedule", "cubic", "--pruning-steps", "1", "--epochs", "2", "--no-plots",
                 "--calibration-from",
                 "validation", "--out", str(tmp_path / "run")]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "test explained variance" in result.output
    assert "accuracy" not in result.output
    # the output layer is left alone, and is half of the weights
    assert "an output layer, which this recipe" in " ".join(result.output.split())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["calibration_from"] == "validation"
