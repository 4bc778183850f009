"""The training loop: early ends, divergence, order and sizes of batches."""

import json

import pytest
import torch

from actprune.errors import ModelError
from actprune.lab import run
from actprune.lab.seeding import derived_seed, drawn, epoch_order
from actprune.lab.stopping import Patience
from actprune.lab.train import batch_sizes
from support.runs import go, quick


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
