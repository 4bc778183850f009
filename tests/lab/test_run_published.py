"""The training loop carrying out what published methods want: rounds, rewound rates, shared values, surgery."""

import json

import pytest
import torch

from actprune.errors import RecipeError
from actprune.lab import RunConfig, resume, run
from actprune.lab.listener import Silent
from actprune.lab.recipe import recipe_of
from actprune.lab.setup import build
from actprune.lab.train import _rate
from actprune.schedules import Decaying, EqualSurvivors, OneShot

STEPS = 11  # an epoch of digits in batches of 128


def settings(**changes):
    base = {
        "data": "digits", "model": "mlp", "hidden": (24, 16), "max_epochs": 8, "batch_size": 128, "lr": 0.1,
        "lr_schedule": "cosine", "full_length": True, "patience": 0, "restore_best": False, "threads": 1,
        "pruning_steps": 3,
    }  # fmt: skip
    return RunConfig(**{**base, **changes})


def rates(tmp_path, **changes):
    """Learning rate of every epoch."""
    found = []

    class Watching(Silent):
        def stepped(self):
            found.append(None)

    from actprune.lab import train as module

    seen = []
    original = module._rate

    def spy(setup):
        seen.append(original(setup))
        return seen[-1]

    module._rate, result = spy, None
    try:
        result = run(settings(**changes), tmp_path / "run", plots=False, listener=Watching())
    finally:
        module._rate = original
    return seen, result


def test_every_round_of_a_lottery_ticket_has_the_whole_learning_rate_schedule(tmp_path):
    seen, result = rates(tmp_path, method="lottery", schedule="rounds", sparsity=0.7)
    assert seen == pytest.approx([0.1, 0.05] * 4)
    assert result.summary["pruning_steps_done"] == 3
    assert result.summary["steps"] == 8 * STEPS


def test_han_retrains_at_a_tenth_of_the_learning_rate(tmp_path):
    seen, _ = rates(tmp_path, method="han", schedule="rounds", lr_schedule="constant", sparsity=0.7)
    assert seen == pytest.approx([0.1, 0.1] + [0.01] * 6)


def test_late_rewinding_skips_the_beginning_of_the_schedule():
    setup = build(settings(method="lottery", schedule="rounds", options={"to_step": STEPS}, sparsity=0.7))
    setup.pruner.state.pruning_step = 1
    setup.pruner.state.step = setup.pruner.state.pruned_at = 2 * STEPS
    assert _rate(setup) == pytest.approx(0.05)  # the second of two epochs


def test_schedules_of_a_run():
    assert recipe_of(settings(schedule="once", cubic_epochs=3), 10, 500).schedule == OneShot(31)
    assert recipe_of(settings(method="lottery", schedule="rounds"), 10, 500).schedule == EqualSurvivors(3, 20)
    surgery = recipe_of(settings(method="dns", schedule="decaying", seed=4), 10, 500).schedule
    assert surgery == Decaying(11, 60, 30, every=16, seed=4)
    with pytest.raises(RecipeError, match="multiple of 5"):
        recipe_of(settings(schedule="rounds", pruning_steps=4), 10, 500)
    with pytest.raises(RecipeError, match="no epoch is left"):
        recipe_of(settings(schedule="once", cubic_epochs=8), 10, 500)
    with pytest.raises(RecipeError, match="no epoch is left"):
        recipe_of(settings(method="dns", schedule="decaying", max_epochs=1, cubic_epochs=None), 10, 500)


def test_full_length_ignores_the_accuracy_that_would_end_a_run(tmp_path):
    easy = {"method": "magnitude", "schedule": "before", "sparsity": 0.1, "stop_at": 0.2, "max_epochs": 4}
    assert run(settings(**easy), tmp_path / "full", plots=False).summary["epochs"] == 4
    assert run(settings(**easy, full_length=False), tmp_path / "short", plots=False).summary["epochs"] < 4


def test_deep_compression_ends_with_shared_values_and_counts_their_bytes(tmp_path):
    config = settings(
        method="deep_compression", schedule="rounds", sparsity=0.8, max_epochs=12, pruning_steps=2,
        options={"bits": [["fc1*", 3], ["*", 4]], "tune_epochs": 2},
    )  # fmt: skip
    result = run(config, tmp_path / "run", plots=False)
    state = result.model.state_dict()
    assert len(state["fc1.weight"].unique()) <= 9  # 2^3 values and zero
    assert len(state["fc2.weight"].unique()) <= 17
    for name, mask in result.pruner.masks.items():
        assert not state[name][~mask].any()
    weights = 64 * 24 + 24 * 16 + 16 * 10
    assert 200 < result.summary["storage_bytes"] < weights  # less than a byte per weight, 4 before
    assert result.summary["epochs"] == 10
    assert result.summary["steps"] == 12 * STEPS
    again = resume(tmp_path / "run", plots=False)  # the phase is done again from the end of training
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())
    assert again.summary["storage_bytes"] == result.summary["storage_bytes"]


def test_sharing_needs_bits_for_every_layer(tmp_path):
    config = settings(method="deep_compression", schedule="rounds", options={"bits": [["fc1*", 3]], "tune_epochs": 1})
    with pytest.raises(RecipeError, match=r"names no bits for 'fc2.weight'"):
        run(config, tmp_path / "run", plots=False)


@pytest.mark.parametrize("method", ["dns", "lottery", "han"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, method):
    class StopError(Exception):
        pass

    class Killer(Silent):
        def epoch_done(self, row):
            if row["epoch"] == 5:
                raise StopError

    config = settings(method=method, schedule="decaying" if method == "dns" else "rounds", sparsity=0.8)
    whole = run(config, tmp_path / "whole", plots=False)
    with pytest.raises(StopError):
        run(config, tmp_path / "cut", plots=False, listener=Killer())
    cut = resume(tmp_path / "cut", plots=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True)
    )
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    assert json.loads(rows[0].splitlines()[-1])["sparsity"] == pytest.approx(0.8, abs=0.01)


def test_a_schedule_of_steps_that_is_too_long_is_not_blamed_on_accuracy(tmp_path):
    config = RunConfig(method="lottery", schedule="own", model="mlp", hidden=(16,), max_epochs=1, threads=1)
    remark = run(config, tmp_path / "run", plots=False).summary["remark"]
    assert remark.startswith("0 of 9 pruning steps done: the run ended by 'max epochs'")
    assert "threshold" not in remark
