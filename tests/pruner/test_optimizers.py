"""Optimizers of every kind: zeros are held, steps are counted as they are, or attach() says why not."""

import copy

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.errors import ModelError, RecipeError
from actprune.schedules import Cubic
from actprune.testing import small_data, small_net


def zeros_held(model, pruner):
    assert pruner.masks
    return all(not torch.count_nonzero(model.get_parameter(name)[~mask]) for name, mask in pruner.masks.items())


def loss_of(model):
    inputs, labels = small_data()
    return nn.functional.cross_entropy(model(inputs), labels)


def steps(model, optimizer, count=3):
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


# ---- what is not an ordinary step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_searches_among_the_kept_weights_only(line_search):
    model = small_net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn=line_search)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append(not pruner.masks or zeros_held(model, pruner))
        loss = loss_of(model)
        loss.backward()
        return loss

    optimizer.step(closure)
    pruner.prune()
    before = loss_of(model).item()
    for _ in range(3):
        optimizer.step(closure)
    assert all(seen)  # every evaluation inside the search is of the pruned network
    assert zeros_held(model, pruner)
    assert loss_of(model).item() < before


@pytest.mark.parametrize("kind", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_schedule_free_eval_and_train_revive_nothing(kind):
    schedulefree = pytest.importorskip("schedulefree")
    model = small_net()
    options = {"lr": 1.0, "momentum": 0.9} if kind.startswith("SGD") else {"lr": 0.01}
    optimizer = getattr(schedulefree, kind)(model.parameters(), **options)
    optimizer.train()
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    steps(model, optimizer)
    pruner.prune()
    for _ in range(2):
        steps(model, optimizer)
        optimizer.eval()
        assert zeros_held(model, pruner)
        optimizer.train()
        assert zeros_held(model, pruner)


def test_a_folded_constant_stays_when_a_schedule_free_optimizer_switches():
    schedulefree = pytest.importorskip("schedulefree")
    model = small_net()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(0.7)  # dead neurons send something
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.01)
    optimizer.train()
    pruner = Pruner(model, methods.activation(0.6, score="neuron")).attach(optimizer)
    steps(model, optimizer, 1)
    with pruner.observe():
        model(small_data()[0])
    before = model[4].bias.detach().clone()
    pruner.prune()
    folded = model[4].bias.detach() - before
    assert folded.abs().max() > 0.01
    optimizer.eval()
    assert (model[4].bias.detach() - before - folded).abs().max() < 0.1 * folded.abs().max()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_one_optimizer_per_parameter_that_steps_inside_backward(kind):
    model, plain = small_net(), small_net()

    def in_backward(model):
        every = {parameter: kind([parameter], lr=0.05) for parameter in model.parameters()}

        def step(parameter):
            every[parameter].step()
            every[parameter].zero_grad()

        for parameter in every:
            parameter.register_post_accumulate_grad_hook(step)
        return list(every.values())

    pruner = Pruner(model, methods.magnitude(0.5, schedule=Cubic(begin=0, end=4, every=2)))
    pruner.attach(*in_backward(model))
    in_backward(plain)
    loss_of(model).backward()
    loss_of(plain).backward()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert pruner.state.step == 1
    for _ in range(4):
        loss_of(model).backward()
    assert (pruner.state.step, pruner.state.pruning_step) == (5, 2)
    assert zeros_held(model, pruner)
    assert pruner.last_report.actual == pytest.approx(0.5, abs=1e-3)


def test_dense_weights_behind_the_mask_are_not_swapped_inside_backward():
    model = small_net()
    optimizer = torch.optim.SGD([model[0].weight], lr=0.1)
    pruner = Pruner(model, methods.dns(0.5)).attach(optimizer)
    pruner.prune()
    model[0].weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    with pytest.raises(RecipeError, match="step the optimizer after backward"):
        loss_of(model).backward()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_that_a_gradient_scaler_skips_are_none(kind, fused):
    model = small_net()
    optimizer = kind(model.parameters(), lr=0.1, fused=fused)
    pruner = Pruner(model, methods.snip(0.5, schedule=Cubic(begin=1, end=2, every=1))).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad in (False, True, True, False):
        optimizer.zero_grad()
        scaler.scale(loss_of(model) * (float("inf") if bad else 1.0)).backward()
        before = copy.deepcopy(model.state_dict())
        scaler.step(optimizer)
        scaler.update()
        assert bad == all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert (pruner.state.step, pruner.state.pruning_step) == (2, 1)


