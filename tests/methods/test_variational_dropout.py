"""Variational dropout: its KL by quadrature, its noise by statistics, its masks by hand, its resume bit for bit."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune import Pruner, lab, methods, recipes
from actprune.criteria import LogAlpha
from actprune.errors import LayerCollapseError, ModelError, ObservationError, RecipeError
from actprune.penalties import VariationalDropout, divergence, log_alpha, noisy
from actprune.testing import check_method, small_data, small_net
from actprune.types import Layer, Penalty

PENALTY = VariationalDropout(examples=64)


def learn(model, pruner, optimizer, steps):
    inputs, labels = small_data()
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(inputs), labels) + pruner.penalty()).backward()
        optimizer.step()


def session(recipe):
    model = small_net()
    pruner = Pruner(model, recipe)
    optimizer = torch.optim.Adam([*model.parameters(), *pruner.extra_parameters()], lr=0.02)
    pruner.attach(optimizer)
    return model, pruner, optimizer


def kl_by_quadrature(value):
    """E log|1 + sqrt(alpha) z| - log(alpha) / 2, z ~ N(0, 1), minus its limit for large alpha."""
    cells, wide = 200_000, 24.0
    z = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * wide - wide / 2
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * wide / cells
    expected = (density * torch.log((1 + math.exp(value / 2) * z).abs() + 1e-300)).sum()
    return float(expected) - value / 2 + (0.5772156649 + math.log(2)) / 2


@pytest.mark.parametrize("value", [-8.0, -4.0, -1.0, 0.0, 1.0, 3.0, 5.0, 8.0])
def test_the_divergence_is_the_integral_it_approximates(value):
    found = float(divergence(torch.tensor(value, dtype=torch.float64)))
    assert found == pytest.approx(kl_by_quadrature(value), abs=0.01)


def test_the_divergence_by_hand():
    # 0.63576 - 0.63576 / (1 + e^-1.8732) + ln(2) / 2; at 3: the same with 1.8732 + 3 * 1.48695 and ln(1 + e^-3) / 2
    at_0, at_3 = divergence(torch.tensor([0.0, 3.0], dtype=torch.float64)).tolist()
    assert at_0 == pytest.approx(0.63576 - 0.63576 / (1 + math.exp(-1.8732)) + math.log(2) / 2)
    assert at_3 == pytest.approx(0.63576 - 0.63576 / (1 + math.exp(-6.33405)) + math.log(1 + math.exp(-3)) / 2)


@settings(deadline=None, max_examples=30)
@given(st.floats(-30, 30), st.floats(0.01, 5))
def test_the_divergence_falls_towards_zero(value, more):
    low, high = divergence(torch.tensor([value, value + more], dtype=torch.float64)).tolist()
    assert low > high > 0


def test_loss_is_clipped_shared_out_and_ramped():
    weights = {"a": torch.tensor([[1.0, 1e-9]]), "b": torch.tensor([[2.0]])}
    learnt = {"a": {"log_sigma2": torch.tensor([[0.0, 30.0]])}, "b": {"log_sigma2": torch.tensor([[-40.0]])}}
    penalty = VariationalDropout(examples=10, ramp_from=100, ramp_to=300)
    whole = divergence(torch.tensor([0.0, 8.0, -8.0])).sum() / 10
    for step, rho in ((0, 0.0), (100, 0.0), (150, 0.25), (300, 1.0), (9999, 1.0)):
        assert penalty.loss(weights, learnt, step).item() == pytest.approx(rho * whole.item(), rel=1e-5)
    assert PENALTY.factor(0) == 1.0  # no ramp asked


LAYERS = {
    "linear": (nn.Linear(6, 5), (3, 6)),
    "linear on sequences": (nn.Linear(6, 5), (3, 2, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(2, 1), groups=2, bias=False), (3, 4, 7, 7)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (3, 2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_noise_has_the_mean_and_variance_of_noisy_weights(name):
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    x, log_sigma2 = torch.randn(shape), torch.randn_like(layer.weight) - 2
    with torch.no_grad():
        output = layer(x)
        draws = torch.stack([noisy(layer, x, output, log_sigma2) for _ in range(1000)])
        # the published picture: the weights themselves are noisy, and drawn anew for every example
        theta, weighty = layer.weight.clone(), []
        for _ in range(1000):
            layer.weight.copy_(theta + torch.exp(log_sigma2 / 2) * torch.randn_like(theta))
            weighty.append(layer(x))
    assert draws[0].shape == output.shape
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - output).abs() < 5 * error).all()
    assert torch.allclose(draws.var(0), torch.stack(weighty).var(0), rtol=0.3)
    assert not torch.equal(draws[0][0] - output[0], draws[0][1] - output[1])  # examples have noise of their own


def test_gradients_reach_means_and_variances():
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    log_sigma2 = nn.Parameter(torch.full_like(layer.weight, -3.0))  # no log alpha is clipped
    noisy(layer, x, layer(x), log_sigma2).square().sum().backward()
    assert layer.weight.grad.abs().min() > 0
    assert log_sigma2.grad.abs().min() > 0
    layer.weight.grad = log_sigma2.grad = None
    PENALTY.loss({"w": layer.weight}, {"w": {"log_sigma2": log_sigma2}}, 0).backward()
    assert (layer.weight.grad * layer.weight > 0).all()  # the KL shrinks every mean
    assert (log_sigma2.grad < 0).all()  # and widens every variance


def test_a_zero_weight_keeps_every_derivative_finite():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)
    log_sigma2 = nn.Parameter(torch.full((2, 2), -8.0))
    x = torch.zeros(1, 2)
    total = noisy(layer, x, layer(x), log_sigma2).sum()
    (total + PENALTY.loss({"w": layer.weight}, {"w": {"log_sigma2": log_sigma2}}, 0)).backward()
    assert torch.isfinite(layer.weight.grad).all()
    assert torch.isfinite(log_sigma2.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    layer, x = nn.Linear(6, 5).to(dtype), torch.randn(3, 6, dtype=dtype) * 1000  # squares beyond float16
    log_sigma2 = PENALTY.learnt(layer.weight)["log_sigma2"]
    assert log_sigma2.dtype == torch.promote_types(dtype, torch.float32)
    output = noisy(layer, x, layer(x), log_sigma2)
    assert output.dtype == dtype
    assert torch.isfinite(output).all()
    assert torch.isfinite(log_alpha(torch.zeros(2, 2, dtype=dtype), torch.zeros(2, 2))).all()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nn.Linear(6, 5)
        assert noisy(mixed, x.float(), mixed(x.float()), log_sigma2.float()).dtype == torch.bfloat16


def test_other_modules_and_senseless_settings_are_refused():
    embedding = nn.Embedding(3, 2)
    with pytest.raises(ModelError, match="Embedding"):
        noisy(embedding, torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ModelError, match="no weight"):
        noisy(nn.ReLU(), torch.zeros(1), torch.zeros(1), torch.zeros(1))
    for wrong in ({"examples": 0}, {"ramp_from": 2, "ramp_to": 1}, {"clip": 0.0}, {"log_sigma2_init": math.nan}):
        with pytest.raises(RecipeError, match="cannot be used"):
            VariationalDropout(**{"examples": 1, **wrong})
    with pytest.raises(RecipeError, match="ramp"):
        methods.variational_dropout(ramp=(0.5, 0.1))
    with pytest.raises(RecipeError, match="finite"):
        methods.variational_dropout_threshold(math.nan)


def test_the_score_is_minus_log_alpha():
    weight = torch.tensor([[0.5, -2.0, 0.0]])
    layer = Layer("w", weight, {"log_sigma2": torch.tensor([[-1.0, 2.0, -3.0]])})
    expected = [-(-1 - 2 * math.log(0.5)), -(2 - 2 * math.log(2)), -(-3 - math.log(1e-8))]
    assert LogAlpha().score(layer)[0].tolist() == pytest.approx(expected)
    assert torch.equal(LogAlpha().score(layer), -log_alpha(weight, layer.evidence["log_sigma2"]))
    with pytest.raises(ModelError, match="NaN"):
        LogAlpha().score(Layer("w", weight, {"log_sigma2": torch.full((1, 3), math.nan)}))
    with pytest.raises(ModelError, match="no log_sigma2"):
        LogAlpha().score(Layer("w", weight, {}))


def test_the_method_keeps_the_contract():
    check_method(methods.variational_dropout)
    recipe = methods.variational_dropout_threshold(2.5, examples=64, steps=9, keep_at_least=1)
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe
    assert isinstance(PENALTY, Penalty)


def test_the_budget_is_exact_and_global():
    model, pruner, optimizer = session(methods.variational_dropout(0.7, examples=64, steps=40))
    learn(model, pruner, optimizer, 12)
    assert not pruner.masks
    scores = [
        -log_alpha(weight.detach(), pruner.state.learnt[name]["log_sigma2"].detach())
        for name, weight in pruner.parameters.items()
    ]
    inputs, labels = small_data()
    pruner.prune()
    total = sum(score.numel() for score in scores)
    flat = torch.cat([score.flatten() for score in scores])
    kept = torch.cat([mask.flatten() for mask in pruner.masks.values()])
    assert int((~kept).sum()) == round(0.7 * total)
    assert flat[kept].min() >= flat[~kept].max()
    assert set(pruner.masks) == set(pruner.parameters)  # the output layer too
    assert len({float(mask.float().mean()) for mask in pruner.masks.values()}) > 1
    assert inputs.shape[0] == len(labels)


def test_the_threshold_removes_what_is_mostly_noise_and_ends_the_noise():
    model, pruner, optimizer = session(methods.variational_dropout_threshold(examples=640, steps=60))
    inputs, _ = small_data()
    assert not torch.equal(model(inputs), model(inputs))
    assert float(pruner.penalty().detach()) == 0.0  # before the ramp
    learn(model, pruner, optimizer, 59)
    assert float(pruner.penalty().detach()) > 0
    snapshots = []
    pruner.watchers.append(
        lambda when: snapshots.append({name: weight.detach().clone() for name, weight in pruner.parameters.items()})
    )
    learn(model, pruner, optimizer, 1)
    assert pruner.finished
    before = snapshots[0]
    for name, mask in pruner.masks.items():
        learnt = pruner.state.learnt[name]["log_sigma2"].detach()
        assert torch.equal(mask, log_alpha(before[name], learnt) <= 3)
        assert torch.equal(model.get_parameter(name)[mask], before[name][mask])
    assert 0 < pruner.sparsity < 1
    assert torch.equal(model(inputs), model(inputs))
    assert float(pruner.penalty()) == 0.0


def test_no_noise_in_evaluation_and_without_gradients():
    model, _, _ = session(methods.variational_dropout())
    inputs, _ = small_data()
    with torch.no_grad():
        assert torch.equal(model(inputs), small_net()(inputs))
    assert torch.equal(model.eval()(inputs), small_net()(inputs))


def test_pruned_weights_are_not_noisy():
    layer, x = nn.Linear(3, 4, bias=False), torch.ones(50, 3)
    with torch.no_grad():
        layer.weight[0] = 0
        output = noisy(layer, x, layer(x), torch.zeros(4, 3))
    assert output[:, 0].abs().max() < 1e-3
    assert output[:, 1].std() > 0.5


def test_resume_is_bit_for_bit():
    recipe = methods.variational_dropout(0.6, examples=64, steps=12)
    torch.manual_seed(5)
    whole = session(recipe)
    learn(*whole, 6)
    stored = copy.deepcopy([part.state_dict() for part in whole])
    noise = torch.get_rng_state()
    learn(*whole, 10)
    again = session(recipe)
    for part, state in zip(again, stored, strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(noise)
    learn(*again, 10)
    assert whole[1].finished
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, again[0].state_dict()[name])
        assert name.endswith("bias") or torch.equal(whole[1].masks[name], again[1].masks[name])
    assert not torch.equal(stored[0]["0.weight"], whole[0].state_dict()["0.weight"])


def test_what_goes_wrong_is_said():
    model, pruner, _ = session(methods.variational_dropout(0.5))
    with torch.no_grad():
        pruner.extra_parameters()[1][0, 0] = math.nan
    with pytest.raises(ModelError, match=r"log_sigma2 of 2\.weight"):
        pruner.prune()
    assert not pruner.masks
    _, noise, _ = session(methods.variational_dropout_threshold(-20.0, keep_at_least=0))
    with pytest.raises(LayerCollapseError, match="keep_at_least"):
        noise.prune()
    recipe = methods.variational_dropout(0.5)
    plain = Pruner(model, type(recipe)(**{**vars(recipe), "penalty": None}))
    with pytest.raises(ObservationError, match="learns nothing"):
        plain.prune()


def test_a_run_prunes_at_its_last_step_and_knows_its_examples(tmp_path):
    config = lab.RunConfig(
        data="digits", model="mlp", hidden=(16,), method="variational_dropout", sparsity=0.8, schedule="own",
        optimizer="adam", lr=0.01, max_epochs=2, full_length=True, threads=1,
    )  # fmt: skip
    result = lab.run(config, tmp_path / "run", plots=False)
    penalty = result.pruner.recipe.penalty
    assert isinstance(penalty, VariationalDropout)
    assert penalty.examples == len(lab.data.load("digits").train[0])
    assert result.pruner.state.pruned_at == result.pruner.state.step > penalty.ramp_to
    assert result.summary["actual"] == pytest.approx(0.8, abs=1e-3)
    learnt = result.pruner.extra_parameters()[0]
    assert not torch.equal(learnt, torch.full_like(learnt, penalty.log_sigma2_init))  # the optimizer has it
