"""Dynamic network surgery: thresholds, splicing, resume, updates that become rarer."""

import pytest
import torch
from torch import nn

import actprune
from actprune import methods
from actprune.errors import BudgetError, LayerCollapseError, RecipeError
from actprune.schedules import Decaying, EqualSurvivors, OneShot
from actprune.types import Progress
from support.nets import given
from support.training import stepped

FIRST, SECOND = [[1.0, -2.0], [3.0, 4.0]], [[0.5, -0.1]]


def test_surgery_thresholds_are_frozen_and_have_a_band():
    model = given([[1.0, 2.0, 3.0, 6.0]], [[1.0]])
    recipe = methods.dns_thresholds(0.0, schedule=EqualSurvivors(9), skip_output=True)  # t = mean |w| = 3
    pruner = actprune.Pruner(model, recipe)
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[False, False, True, True]]  # 3 > 0.9 t: it stays
    hidden = pruner.state.dense["0.weight"]
    assert hidden.tolist() == [[1.0, 2.0, 3.0, 6.0]]
    assert model[0].weight.tolist() == [[0.0, 0.0, 3.0, 6.0]]
    hidden.copy_(torch.tensor([[3.2, 3.4, 0.0, 0.0]]))
    with torch.no_grad():
        model[0].weight[0, 2] = 2.65
    pruner.prune()
    # the mean has changed, t has not: 3.2 <= 3.3 stays out, 3.4 > 3.3 returns, 2.65 <= 2.7 goes
    assert pruner.masks["0.weight"].tolist() == [[False, True, False, True]]
    assert model[0].weight[0].tolist() == pytest.approx([0.0, 3.4, 0.0, 6.0])


def test_surgery_gives_pruned_weights_the_full_gradient_of_the_masked_network():
    model = given([[1.0, 5.0], [6.0, 2.0]], [[1.0, 1.0]])
    pruner = actprune.Pruner(model, methods.dns(0.5, schedule=OneShot(), keep_at_least=0, skip_output=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    pruner.attach(optimizer)
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[False, True], [True, False]]
    inputs = torch.tensor([[1.0, 2.0]])
    stepped(pruner, model, optimizer, inputs)
    # all neurons fire, dL/dw_ij = v_i x_j = x_j; v has moved by its own gradient, the neurons' outputs 10 and 6
    assert pruner.state.dense["0.weight"].tolist() == [[0.5, 4.0], [5.5, 1.0]]
    assert model[0].weight.tolist() == [[0.0, 4.0], [5.5, 0.0]]
    assert model[2].weight.tolist() == [[-4.0, -2.0]]


def test_surgery_lets_a_weight_come_back_with_its_own_value():
    model = given([[1.0, 3.0, 4.0, 5.0]], [[1.0]])
    recipe = methods.dns(0.5, schedule=EqualSurvivors(2), skip_output=True, keep_at_least=0)
    pruner = actprune.Pruner(model, recipe)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pruner.attach(optimizer)
    pruner.prune(0.5)
    stepped(pruner, model, optimizer, torch.tensor([[-9.0, 0.0, 3.0, 0.0]]))  # the first gains 9, the third loses 3
    pruner.prune(0.5)
    assert pruner.masks["0.weight"].tolist() == [[True, False, False, True]]
    assert model[0].weight.tolist() == [[10.0, 0.0, 0.0, 5.0]]


def test_surgery_resumes_bit_for_bit():
    def begun():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        schedule = Decaying(1, 12, ramp=6, every=2, gamma=0.1)
        pruner = actprune.Pruner(model, methods.dns(0.6, schedule=schedule))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, pruner, optimizer

    batches = torch.randn(20, 5, 6, generator=torch.Generator().manual_seed(2))
    model, pruner, optimizer = begun()
    pruner.attach(optimizer)
    for number, batch in enumerate(batches):
        if number == 7:
            kept = model.state_dict(), pruner.state_dict(), optimizer.state_dict()
            kept = torch.load(_saved(kept), weights_only=True)
        stepped(pruner, model, optimizer, batch)
    other, second, again = begun()
    other.load_state_dict(kept[0])
    second.load_state_dict(kept[1])
    again.load_state_dict(kept[2])
    second.attach(again)
    for batch in batches[7:]:
        stepped(second, other, again, batch)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(pruner.masks[name], second.masks[name]) for name in pruner.masks)
    assert pruner.finished
    assert pruner.sparsity == pytest.approx(0.6, abs=0.01)


def _saved(values):
    import io

    buffer = io.BytesIO()
    torch.save(values, buffer)
    buffer.seek(0)
    return buffer


def test_a_failed_pruning_leaves_a_spliced_network_as_it_was():
    model = given([[1.0, 3.0], [4.0, 5.0]], [[1.0, 2.0]])
    pruner = actprune.Pruner(model, methods.dns(0.5, schedule=EqualSurvivors(3), keep_at_least=0, skip_output=True))
    pruner.prune(0.5)
    before = model[0].weight.clone(), pruner.state.dense["0.weight"].clone()
    with pytest.raises((LayerCollapseError, BudgetError)):
        pruner.prune(0.999)
    assert torch.equal(model[0].weight, before[0])
    assert torch.equal(pruner.state.dense["0.weight"], before[1])


def test_splicing_refuses_masked_gradients():
    model = given(FIRST, SECOND)
    pruner = actprune.Pruner(model, methods.dns(0.5))
    with pytest.raises(RecipeError, match="looks at or trains by"):
        pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1), mask_grads=True)


def test_decaying_updates_become_rarer_and_end_with_one_at_the_goal():
    schedule = Decaying(10, 4000, ramp=100, gamma=0.01)
    hits = [step for step in range(4001) if schedule.hits(step)]
    assert len(hits) == schedule.pruning_steps
    assert hits[-1] == 4000
    early, late = sum(10 <= step < 410 for step in hits), sum(3600 <= step < 4000 for step in hits)
    # expected: the sum of 1 / (1 + t / 100) over both stretches, 161 and 10.2
    assert 135 < early < 187
    assert 2 < late < 22
    assert schedule.target(Progress(step=60), 0.8) == pytest.approx(0.8 * (1 - 0.5**3))
    assert schedule.target(Progress(step=110), 0.8) == 0.8
