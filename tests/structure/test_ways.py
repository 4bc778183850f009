"""Networks whose values decide which code runs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actprune
from actprune import Budget, Channel, Pruner, magnitude
from actprune.errors import ObservationError
from actprune.structure import Structure


class Branching(nn.Module):
    """Behind ``a``, ``b`` or ``c``, by a threshold on the input; the size of a view is written in one of the ways."""

    def __init__(self, threshold=0.0):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.threshold = threshold

    def forward(self, x):
        y = F.relu(self.a(x))
        y = self.b(y) if float(x.sum()) >= self.threshold else self.c(y).view(len(x), 4, 4).reshape(len(x), 16)
        return self.head(F.relu(y))


X = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))


def half(model, **options):
    pruner = Pruner(model.eval(), magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer"), example=X)
    report = pruner.prune()
    result = actprune.compaction(model, pruner.state, example=X, **options)
    pruner.enforce()
    return report, result


@pytest.mark.parametrize("sign", [1, -1])
def test_ways_that_other_values_take_are_followed_and_compared(sign):
    torch.manual_seed(0)
    model = Branching()
    report, result = half(model)
    small = result.model
    assert not report.notes
    assert small.a.out_features == small.b.in_features == small.c.in_features == 8
    assert small.b.out_features == small.c.out_features == small.head.in_features == 8
    with torch.no_grad():
        assert torch.allclose(model(sign * X), small(sign * X), atol=1e-6)


def test_a_layer_that_nothing_reaches_stays_and_is_told():
    torch.manual_seed(0)
    model = Branching(threshold=-1e9)
    report, result = half(model)
    assert any(note.startswith("c.bias, c.weight: neither the example nor") for note in report.notes)
    assert any("not reached by the example" in line and "c.weight" in line for line in result.report.changes)
    assert result.model.c.in_features == 16
    with torch.no_grad():
        assert torch.allclose(model(X), result.model(X), atol=1e-6)


def test_evidence_that_an_unreached_layer_needs_is_asked_for():
    pruner = Pruner(Branching(-1e9).eval(), actprune.activation(budget=Budget.channels(0.5), unit=Channel()), example=X)
    with pytest.raises(ObservationError, match=r"skip=\['c'\]"), pruner.observe():
        pruner.model(X)
    pruner = Pruner(
        Branching(-1e9).eval(), actprune.activation(budget=Budget.channels(0.5), unit=Channel()), example=X, skip=["c"]
    )
    with pruner.observe():
        pruner.model(X)
    assert pruner.prune().actual >= 0.5


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_a_network_whose_parameters_are_all_read_is_run_once():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), Counting(4, 2))
    structure = Structure(model.eval(), (X,), {})
    assert model[2].calls == 1
    assert structure.unreached == []
    assert structure.record.first is None
