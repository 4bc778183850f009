"""What happens to a pruner over a long run: copies, earlier states, models that are sparse already, odd metrics."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import actprune
from actprune import Pruner, methods
from actprune.errors import ObservationError
from actprune.schedules import AccuracyTriggered, LayerByLayer, OneShot
from actprune.testing import small_data, small_net


def steps(model, optimizer, count=3):
    inputs, labels = small_data()
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


# ---- copies ---------------------------------------------------------------------------------------------------------


def nets():
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    for part in conv.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.bias, 0.5, 1.0)
    return {"mlp": (small_net(), torch.randn(16, 32)), "conv": (conv, torch.randn(4, 3, 8, 8))}


@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("wrap", ["deepcopy", "averaged"])
def test_a_copy_takes_the_constants_of_its_own_dead_neurons(net, wrap):
    model, x = nets()[net]
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.abs_().add_(0.5)  # every neuron sends something when it has no input
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if wrap == "averaged" else copy.deepcopy(model)
    own = ema.module if wrap == "averaged" else ema
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = Pruner(model, actprune.activation(0.6, score="neuron")).attach(optimizer, copies=(ema,))
    with pruner.observe():
        model(x)
    before = copy.deepcopy(own).eval()
    pruner.prune()
    dead = {name: ~mask.flatten(1).any(1) for name, mask in pruner.masks.items()}
    assert any(bool(each.any()) for each in dead.values())
    with torch.no_grad():  # the copy with nothing but the rows of dead neurons gone, their constants still sent
        for name, rows in dead.items():
            before.get_parameter(name)[rows] = 0
        gap = (before(x) - own.eval()(x)).abs().max() / before(x).abs().max()
    assert gap < 1e-5


def test_what_a_recipe_puts_into_the_model_is_put_into_copies():
    model = small_net()
    ema = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    pruner = Pruner(model, methods.lottery(0.5, schedule=OneShot())).attach(optimizer, copies=(ema,))
    start = copy.deepcopy(model.state_dict())
    steps(model, optimizer)
    with torch.no_grad():
        for parameter in ema.parameters():
            parameter.mul_(2)
    pruner.prune()
    for name, mask in pruner.masks.items():
        assert torch.equal(ema.get_parameter(name), start[name] * mask)
        assert torch.equal(model.get_parameter(name), start[name] * mask)


# ---- back to an earlier state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_an_earlier_state_counts_on_as_it_did_then(again):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    recipe = actprune.activation(0.8, pruning_steps=2, start_at=0.0, retrain_to=0.0)
    pruner = Pruner(model, recipe).attach(optimizer)
    steps(model, optimizer, 2)
    early = copy.deepcopy([part.state_dict() for part in (model, optimizer, pruner)])

    def finish():
        steps(model, optimizer, 3)
        pruner.report_metric(1.0)
        steps(model, optimizer, 3)
        pruner.report_metric(1.0)
        assert pruner.finished
        return {name: mask.clone() for name, mask in pruner.masks.items()}, pruner.live_batches

    first, _ = finish()
    for _ in range(1 + again):
        for part, state in zip((model, optimizer, pruner), copy.deepcopy(early), strict=True):
            part.load_state_dict(state)
        assert pruner.last_report is None
        masks, _ = finish()
        assert all(torch.equal(first[name], mask) for name, mask in masks.items())


def test_an_earlier_state_without_an_optimizer_does_not_count():
    model = small_net()
    recipe = actprune.activation(0.8, pruning_steps=2, start_at=0.0, retrain_to=0.0)
    pruner = Pruner(model, recipe)
    pruner.load_state_dict(pruner.state_dict())
    model(small_data()[0])
    assert pruner.live_batches == 0


# ---- sparse already -------------------------------------------------------------------------------------------------


def sparse(share):
    model = small_net()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                low = parameter.abs().flatten().kthvalue(max(1, int(share * parameter.numel()))).values
                parameter[parameter.abs() <= low] = 0
    return model


def zeros(model):
    return {name: p.detach() == 0 for name, p in model.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("recipe", [methods.magnitude(0.6), methods.magnitude(0.6, scope="layer"), methods.lamp(0.6)])
def test_a_network_that_is_sparse_already_is_reported_and_held_as_it_is(recipe):
    model = sparse(0.79)
    old = zeros(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    pruner = Pruner(model, recipe).attach(optimizer)
    share = sum(int(z.sum()) for z in old.values()) / sum(z.numel() for z in old.values())
    assert pruner.sparsity == pytest.approx(share)
    steps(model, optimizer)
    assert pruner.prune().sparsity == pytest.approx(share)  # 0.60 was asked, more is gone already
    steps(model, optimizer)
    assert all(bool((zeros(model)[name] >= mask).all()) for name, mask in old.items())


def test_a_sparse_network_is_pruned_further():
    model = sparse(0.5)
    old = zeros(model)
    report = Pruner(model, methods.magnitude(0.7)).prune()
    assert report.actual == pytest.approx(0.7, abs=1e-3)
    assert all(bool((zeros(model)[name] >= mask).all()) for name, mask in old.items())


def test_zeros_may_be_weights_like_any_other():
    model = sparse(0.79)
    pruner = Pruner(model, methods.random(0.1), keep_zeros=False)
    assert pruner.sparsity == 0
    assert pruner.prune().sparsity == pytest.approx(0.1, abs=1e-3)


def test_a_layer_of_nothing_but_zeros_is_freshly_initialised():
    model = small_net()
    nn.init.zeros_(model[2].weight)
    assert Pruner(model, methods.magnitude(0.5)).masks == {}


# ---- metrics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [AccuracyTriggered(2, 0.1, 0.2), LayerByLayer(0.1)])
@pytest.mark.parametrize("metric", [11.2, 99.0, 1.5, float("inf"), float("nan")])
def test_a_percentage_triggers_nothing(schedule, metric):
    allocation = {"scope": "layer", "allocation": "staged"} if isinstance(schedule, LayerByLayer) else {}
    recipe = actprune.Ranked(
        name="triggered", criterion=actprune.criteria.Magnitude(), budget=actprune.Budget.sparsity(0.5),
        schedule=schedule, **allocation,
    )  # fmt: skip
    pruner = Pruner(small_net(), recipe)
    with pytest.raises(ObservationError, match=r"fraction|finite number"):
        pruner.report_metric(metric)
    assert (pruner.state.pruning_step, pruner.state.metric) == (0, None)
    assert pruner.report_metric(1.0) is not None
