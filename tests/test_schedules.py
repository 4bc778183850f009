"""When a pruning happens and what becomes of the survivors."""

import copy
import math

import pytest
import torch

import actprune
from actprune import Pruner, methods
from actprune.errors import ModelError, ObservationError
from actprune.repair import Reinitialise, Rewind
from actprune.schedules import AccuracyTriggered, Cubic, Decaying, EqualSurvivors
from actprune.testing import observe, small_net
from support.engine import net, sgd, step, surgery
from support.training import train, zeros_held


def test_cubic_schedule_prunes_by_itself():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    recipe = methods.magnitude(0.8, schedule=Cubic(begin=2, end=6, every=2))
    pruner = Pruner(model, recipe).attach(optimizer)
    seen = []
    for _ in range(8):
        train(model, optimizer, steps=1)
        seen.append(round(pruner.sparsity, 4))
    total = sum(p.numel() for n, p in model.named_parameters() if n in pruner.masks)
    assert seen[:3] == [0, 0, 0]
    assert seen[3] == round(math.floor(0.7 * total + 0.5) / total, 4)  # 0.8 (1 - 0.5^3)
    assert seen[5] == seen[7] == round(math.floor(0.8 * total + 0.5) / total, 4)
    assert pruner.finished


def test_equal_survivors():
    schedule = EqualSurvivors(pruning_steps=3)
    kept = [1 - schedule.target(actprune.Progress(pruning_step=i), 0.875) for i in range(3)]
    assert kept == pytest.approx([0.5, 0.25, 0.125])


def test_accuracy_triggers_one_pruning_per_report():
    model = small_net()
    recipe = methods.magnitude(0.8, schedule=AccuracyTriggered(pruning_steps=2, start=0.5, stop=0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pruner = Pruner(model, recipe).attach(optimizer)
    assert pruner.report_metric(0.49) is None
    assert pruner.due(0.95)
    assert pruner.report_metric(0.95) is not None
    train(model, optimizer)  # an old report does not trigger anything
    assert pruner.state.pruning_step == 1
    assert pruner.report_metric(0.69) is None
    assert pruner.report_metric(0.71).actual == pytest.approx(0.8, abs=1e-3)
    assert pruner.finished
    assert pruner.report_metric(0.99) is None
    with pytest.raises(ObservationError, match="nan"):
        pruner.report_metric(float("nan"))


def test_rewinding_restores_early_weights_and_forgets_momentum():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, methods.magnitude(0.5, repairs=(Rewind(to_step=2),))).attach(optimizer)
    train(model, optimizer, steps=2)
    early = copy.deepcopy(model.state_dict())
    train(model, optimizer, steps=3)
    pruner.prune()
    assert not optimizer.state
    for name, value in model.state_dict().items():
        mask = pruner.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, early[name] * mask)


def test_rewinding_to_a_step_that_was_never_seen_is_refused():
    pruner = Pruner(small_net(), methods.magnitude(0.5, repairs=(Rewind(to_step=5),)))
    with pytest.raises(ModelError, match="rewind to step 5"):
        pruner.prune()
    assert not pruner.masks
    assert all(bool(parameter.all()) for parameter in pruner.parameters.values())  # nothing was zeroed


def test_reinitialised_survivors_are_new_and_the_rng_is_untouched():
    model = small_net()
    old = model[0].weight.detach().clone()
    pruner = Pruner(model, methods.magnitude(0.5, repairs=(Reinitialise(seed=7),)))
    before = torch.get_rng_state()
    pruner.prune()
    assert torch.equal(before, torch.get_rng_state())
    mask = pruner.masks["0.weight"]
    assert not (model[0].weight[mask] == old[mask]).any()
    assert zeros_held(model, pruner)


def test_regrow_free_lets_zeros_return_and_release_does_too():
    for recipe in (methods.activation(0.5, regrow="free"), methods.activation(0.5)):
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = Pruner(model, recipe).attach(optimizer)
        observe(pruner, model)
        pruner.prune()
        assert zeros_held(model, pruner)
        if recipe.regrow == "frozen":
            train(model, optimizer)
            assert zeros_held(model, pruner)
            pruner.release()
        train(model, optimizer)
        assert not zeros_held(model, pruner)


def test_decaying_from_the_first_step_comes_to_an_end():
    model = net()
    pruner, optimizer = Pruner(model, surgery(schedule=Decaying(0, 6))), sgd(model)
    pruner.attach(optimizer)
    for _ in range(6):
        step(model, optimizer)
    assert pruner.finished
