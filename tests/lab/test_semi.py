"""Pseudo-labels: the loss, its ramp, equal numbers of steps, and a resume that changes nothing."""

import math

import pytest
import torch
from torch.nn import functional as F

from actprune.errors import RecipeError
from actprune.lab import RunConfig, resume, run, semi
from actprune.lab.setup import build

SMALL = {"model": "mlp", "hidden": (32, 16), "max_epochs": 5, "sparsity": 0.6, "schedule": "cubic", "pruning_steps": 2,
         "cubic_epochs": 4, "threads": 1, "batch_size": 32, "lr": 0.05, "labels": 40}  # fmt: skip


def config(**changes):
    return RunConfig(**{**SMALL, **changes})


def evidence(folder):
    names = ("metrics.jsonl", "model.safetensors", "masks.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_weight_waits_rises_and_stays():
    found = [semi.weight(epoch, 20) for epoch in range(1, 21)]
    assert found[:3] == [0.0, 0.0, 0.0]
    assert found == sorted(found)
    assert math.isclose(found[7], semi.WEIGHT / 2)
    assert set(found[12:]) == {semi.WEIGHT}


def test_the_loss_is_cross_entropy_against_the_largest_output():
    out = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 5.0]], requires_grad=True)
    found = semi.loss(out)
    assert torch.equal(found, F.cross_entropy(out, torch.tensor([0, 2])))
    found.backward()
    assert out.grad[0, 0] < 0  # what was believed is believed more


def test_an_epoch_takes_every_unlabelled_example_before_any_twice():
    assert sorted(semi.order(30, 30, 0, 1).tolist()) == list(range(30))
    twice = semi.order(30, 50, 0, 1)
    assert len(twice) == 50
    assert torch.bincount(twice).max() == 2
    assert not torch.equal(twice, semi.order(30, 50, 0, 2))


def test_the_same_number_of_steps_with_and_without(tmp_path):
    found = {
        kind: run(
            config(semi=kind, patience=0, stop_at=1.0, max_epochs=3, cubic_epochs=2), tmp_path / kind, plots=False
        )
        for kind in ("none", "pseudo")
    }
    assert found["none"].summary["steps"] == found["pseudo"].summary["steps"] == 3 * build(config()).steps


def test_unlabelled_images_change_what_is_learnt_once_their_weight_rises(tmp_path):
    found = {kind: run(config(semi=kind), tmp_path / kind, plots=False).folder for kind in ("none", "pseudo")}
    lines = {kind: (folder / "metrics.jsonl").read_text().splitlines() for kind, folder in found.items()}
    assert lines["none"][0] == lines["pseudo"][0]  # weight 0: not even a bit
    assert lines["none"][-1] != lines["pseudo"][-1]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    wanted = config(semi="pseudo", method="activation", calibration_from="unlabelled")
    whole = evidence(run(wanted, tmp_path / "whole", plots=False).folder)
    run(wanted, tmp_path / "again", plots=False)
    for checkpoint in ("pruning-step-01", "pruning-step-02"):
        assert evidence(resume(tmp_path / "again", checkpoint=checkpoint, plots=False).folder) == whole


def test_pseudo_labels_need_images_without_labels(tmp_path):
    with pytest.raises(RecipeError, match="labels=N"):
        run(config(semi="pseudo", labels=None), tmp_path / "run", plots=False)
    with pytest.raises(RecipeError, match="semi='mixup' cannot be used"):
        config(semi="mixup")
