"""Factors against their definitions: Eckart-Young, scikit-learn's PCA, and least error on the data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune import lowrank
from actprune.errors import BudgetError, ModelError, ObservationError, RecipeError
from actprune.lowrank import factorise


def matrix(rows, columns, seed=0, dtype=torch.float64):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(count, width, seed=1):
    """Correlated inputs, two of them always zero."""
    x = matrix(count, width, seed) @ matrix(width, width, seed + 1)
    x[:, [0, width - 1]] = 0
    return x


# ---- the three kinds ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(6, 9), st.integers(6, 9), st.integers(0, 100))
def test_svd_misses_exactly_the_energy_of_the_values_left_out(rank, rows, columns, seed):
    weight = matrix(rows, columns, seed)
    found = factorise(weight, rank)
    s = np.linalg.svd(weight.numpy(), compute_uv=False)
    error = float((weight - found.product).square().sum())
    assert error == pytest.approx(float((s[rank:] ** 2).sum()), abs=1e-9)
    assert found.directions == rank
    assert found.weights == rank * (rows + columns)
    assert torch.allclose(found.first @ found.first.T, found.second.T @ found.second, atol=1e-9)  # balanced


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_pca_is_that_of_scikit_learn_on_the_kernel_with_inputs_as_samples(rank):
    from sklearn.decomposition import PCA

    weight = matrix(8, 12) + 1.5  # columns with a mean
    kernel = weight.T.numpy()  # (in, out), as Keras keeps it
    pca = PCA(n_components=rank, svd_solver="full").fit(kernel)
    published = torch.from_numpy(pca.inverse_transform(pca.transform(kernel)).T)
    found = factorise(weight, rank, "pca")
    assert torch.allclose(found.product, published, atol=1e-9)
    assert found.directions == rank + 1  # the mean is stored too
    assert found.weights == (rank + 1) * 20
    assert int(torch.linalg.matrix_rank(found.product)) == rank + 1


def test_activation_aware_is_the_definition_with_square_roots():
    weight, x = matrix(6, 9), inputs(200, 9)
    moment = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(moment)
    live = values > 1e-9 * values[-1]
    root = vectors[:, live] * values[live].sqrt() @ vectors[:, live].T
    back = vectors[:, live] / values[live].sqrt() @ vectors[:, live].T
    u, s, v = torch.linalg.svd(weight @ root, full_matrices=False)
    expected = (u[:, :3] * s[:3]) @ v[:3] @ back
    found = factorise(weight, 3, "activation", moment).product
    assert torch.allclose(x @ found.T, x @ expected.T, atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 100))
def test_nothing_of_that_rank_is_nearer_on_the_data(rank, seed):
    weight, x = matrix(6, 9, seed), inputs(80, 9, seed)
    found = factorise(weight, rank, "activation", x.T @ x / len(x)).product

    def error(other):
        return float((x @ (weight - other).T).square().sum())

    assert error(found) <= error(factorise(weight, rank).product) + 1e-9
    gradient_step = matrix(6, rank, seed + 7) @ matrix(rank, 9, seed + 8)
    second, first = factorise(found, rank).second, factorise(found, rank).first
    for step in (1e-3, -1e-3, 1e-1):
        near = (second + step * gradient_step[:, :rank]) @ (first + step * gradient_step[:rank])
        assert error(found) <= error(near) + 1e-9


def test_full_rank_gives_the_weight_back_and_dtypes_stay():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        weight = matrix(5, 4, dtype=torch.float32).to(dtype)
        found = factorise(weight, 4)
        assert found.first.dtype == dtype
        assert torch.allclose(found.product.float(), weight.float(), atol=tolerance)


def test_a_conv_weight_is_its_matrix():
    weight = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = factorise(weight, 2)
    assert found.first.shape == (2, 12)
    assert found.second.shape == (6, 2)


@pytest.mark.parametrize("rank", [0, 7, -1, 2.0, True])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(RecipeError, match="expected 1 to 6"):
        factorise(matrix(6, 9), rank)


def test_other_bad_input_is_refused():
    with pytest.raises(ModelError, match="NaN"):
        factorise(torch.full((3, 3), torch.nan), 1)
    with pytest.raises(ModelError, match="no matrix"):
        factorise(torch.ones(3), 1)
    with pytest.raises(RecipeError, match="did you mean 'svd'"):
        factorise(matrix(3, 3), 1, "svdd")
    with pytest.raises(ModelError, match="input_moments"):
        factorise(matrix(3, 3), 1, "activation")
    with pytest.raises(ModelError, match=r"\(3, 3\)"):
        factorise(matrix(3, 3), 1, "activation", torch.eye(4))


# ---- moments ------------------------------------------------------------------------------------------------------


def test_moments_of_linear_layers():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.ReLU(), nn.Linear(3, 2)).double()
    x = matrix(10, 4)
    found = lowrank.input_moments(net, x.split(4))
    hidden = torch.relu(net[0](x)).detach()
    assert torch.allclose(found["0.weight"], x.T @ x / 10)
    assert torch.allclose(found["3.weight"], hidden.T @ hidden / 10)
    assert net.training  # as it was; dropout was off meanwhile
    assert not net[0]._forward_pre_hooks


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 5, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(2, 5, (2, 3), dilation=2, padding="same", padding_mode="circular", bias=False),
        nn.Conv1d(2, 5, 3, padding=1, stride=2, bias=False),
    ],
)
def test_moments_of_a_conv_are_those_of_its_patches(layer):
    layer = layer.double()
    x = torch.randn(3, 2, *[9] * len(layer.kernel_size), dtype=torch.float64)
    moment = lowrank.input_moments(nn.Sequential(layer), [x])["0.weight"]
    out = layer(x).detach()  # E|W p|^2 = trace(W C W^T)
    flat = layer.weight.detach().flatten(1)
    assert float((flat @ moment @ flat.T).trace()) == pytest.approx(float(out.square().sum(1).mean()))


def test_layers_that_no_data_reaches_are_named():
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ObservationError, match=r"0\.weight"):
        lowrank.input_moments(net, [])
    with pytest.raises(ModelError, match=r"did you mean '0\.weight'"):
        lowrank.input_moments(net, [torch.ones(1, 4)], ["O.weight"])


# ---- ranks --------------------------------------------------------------------------------------------------------


def test_the_largest_rank_that_pays():
    sides = {(300, 784): 216, (200, 300): 119, (100, 200): 66, (50, 100): 33, (10, 100): 9, (1, 9): 0}
    for shape, rank in sides.items():
        assert lowrank.largest_rank(torch.zeros(shape)) == rank
        assert rank * sum(shape) < shape[0] * shape[1] <= (rank + 1) * sum(shape)


def test_energy_ranks():
    net = nn.Sequential(nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.tensor([3.0, 2.0, 1.0])))  # energies 9, 4, 1
    for energy, rank in ((0.5, 1), (9 / 14 - 1e-6, 1), (9 / 14 + 1e-3, 2), (13.5 / 14, 3), (1.0, 3)):
        assert lowrank.energy_ranks(net, ["0.weight"], energy) == {"0.weight": rank}
    for energy in (0.0, 1.1):
        with pytest.raises(RecipeError, match="fraction"):
            lowrank.energy_ranks(net, ["0.weight"], energy)


@settings(deadline=None, max_examples=20)
@given(st.integers(45, 400))
def test_ranks_within_a_budget_use_it_up(budget):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 5), nn.Linear(5, 3))
    names = ["0.weight", "1.weight", "2.weight"]
    sides = {"0.weight": 24, "1.weight": 13, "2.weight": 8}
    ranks = lowrank.ranks_within(net, names, budget)
    taken = sum(sides[name] * rank for name, rank in ranks.items())
    assert taken <= budget
    full = {"0.weight": 8, "1.weight": 5, "2.weight": 3}
    assert all(ranks[name] == full[name] or taken + sides[name] > budget for name in names)


def test_a_budget_below_rank_one_is_refused():
    net = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 5))
    with pytest.raises(BudgetError, match="37"):
        lowrank.ranks_within(net, ["0.weight", "1.weight"], 36)
