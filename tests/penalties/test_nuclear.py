"""Nuclear norms: proximal steps against closed forms and brute force, subgradients against their definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune import recipes
from actprune.errors import ModelError, RecipeError
from actprune.penalties import NuclearNorm, direction, factors, shrink
from actprune.types import Penalty


def matrix(rows, columns, seed=0, dtype=torch.float64):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norm(x, weights):
    return float((torch.linalg.svdvals(x) * weights).sum())


# ---- proximal steps -----------------------------------------------------------------------------------------------


def test_a_diagonal_is_shrunk_as_by_hand():
    given_ = torch.diag(torch.tensor([5.0, 3.0, 1.0]))
    assert torch.allclose(shrink(given_, 2.0), torch.diag(torch.tensor([3.0, 1.0, 0.0])), atol=1e-6)
    amounts = torch.tensor([0.5, 1.0, 4.0])
    assert torch.allclose(shrink(given_, amounts), torch.diag(torch.tensor([4.5, 2.0, 0.0])), atol=1e-6)
    # Gu et al. 2014 write |X - Y|^2 + sum w s, solved by (s - w / 2)_+: t is half of their w
    theirs = torch.tensor([1.0, 2.0, 8.0])
    closed_form = torch.diag((torch.tensor([5.0, 3.0, 1.0]) - theirs / 2).clamp(min=0))
    assert torch.allclose(shrink(given_, theirs / 2), closed_form, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 5), st.integers(2, 5), st.integers(0, 1000),
    st.lists(st.floats(0, 2), min_size=5, max_size=5), st.booleans(),
)  # fmt: skip
def test_no_other_matrix_has_a_smaller_objective(rows, columns, seed, amounts, deficient):
    y = matrix(rows, columns, seed)
    if deficient:
        y = y[:, :1] @ y[:1] + 0.0
    t = torch.tensor(sorted(amounts)[: min(rows, columns)], dtype=torch.float64)
    best = shrink(y, t)

    def objective(x):  # that of Gu et al., in both scalings the same minimiser
        assert norm(x, t) >= -1e-12
        return 0.5 * float((x - y).square().sum()) + norm(x, t)

    least = objective(best)
    generator = torch.Generator().manual_seed(seed + 1)
    for scale in (1e-4, 1e-2, 1.0):
        for _ in range(15):
            other = best + scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            assert objective(other) >= least - 1e-9
    assert objective(y) >= least - 1e-9
    assert objective(torch.zeros_like(y)) >= least - 1e-9


def test_equal_singular_values_and_zeros_are_safe():
    assert torch.allclose(shrink(torch.eye(4), 0.25), 0.75 * torch.eye(4), atol=1e-6)
    assert not shrink(torch.zeros(3, 4), 0.5).any()
    assert torch.isfinite(direction(torch.eye(4))).all()
    assert not direction(torch.zeros(3, 4), "inverse").any()
    assert torch.allclose(direction(torch.eye(4)), torch.eye(4), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decomposed_in_float32(dtype):
    y = matrix(6, 4, dtype=torch.float32).to(dtype)
    assert shrink(y, 0.1).dtype == dtype
    assert torch.equal(shrink(y, 0.1), shrink(y.float(), 0.1).to(dtype))
    assert direction(y).dtype == torch.float32


def test_bad_amounts_and_matrices_are_refused():
    for amount in (-1.0, float("nan"), torch.tensor([2.0, 1.0])):
        with pytest.raises(RecipeError, match="not descending"):
            shrink(torch.ones(2, 2), amount)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ModelError, match=r"fc1\.weight"):
            shrink(torch.full((2, 2), bad), 0.1, "fc1.weight")
    for weights in ({"strength": -1}, {"every": 0}, {"horizon": 0}, {"weights": "gu"}, {"how": "both"}):
        with pytest.raises(RecipeError, match=r"expected|weights:"):
            NuclearNorm(**{"strength": 1.0, **weights})


# ---- subgradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "index"])
def test_the_direction_is_the_gradient_where_there_is_one(weights):
    x = matrix(4, 6).requires_grad_()
    w = factors(torch.ones(4, dtype=torch.float64), weights)
    (torch.linalg.svdvals(x) * w).sum().backward()  # simple singular values: the unstable way is right here
    assert torch.allclose(direction(x, weights), x.grad, atol=1e-9)
    assert float((direction(x, weights) * x.detach()).sum()) == pytest.approx(norm(x.detach(), w))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_direction_is_a_subgradient_also_of_low_rank_matrices(seed, rank):
    x = matrix(4, rank, seed) @ matrix(rank, 6, seed + 1)
    g = direction(x)
    assert float(torch.linalg.svdvals(g)[0]) <= 1 + 1e-9
    for other in (matrix(4, 6, seed + 2), x + 0.01 * matrix(4, 6, seed + 3), torch.zeros(4, 6, dtype=torch.float64)):
        assert norm(other, 1.0) >= norm(x, 1.0) + float((g * (other - x)).sum()) - 1e-9


def test_the_weights_rise_as_the_singular_values_fall():
    s = torch.tensor([4.0, 2.0, 0.0])
    assert factors(s, "uniform").tolist() == [1, 1, 1]
    assert factors(s, "index").tolist() == [1, 2, 3]
    assert factors(s, "inverse", eps=0.5).tolist() == [1.0, 1.5, 3.0]
    assert factors(torch.zeros(2), "inverse").tolist() == [1, 1]


# ---- the penalty --------------------------------------------------------------------------------------------------


def live():
    torch.manual_seed(0)
    return {"fc1.weight": nn.Parameter(torch.randn(4, 6)), "conv.weight": nn.Parameter(torch.randn(3, 2, 2, 2))}


def test_it_is_a_penalty_and_part_of_a_recipe():
    penalty = NuclearNorm(0.1, "index", "subgradient", every=3)
    assert isinstance(penalty, Penalty)
    assert recipes.from_dict(recipes.to_dict(penalty)) == penalty
    assert penalty.learnt(torch.ones(2, 2)) == {}
    assert penalty.forward(nn.Linear(2, 2), torch.ones(1, 2), torch.ones(1, 2), {}) is None


def test_the_loss_is_strength_times_the_norms_on_due_steps():
    weights = live()
    penalty = NuclearNorm(0.1, how="subgradient", every=3)
    found = penalty.loss(weights, {}, 6)
    expected = sum(norm(weight.detach().flatten(1), 1.0) for weight in weights.values())
    assert float(found.detach()) == pytest.approx(3 * 0.1 * expected, rel=1e-5)
    found.backward()
    assert torch.allclose(weights["fc1.weight"].grad, 0.3 * direction(weights["fc1.weight"]), atol=1e-6)
    assert weights["conv.weight"].grad.shape == (3, 2, 2, 2)
    for silent in (penalty.loss(weights, {}, 7), NuclearNorm(0.1).loss(weights, {}, 6)):
        assert float(silent) == 0
    assert float(NuclearNorm(0.1, how="subgradient").loss({}, {}, 0)) == 0


def test_the_proximal_step_makes_exact_low_rank_in_place():
    weights = live()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    penalty = NuclearNorm(1.0, every=2)
    penalty.after_step(weights, 3)
    assert all(torch.equal(before[name], weight) for name, weight in weights.items())
    for step in (2, 4, 6):
        penalty.after_step(weights, step)
    for name, weight in weights.items():
        s = torch.linalg.svdvals(before[name].flatten(1))
        after = torch.linalg.svdvals(weight.detach().flatten(1))
        assert torch.allclose(after, (s - 3).clamp(min=0), atol=1e-5)


@pytest.mark.parametrize("weights", ["index", "inverse"])
def test_weighted_steps_take_more_off_the_small_ones(weights):
    live_ = live()
    s = torch.linalg.svdvals(live_["fc1.weight"].detach())
    NuclearNorm(0.01, weights).after_step(live_, 0)
    drops = s - torch.linalg.svdvals(live_["fc1.weight"].detach())
    assert torch.allclose(drops, 0.01 * factors(s, weights), atol=1e-5)
    assert (drops[1:] > drops[:-1]).all()


def test_the_horizon_brings_the_amount_down_like_a_cosine_learning_rate():
    penalty = NuclearNorm(0.2, horizon=100)
    assert penalty.amount(0) == 0.2
    assert penalty.amount(50) == pytest.approx(0.1)
    assert penalty.amount(100) == penalty.amount(1000) == 0
    assert NuclearNorm(0.2).amount(10**6) == 0.2


def test_divergence_names_the_layer():
    weights = live()
    with torch.no_grad():
        weights["conv.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"conv\.weight"):
        NuclearNorm(0.1).after_step(weights, 0)
    with pytest.raises(ModelError, match=r"conv\.weight"):
        NuclearNorm(0.1, how="subgradient").loss(weights, {}, 0)
