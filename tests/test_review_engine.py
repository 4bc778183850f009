"""Found in review: training loops, failures and resumes that the engine used to get wrong."""

import copy
import io
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.criteria import CounterTimesWeight, Magnitude, MagnitudeOverDeviation
from actprune.engine import plan
from actprune.errors import ActpruneError, CheckpointError, ModelError, RecipeError
from actprune.recover import Keep, Reinitialise, Rewind, RewindRate
from actprune.schedules import Decaying, EqualSurvivors
from actprune.types import Budget, Recipe

X = torch.linspace(-1, 1, 96).sin().view(16, 6) * torch.linspace(-2, 2, 6)
Y = torch.arange(16) % 4


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def recipe(**changes):
    plain = Recipe(
        name="mine", criterion=Magnitude(), budget=Budget.sparsity(0.5), schedule=EqualSurvivors(3), recovery=Keep()
    )
    return replace(plain, **changes)


def splice(**changes):
    return recipe(regrow="splice", monotone=False, **changes)


def sgd(model, lr=0.5):
    return torch.optim.SGD(model.parameters(), lr)


def step(model, optimizer):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()


def test_splicing_keeps_what_was_trained_after_release():
    model = net()
    pruner, optimizer = Pruner(model, splice()), sgd(model)
    pruner.attach(optimizer)
    pruner.prune()
    pruner.release()
    for _ in range(3):
        step(model, optimizer)
    trained = model[0].weight.detach().clone()
    pruner.prune()
    kept = pruner.masks["0.weight"]
    assert torch.equal(model[0].weight[kept], trained[kept])


def test_splicing_leaves_kept_weights_to_the_user():
    model = net()
    pruner, optimizer = Pruner(model, splice()), sgd(model, lr=0.0)
    pruner.attach(optimizer)
    pruner.prune()
    with torch.no_grad():
        model[0].weight.clamp_(-0.1, 0.1)  # a norm constraint, a loaded checkpoint, an update by hand
    step(model, optimizer)
    assert model[0].weight.abs().max() <= 0.1


def test_splicing_remembers_what_recovery_has_put_back():
    model = net()
    first = model[0].weight.detach().clone()
    pruner, optimizer = Pruner(model, splice(recovery=Rewind())), sgd(model)
    pruner.attach(optimizer)
    for _ in range(3):
        step(model, optimizer)
    pruner.prune()
    assert torch.equal(pruner.masks["0.weight"] * first, model[0].weight)
    assert torch.equal(pruner.state.dense["0.weight"], first)


def test_a_closure_of_a_splicing_step_computes_with_zeros():
    model = net()
    pruner, optimizer = Pruner(model, splice()), sgd(model)
    pruner.attach(optimizer)
    pruner.prune()
    step(model, optimizer)
    seen = []

    def closure():
        seen.append(bool((model[0].weight[~pruner.masks["0.weight"]] == 0).all()))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    other = net()
    twin, plain = Pruner(other, splice()), sgd(other)
    twin.attach(plain)
    twin.prune()
    step(other, plain)
    step(other, plain)
    assert optimizer.step(closure) > 0
    assert seen == [True]
    assert torch.equal(model[0].weight, other[0].weight)
    assert torch.equal(pruner.state.dense["0.weight"], twin.state.dense["0.weight"])


def test_zeros_hold_when_a_pruning_fails_within_a_step():
    model = net()
    pruner = Pruner(model, recipe(budget=Budget.sparsity(0.999), schedule=EqualSurvivors(2, every=1)))
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), 0.5, momentum=0.9))
    pruner.prune(0.3)
    step(model, optimizer)
    with pytest.raises(ActpruneError):
        step(model, optimizer)
    assert all(not weight[~pruner.masks[name]].any() for name, weight in pruner.parameters.items())


def test_splicing_and_folding_away_dead_weights_do_not_go_together():
    pruner = Pruner(net(), splice(remove_dead=True), example=X)
    with pytest.raises(RecipeError, match="splice"):
        pruner.prune()
    assert pruner.masks == {}