# ---- another optimizer, other parameters ----------------------------------------------------------------------------


def test_steps_of_a_new_optimizer_of_the_same_parameters_count_instead():
    model = small_net()
    old = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(old)
    steps(model, old, 2)
    new = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner.attach(new)
    pruner.prune()
    steps(model, new, 3)
    assert pruner.state.step == 5
    assert zeros_held(model, pruner)
    steps(model, old, 1)  # let go: neither counted nor held
    assert pruner.state.step == 5


def test_a_second_optimizer_of_other_parameters_is_held_and_not_counted():
    model = small_net()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(first)
    second = torch.optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.1)
    pruner.attach(second)
    pruner.prune()
    for _ in range(3):
        steps(model, first, 1)
        loss_of(model).backward()
        second.step()
    assert pruner.state.step == 3
    assert zeros_held(model, pruner)


def test_attaching_the_same_optimizer_twice_counts_once():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer).attach(optimizer)
    steps(model, optimizer, 2)
    assert pruner.state.step == 2


@pytest.mark.parametrize("what", ["assign", "parameter", "module"])
def test_parameters_put_in_place_of_others_are_held_or_said(what):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer, mask_grads=True)
    pruner.prune()
    other = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    if what == "assign":
        model.load_state_dict(other, assign=True)
    elif what == "parameter":
        model[0].weight = nn.Parameter(other["0.weight"])
    else:
        model[0] = nn.Linear(*reversed(model[0].weight.shape))
    with pytest.raises(ModelError, match=r"0\.weight was replaced.*give it to attach"):
        model(small_data()[0])
    new = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(new, mask_grads=True)
    assert zeros_held(model, pruner)
    steps(model, new)
    assert zeros_held(model, pruner)
    assert pruner.state.step == 3
    loss_of(model).backward()
    mask = pruner.masks["0.weight"]
    assert not torch.count_nonzero(model[0].weight.grad[~mask])


def test_a_parameter_that_an_attached_optimizer_trains_is_simply_held():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    pruner.prune()
    model[0].weight = nn.Parameter(torch.randn_like(model[0].weight))
    optimizer.add_param_group({"params": [model[0].weight]})
    model(small_data()[0])
    assert zeros_held(model, pruner)
    steps(model, optimizer)
    assert zeros_held(model, pruner)


def test_materialised_parameters_are_held():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    pruner.prune()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    steps(model, optimizer, 1)
    assert zeros_held(model, pruner)


def test_a_layer_of_another_shape_is_said():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    pruner.prune()
    model[2] = nn.Linear(model[2].in_features + 1, model[2].out_features)
    with pytest.raises(ModelError, match=r"2\.weight is .* its mask is .*make a new Pruner"):
        pruner.enforce()


class _Stepless:
    def __init__(self):
        self.param_groups = []

    def step(self):
        pass


class _Unhooked(torch.optim.Optimizer):
    def __init__(self, base):
        self.base, self.param_groups, self.state = base, base.param_groups, base.state

    def step(self):
        self.base.step()


def test_an_optimizer_without_step_hooks_is_refused_with_what_to_do():
    model = small_net()
    pruner = Pruner(model, methods.magnitude(0.5))
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    for odd in (_Stepless(), _Unhooked(base)):
        with pytest.raises(RecipeError, match=r"cannot follow _\w+.*pruner.enforce\(\)"):
            pruner.attach(odd)
    pruner.prune()
    steps(model, base)
    pruner.enforce()
    assert zeros_held(model, pruner)
