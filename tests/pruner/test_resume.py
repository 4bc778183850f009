"""State goes through a file and back without pickle and without a changed bit."""

import copy

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.errors import CheckpointError
from actprune.testing import small_net
from support.engine import X, net, recipe, sgd, step, surgery
from support.training import pruned, train


def test_resume_gives_bit_identical_weights():
    def session(model, optimizer, pruner, epochs):
        for _ in range(epochs):
            train(model, optimizer)
            pruner.report_metric(0.95)

    def fresh():
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, Pruner(model, methods.activation(0.8, pruning_steps=3)).attach(optimizer)

    whole = fresh()
    session(*whole, 6)
    first = fresh()
    session(*first, 2)
    stored = copy.deepcopy([part.state_dict() for part in first])
    second = fresh()
    for part, state in zip(second, stored, strict=True):
        part.load_state_dict(state)
    session(*second, 4)
    assert whole[2].state.pruning_step == second[2].state.pruning_step == 3
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name])
    assert not torch.equal(first[0].state_dict()["0.weight"], second[0].state_dict()["0.weight"])


def test_state_loads_without_pickle(tmp_path):
    _, pruner = pruned(methods.activation(0.5))
    torch.save(pruner.state_dict(), tmp_path / "state.pt")
    again = Pruner(small_net(), methods.activation(0.5))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(mask, again.masks[name]) for name, mask in pruner.masks.items())


def test_a_state_of_another_model_or_version_is_refused():
    _, pruner = pruned()
    stored = pruner.state_dict()
    other = Pruner(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), methods.magnitude(0.5))
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        other.load_state_dict(stored)
    with pytest.raises(CheckpointError, match="version"):
        other.load_state_dict({**stored, "version": 99})
    with pytest.raises(CheckpointError, match="step"):
        other.load_state_dict({name: value for name, value in stored.items() if name != "step"})


@pytest.mark.parametrize("regrow", ["free", "frozen"])
def test_weights_that_may_return_survive_a_resume(regrow):
    model = net()
    pruner, optimizer = Pruner(model, recipe(regrow=regrow)), sgd(model)
    pruner.attach(optimizer)
    pruner.prune()
    pruner.release()
    step(model, optimizer)
    resumed = Pruner(copy.deepcopy(model), pruner.recipe)
    resumed.load_state_dict(pruner.state_dict())
    resumed.attach(sgd(resumed.model))
    assert torch.equal(resumed.model[0].weight, model[0].weight)


def test_an_earlier_state_brings_back_dropout_and_noise():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    pruner = Pruner(model, methods.han(0.75))
    early = pruner.state_dict()
    pruner.prune()
    pruner.load_state_dict(early)
    assert model[2].p == 0.5
    pruner.prune()
    assert model[2].p == 0.25

    model = net()
    noisy = Pruner(model, methods.variational_dropout(0.5, examples=10, steps=2, ramp=(0, 0)))
    early = noisy.state_dict()
    noisy.prune()
    assert noisy.penalty() == 0
    noisy.load_state_dict(early)
    assert noisy.penalty() > 0
    assert not torch.equal(model(X), model(X))


def test_stored_dense_weights_must_fit():
    pruner = Pruner(net(), surgery())
    pruner.prune()
    stored = pruner.state_dict()
    stored["dense"]["0.weight"] = torch.zeros(6)
    with pytest.raises(CheckpointError, match="behind the mask"):
        Pruner(net(), surgery()).load_state_dict(stored)
