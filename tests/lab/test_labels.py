"""Few labels and counts without labels: who keeps a label, what is counted on, and what cannot be asked."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.errors import DataError, RecipeError
from actprune.lab import RunConfig, labels, resume, run
from actprune.lab.data import load
from actprune.lab.seeding import drawn
from actprune.lab.setup import build
from actprune.lab.train import calibrate

SMALL = {"model": "mlp", "hidden": (24, 16), "max_epochs": 3, "sparsity": 0.6, "schedule": "cubic", "pruning_steps": 2,
         "cubic_epochs": 2, "threads": 1, "batch_size": 64, "lr": 0.1}  # fmt: skip


def config(**changes):
    return RunConfig(**{**SMALL, **changes})


def evidence(folder):
    names = ("metrics.jsonl", "model.safetensors", "masks.safetensors")
    files = {name: (folder / name).read_bytes() for name in names}
    return files | {path.name: path.read_bytes() for path in (folder / "pruning_steps").iterdir()}


@given(st.integers(10, 900), st.integers(0, 50))
@settings(deadline=None, max_examples=15)
def test_equally_many_labels_of_every_class(count, seed):
    y = load("digits").train[1]
    chosen = labels.choose(y, 10, count, seed)
    assert len(chosen) == len(chosen.unique()) == count
    per_class = torch.bincount(y[chosen], minlength=10)
    assert per_class.max() - per_class.min() <= 1
    assert torch.equal(chosen, labels.choose(y, 10, count, seed))


def test_the_data_seed_chooses_the_labels_and_the_run_seed_does_not():
    first, second = (build(config(labels=50, seed=seed)) for seed in (0, 1))
    other = build(config(labels=50, data_seed=1))
    assert torch.equal(first.train[0], second.train[0])
    assert not torch.equal(first.train[0], other.train[0])


def test_labelled_and_unlabelled_are_the_training_set_and_nothing_else():
    whole, found = load("digits"), build(config(labels=100))
    assert len(found.train[0]) == len(found.train[1]) == 100
    together = torch.cat((found.train[0], found.unlabelled)).flatten(1)
    assert sorted(together.tolist()) == sorted(whole.train[0].flatten(1).tolist())
    assert torch.equal(found.validation[0], whole.validation[0])
    assert found.steps == build(config()).steps  # an epoch is as long as with all labels


@pytest.fixture
def two_versions(tmp_path, monkeypatch):
    """Import strings of digits, and of digits whose withheld labels are all wrong (for ``labels=60``)."""
    whole = load("digits")
    x, y = whole.train
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(labels.derived_seed(0, 0, "labels")))
    walked = y[order]
    full = min(range(10), key=lambda label: int((walked == label).nonzero()[5]))  # the class that is full first
    wrong = torch.full_like(y, full)
    chosen = labels.choose(y, 10, 60, 0)
    wrong[chosen] = y[chosen]
    assert (wrong != y).sum() > 1000
    torch.save({"x": x, "true": y, "wrong": wrong, "validation": whole.validation, "test": whole.test}, tmp_path / "d")
    (tmp_path / "two_versions.py").write_text(
        f"import torch\nd = torch.load({str(tmp_path / 'd')!r}, weights_only=True)\n"
        "def true():\n    return (d['x'], d['true']), d['test'], d['validation']\n"
        "def wrong():\n    return (d['x'], d['wrong']), d['test'], d['validation']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "two_versions:true", "two_versions:wrong"


@pytest.mark.parametrize("semi", ["none", "pseudo"])
def test_withheld_labels_are_read_by_nobody(tmp_path, two_versions, semi):
    found = [
        evidence(
            run(
                config(data=data, labels=60, semi=semi, calibration_from="unlabelled"), tmp_path / str(i), plots=False
            ).folder
        )
        for i, data in enumerate(two_versions)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["train", "validation", "unlabelled"])
def test_counts_come_from_the_images_that_were_named(where):
    setup = build(config(labels=100, calibration_from=where, method="activation"))
    calibrate(setup, 3, 40)
    pool = {"train": setup.train[0], "validation": setup.validation[0], "unlabelled": setup.unlabelled}[where]
    chosen = pool[drawn(len(pool), 40, 0, 3)]
    expected = (setup.model[:3](chosen) > 0).sum(0)
    counted = setup.pruner.state.sums["fc1.weight"]
    assert int(counted["rows"]) == 40
    assert torch.equal(counted["fired"], expected)


def test_a_method_that_counts_while_training_counts_on_drawn_images_instead(tmp_path):
    live = config(schedule="accuracy", start_at=0.3, retrain_to=0.6, max_epochs=4)
    assert build(live).recipe.count_on == "train"
    result = run(live.with_(calibration_from="validation", calibration_images=7), tmp_path / "run", plots=False)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["count_on"] == "observe"
    assert result.summary["pruning_steps_done"] > 0
    rows = {int(sums["rows"]) for sums in result.pruner.state_dict()["sums"].values()}
    assert all(count % 7 == 0 for count in rows)


def test_images_of_another_source_give_another_run(tmp_path):
    found = [
        evidence(run(config(labels=100, calibration_from=where), tmp_path / where, plots=False).folder)
        for where in ("train", "validation", "unlabelled")
    ]
    assert len({files["pruning-step-01.safetensors"] for files in found}) == 3


@pytest.mark.parametrize(
    "changes", [{"labels": 60, "calibration_from": "unlabelled"}, {"calibration_from": "validation"}]
)
def test_going_back_to_a_checkpoint_changes_nothing(tmp_path, changes):
    wanted = config(**changes)
    whole = evidence(run(wanted, tmp_path / "whole", plots=False).folder)
    run(wanted, tmp_path / "again", plots=False)
    assert evidence(resume(tmp_path / "again", checkpoint="pruning-step-01", plots=False).folder) == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration_from": "unlabelled"}, "labels=N"),
        (
            {"calibration_from": "validation", "options": {"count_on": "train"}},
            "live training batches are training images",
        ),
        ({"labels": 100, "calibration_from": "unlabelled", "method": "snip", "schedule": "before"}, "needs gradients"),
        ({"calibration_from": "test"}, "calibration_from='test' cannot be used"),
        ({"labels": 0}, "labels=0 cannot be used"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(config(**changes), tmp_path / "run", plots=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("count", "message"), [(9, "at least one"), (10_000, "fewer than there are"), (1290, "which has")]
)
def test_label_counts_that_cannot_be(count, message):
    with pytest.raises(DataError, match=message):
        build(config(labels=count))


def test_gradients_on_validation_images_are_allowed():
    setup = build(config(method="snip", schedule="before", calibration_from="validation"))
    calibrate(setup, 0, 16)
    setup.pruner.prune()
    assert setup.pruner.sparsity == pytest.approx(0.6, abs=0.01)
