"""State goes through a file and back without pickle and without a changed bit."""

import copy
import io

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.errors import CheckpointError
from actprune.schedules import Cubic, Decaying
from actprune.testing import small_data, small_net
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


MOVING = {
    "rigl": lambda: methods.rigl(0.6, steps=12, every=2, stop=1.0, share=0.4),
    "sparse_evolutionary": lambda: methods.sparse_evolutionary(0.6, steps=12, steps_per_epoch=2, share=0.4),
    "movement": lambda: methods.movement(0.6, steps=12, every=1),
    "dns": lambda: methods.dns(0.6, schedule=Decaying(1, 11, ramp=5)),
    "snip": lambda: methods.snip(0.6, schedule=Cubic(0, 9, 3)),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("stop", [3, 6, 7])
def test_masks_that_move_go_on_bit_for_bit_after_a_resume(name, stop):
    """Weights, masks, what is behind them, what is learnt and momentum, in a new process."""

    def begun():
        model = small_net()
        pruner = Pruner(model, MOVING[name]())
        optimizer = torch.optim.SGD([*model.parameters(), *pruner.extra_parameters()], lr=0.3, momentum=0.9)
        return model, pruner, optimizer

    def trained(model, pruner, optimizer, steps):
        for number in steps:
            inputs, labels = (part[number % 8 :: 8] for part in small_data())
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    whole = begun()
    if whole[1].due():
        whole[1].prune()
    whole[1].attach(whole[2])
    trained(*whole, range(stop))
    stored = io.BytesIO()
    torch.save([part.state_dict() for part in whole], stored)
    trained(*whole, range(stop, 12))
    stored.seek(0)
    again = begun()
    for part, state in zip(again, torch.load(stored, weights_only=True), strict=True):
        part.load_state_dict(state)
    again[1].attach(again[2])
    trained(*again, range(stop, 12))
    assert whole[1].state.pruning_step == again[1].state.pruning_step > 2
    for part, other in zip(whole, again, strict=True):
        assert_same(part.state_dict(), other.state_dict())


def assert_same(one, two):
    """Nested dicts and lists of tensors and numbers, bit for bit."""
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    else:
        assert one == two
