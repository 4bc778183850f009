"""The engine in a user's own loop: enforcement, copies, accumulation, AMP, compilation, ties, freezing."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from actprune import Pruner, methods
from actprune.errors import ModelError, ObservationError
from actprune.testing import observe, small_data, small_net
from support.training import pruned, train, zeros_held


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    ],
    ids=["sgd momentum", "adamw", "rmsprop"],
)
def test_momentum_does_not_revive_pruned_weights(make):
    model = small_net()
    optimizer = make(model.parameters())
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    train(model, optimizer)
    pruner.prune()
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer)
    assert zeros_held(model, pruner)
    assert not torch.equal(before["0.weight"], model.state_dict()["0.weight"])  # the survivors did move
    assert pruner.state.step == 6


def test_without_enforcement_momentum_does_revive_them():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, methods.magnitude(0.5))
    train(model, optimizer)
    pruner.prune()
    train(model, optimizer)
    assert not zeros_held(model, pruner)


def test_several_optimizers_and_parameter_groups():
    model = small_net()
    first = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.05}], lr=0.1)
    second = torch.optim.Adam([*model[4].parameters(), *model[6].parameters()])
    pruner = Pruner(model, methods.magnitude(0.5)).attach(first, second)
    pruner.prune()
    inputs, labels = small_data()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    first.step()
    second.step()
    assert zeros_held(model, pruner)
    assert pruner.state.step == 1  # the first optimizer is the clock


def test_ema_copies_are_zeroed_too():
    model = small_net()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer, copies=(ema,))
    train(model, optimizer)
    ema.update_parameters(model)
    pruner.prune()
    assert zeros_held(ema.module, pruner)
    for _ in range(3):
        train(model, optimizer, steps=1)
        ema.update_parameters(model)
    assert zeros_held(ema.module, pruner)


def test_gradient_accumulation_counts_optimizer_steps_only():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    inputs, labels = small_data()
    for part in range(4):
        nn.functional.cross_entropy(model(inputs[part::4]), labels[part::4]).backward()
        if part % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert pruner.state.step == 2


def test_masked_gradients_stay_out_of_norm_clipping():
    model, pruner = pruned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer, mask_grads=True)
    seen = []

    def look():
        seen.append(all(not model.get_parameter(n).grad[~m].any() for n, m in pruner.masks.items()))

    train(model, optimizer, before_step=look)
    assert seen == [True] * 3
    pruner.detach()
    train(model, optimizer, steps=1, before_step=look)
    assert seen[-1] is False


def test_mixed_precision_and_a_skipped_step():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    pruner.prune()
    inputs, labels = small_data()
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        scaler.scale(loss * (math.inf if step == 1 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert zeros_held(model, pruner)
    assert pruner.state.step == 2  # the scaler skipped the overflowed step


def test_a_compiled_model_is_observed_and_held():
    model = small_net()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    train(compiled, optimizer)
    pruner = Pruner(compiled, methods.activation(0.5)).attach(optimizer)
    observe(pruner, compiled)
    pruner.prune()
    train(compiled, optimizer)
    assert zeros_held(model, pruner)
    assert list(pruner.masks) == ["0.weight", "2.weight", "4.weight"]  # clean names, no _orig_mod


def test_counting_on_live_batches_of_a_compiled_model_says_it_is_deaf():
    model = small_net()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    train(compiled, optimizer)
    pruner = Pruner(compiled, methods.activation(0.5, pruning_steps=2)).attach(optimizer)
    train(compiled, optimizer)
    with pytest.raises(ObservationError, match="compile"):
        pruner.prune()


def test_counting_while_training_equals_counting_afterwards_when_weights_stand_still():
    inputs, _ = small_data()
    live_model, model = small_net(), small_net()
    live = Pruner(live_model, methods.activation(0.5, pruning_steps=2))
    live.attach(torch.optim.SGD(live_model.parameters(), lr=0.0))
    train(live_model, torch.optim.SGD(live_model.parameters(), lr=0.0), steps=2)
    other = Pruner(model, methods.activation(0.5))
    for _ in range(2):
        observe(other, model)
    for name, sums in other.state.sums.items():
        assert torch.equal(sums["fired"], live.state_dict()["sums"][name]["fired"])
    live.prune()
    live.prune()
    assert live.finished
    live_model(inputs)  # counting has ended with the last pruning
    assert int(live.state.sums["0.weight"]["rows"]) == 128


def test_live_counting_does_not_change_training():
    models = [small_net(), small_net()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    Pruner(models[0], methods.activation(0.5, pruning_steps=2)).attach(optimizers[0])
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_tied_weights_have_one_mask():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight
            self.out = nn.Linear(8, 4)

        def forward(self, x):
            return self.out(torch.relu(self.second(torch.relu(self.first(x)))))

    model = Tied()
    pruner = Pruner(model, methods.activation(0.5, remove_dead=False))
    with pruner.observe():
        model(torch.randn(6, 8))
    pruner.prune()
    assert list(pruner.masks) == ["first.weight"]
    assert int(pruner.state.sums["first.weight"]["rows"]) == 12  # both uses are counted
    assert not model.second.weight[~pruner.masks["first.weight"]].any()


def test_frozen_and_skipped_layers_are_left_alone():
    model = small_net()
    model[0].requires_grad_(False)
    assert list(Pruner(model, methods.magnitude(0.5)).layers) == ["2.weight", "4.weight", "6.weight"]
    assert "0.weight" in Pruner(model, methods.magnitude(0.5), include_frozen=True).layers
    assert list(Pruner(model, methods.magnitude(0.5), skip=["2", "6.weight"]).layers) == ["4.weight"]
    with pytest.raises(ModelError, match=r"nothing|match"):
        Pruner(model, methods.magnitude(0.5), skip=["encoder"])


def test_the_report_is_a_readable_table():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.5))
    observe(pruner, model)
    text = str(pruner.prune())
    assert "target 50.00%" in text
    assert "0.weight" in text
    assert "24x32" in text


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), checkpoint_wrapper], ids=["compiled", "checkpointed"]
)
def test_wrappers_inside_the_model_do_not_change_names(wrap):
    model = nn.Sequential(
        nn.Linear(32, 24), nn.ReLU(), wrap(nn.Sequential(nn.Linear(24, 16), nn.ReLU())), nn.Linear(16, 4)
    )
    pruner = Pruner(model, methods.activation(0.6, score="neuron"))
    observe(pruner, model)
    pruner.prune()
    assert list(pruner.masks) == ["0.weight", "2.0.weight"]
    assert all(not pruner.parameters[name][~mask].any() for name, mask in pruner.masks.items())