def test_attach_refuses_before_it_hooks():
    model = net()
    pruner, optimizer = Pruner(model, splice()), sgd(model)
    with pytest.raises(RecipeError):
        pruner.attach(optimizer, mask_grads=True)
    step(model, optimizer)
    assert pruner.state.step == 0


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


def test_a_weight_that_may_return_is_there_for_the_deviation():
    pruner = Pruner(net(), recipe(regrow="free", criterion=MagnitudeOverDeviation()))
    pruner.prune()
    assert plan.prepare(pruner).signals("0.weight").mask is None


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
    pruner = Pruner(net(), splice())
    pruner.prune()
    stored = pruner.state_dict()
    stored["dense"]["0.weight"] = torch.zeros(6)
    with pytest.raises(CheckpointError, match="behind the mask"):
        Pruner(net(), splice()).load_state_dict(stored)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * self.scale


def test_a_model_that_cannot_be_reinitialised_stays_as_it_was():
    model = nn.Sequential(*net(), nn.Linear(4, 6), Odd())
    before = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, recipe(recovery=Reinitialise()))
    with pytest.raises(ModelError, match="reset_parameters"):
        pruner.prune()
    assert pruner.masks == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


SEEN = []


@dataclass(frozen=True)
class Watching:
    """A penalty that writes down what its proximal steps see."""

    def learnt(self, weight):
        return {}

    def loss(self, weights, learnt, step):
        return torch.zeros(())

    def forward(self, module, x, output, learnt):
        return None

    def after_step(self, weights, step):
        SEEN.append({name: weight.clone() for name, weight in weights.items()})


def test_a_proximal_step_sees_zeros_and_leaves_frozen_weights_alone():
    model = net()
    model[2].weight.requires_grad_(False)
    pruner, optimizer = Pruner(model, recipe(penalty=Watching()), include_frozen=True), sgd(model)
    pruner.attach(optimizer)
    pruner.prune(0.5)
    step(model, optimizer)
    seen = SEEN[-1]
    assert list(seen) == ["0.weight"]
    assert not seen["0.weight"][~pruner.masks["0.weight"]].any()


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(input=self.one(x).relu())


def test_noise_is_for_the_model_itself_however_it_calls_its_layers():
    model = ByName()
    Pruner(model, methods.variational_dropout(0.5, examples=10, steps=2))
    assert not torch.equal(model(X), model(X))
    twin = copy.deepcopy(model)  # an EMA, a student: not what the penalty learns about
    assert torch.equal(twin(X), twin(X))
    torch.save(model, io.BytesIO())


def test_an_output_layer_fires_at_its_own_positions():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    pruner = Pruner(model, recipe(criterion=CounterTimesWeight()))
    with pruner.observe():
        model(torch.randn(10, 1, 8, 8))
    assert int(plan.prepare(pruner).signals("3.weight").sums["fired"]) == 10


def test_decaying_from_the_first_step_comes_to_an_end():
    model = net()
    pruner, optimizer = Pruner(model, splice(schedule=Decaying(0, 6))), sgd(model)
    pruner.attach(optimizer)
    for _ in range(6):
        step(model, optimizer)
    assert pruner.finished


def test_a_schedule_never_rewinds_into_the_future():
    pruner = Pruner(net(), recipe(recovery=RewindRate(5)))
    pruner.prune()
    assert pruner.schedule_step == 0


def test_an_output_layer_can_be_left_out_by_a_rate_of_zero():
    pruner = Pruner(net(), methods.lottery(0.3, output_rate=0.0, pruning_steps=1))
    pruner.prune()
    assert pruner.masks["2.weight"].all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: methods.lottery(1.0),
        lambda: methods.lottery(1.5),
        lambda: methods.lottery(0.99, pruning_steps=1, output_rate=2.0),
        lambda: methods.han(0.9, kept=(("fc1*", 0.0),)),
        lambda: methods.dns(0.9, band=1.0),
    ],
)
def test_senseless_options_are_recipe_errors(make):
    with pytest.raises(RecipeError):
        make()
