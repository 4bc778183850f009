"""Before and after: counted by hand, timed in turns."""

import pytest
import torch
from torch import nn

import actprune
from actprune.errors import ModelError


def nets():
    before = nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 4))
    after = nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4))
    return before.train(), after.train()


def test_counts_are_those_of_one_example():
    before, after = nets()
    found = actprune.beside(before, after, torch.randn(3, 8), seconds=0.01)
    assert found.parameters == (8 * 40 + 40 + 80 + 164, 8 * 10 + 10 + 20 + 44)
    assert found.bytes == (4 * (604 + 80) + 8, 4 * (154 + 20) + 8)  # running sums, and a count of batches
    assert found.flop == (2 * (320 + 160), 2 * (80 + 40))
    assert found.examples == 3
    assert found.speedup == found.seconds[0] / found.seconds[1] > 0
    assert before.training
    assert int(before[1].num_batches_tracked) == 0


def test_the_table_says_what_is_left():
    before, after = nets()
    lines = str(actprune.beside(before, after, torch.randn(3, 8), seconds=0.01)).splitlines()
    assert [line.split()[0] for line in lines] == ["before", "parameters", "bytes", "FLOP", "latency"]
    assert lines[1].split() == ["parameters", "604", "154", "25.5%"]
    assert lines[3].split() == ["FLOP", "960", "240", "25.0%"]


def test_keywords_and_models_that_do_not_take_them():
    before, after = nets()
    assert actprune.beside(before, after, {"input": torch.randn(2, 8)}, seconds=0.01).examples == 2
    with pytest.raises(ModelError, match=r"fails on the example itself, of shape \(2, 7\)"):
        actprune.beside(before, after, torch.randn(2, 7))
