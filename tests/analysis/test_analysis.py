import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actprune import analysis
from actprune.errors import ModelError


def diagonal(*sigma, rows=4, columns=5):
    weight = torch.zeros(rows, columns)
    for i, value in enumerate(sigma):
        weight[i, i] = value
    return weight


def test_ranks_of_known_singular_values():
    found = analysis.ranks(diagonal(4.0, 3.0, 0.0))
    assert found["numerical"] == 2
    assert found["stable"] == pytest.approx(25 / 16)
    entropy = -(4 / 7) * math.log(4 / 7) - (3 / 7) * math.log(3 / 7)
    assert found["effective"] == pytest.approx(math.exp(entropy))


def test_equal_singular_values_give_equal_ranks():
    found = analysis.ranks(torch.eye(6))
    assert found["numerical"] == 6
    assert found["stable"] == pytest.approx(6)
    assert found["effective"] == pytest.approx(6)


@pytest.mark.parametrize("weight", [torch.zeros(3, 4), torch.zeros(0, 4), torch.zeros(2, 3, 5, 5)])
def test_a_zero_weight_has_no_rank(weight):
    assert analysis.ranks(weight) == {"numerical": 0, "stable": 0.0, "effective": 0.0}


def test_numerical_rank_uses_the_tolerance_of_the_dtype():
    tolerance = 5 * torch.finfo(torch.float32).eps
    assert analysis.numerical_rank(diagonal(1.0, 1.1 * tolerance)) == 2
    assert analysis.numerical_rank(diagonal(1.0, 0.9 * tolerance)) == 1
    assert analysis.numerical_rank(diagonal(1.0, 0.9 * tolerance).double()) == 2


@given(seed=st.integers(0, 1000), rows=st.integers(1, 12), columns=st.integers(1, 12), inner=st.integers(0, 6))
def test_numerical_rank_is_that_of_numpy_and_bounds_the_others(seed, rows, columns, inner):
    rng = np.random.RandomState(seed)
    weight = (rng.randn(rows, inner) @ rng.randn(inner, columns)).astype(np.float32)
    found = analysis.ranks(torch.from_numpy(weight))
    assert found["numerical"] == np.linalg.matrix_rank(weight) <= inner
    # stable <= effective does not hold in general, but both lie between 1 and the rank
    for name in ("stable", "effective"):
        assert (inner == 0) <= (found[name] == 0)
        assert inner == 0 or 1 - 1e-5 <= found[name] <= found["numerical"] + 1e-3


def test_conv_weights_are_matrices_and_half_precision_works():
    weight = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert analysis.matrix(weight).shape == (6, 18)
    assert analysis.ranks(weight) == analysis.ranks(weight.reshape(6, 18))
    half = weight.bfloat16()
    assert analysis.ranks(half) == analysis.ranks(half.float())
    parameter = torch.nn.Parameter(weight)
    assert analysis.numerical_rank(parameter) == 6
    assert analysis.stable_rank(parameter) == analysis.ranks(weight)["stable"]
    assert analysis.effective_rank(parameter) == analysis.ranks(weight)["effective"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_ranks_refuse_what_is_not_finite_or_no_matrix(value):
    weight = torch.ones(2, 3)
    weight[1, 2] = value
    with pytest.raises(ModelError, match=r"shape \(2, 3\) was asked; it holds NaN or Inf"):
        analysis.ranks(weight)
    with pytest.raises(ModelError, match=r"shape \(3,\) is no matrix"):
        analysis.ranks(torch.ones(3))


def masks():
    conv = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    conv[0] = True
    full = torch.ones(3, 4, dtype=torch.bool)
    full[1] = False
    full[2, 0] = False
    return {"conv1.weight": conv, "fc1.weight": full}


def test_kept_sparsity_and_compression():
    assert analysis.kept(masks()) == {"conv1.weight": 4, "fc1.weight": 7}
    assert analysis.sparsity(masks()) == 9 / 20
    assert analysis.compression(masks()) == 20 / 11
    weights = {name: torch.full(mask.shape, -0.5) * mask for name, mask in masks().items()}
    assert analysis.sparsity(weights) == 9 / 20
    empty = {"fc1.weight": torch.zeros(2, 2, dtype=torch.bool)}
    assert analysis.sparsity(empty) == 1
    assert analysis.compression(empty) == math.inf
    for nothing in ({}, {"fc1.weight": torch.zeros(0, 2)}):
        with pytest.raises(ModelError, match="no weights were given"):
            analysis.sparsity(nothing)


def test_flop_per_layer_and_in_total():
    found = analysis.flop(masks(), {"conv1.weight": 9, "fc1.weight": 1, "other": 5})
    assert found.layers == {"conv1.weight": 72, "fc1.weight": 14}
    assert found.total == 86
    with pytest.raises(ModelError, match=r"FLOP of fc1.weight: .*not known .known: conv1.weight."):
        analysis.flop(masks(), {"conv1.weight": 9})


def test_flop_of_the_published_networks():
    article = [(300, 784), (200, 300), (100, 200), (50, 100), (10, 50)]
    dense = {str(i): torch.ones(shape, dtype=torch.bool) for i, shape in enumerate(article)}
    assert analysis.flop(dense, dict.fromkeys(dense, 1)).total == 641_400
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}
    caffe = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    found = analysis.flop(caffe, {"conv1": 576, "conv2": 64, "ip1": 1, "ip2": 1})
    assert found.layers == {"conv1": 576_000, "conv2": 3_200_000, "ip1": 800_000, "ip2": 10_000}


def test_survival_counts_kept_weights_per_neuron():
    assert [analysis.survival(mask).tolist() for mask in masks().values()] == [[4, 0], [4, 0, 3]]
    assert analysis.survival(torch.tensor([[0.0, -2.0], [0.0, 0.0]])).tolist() == [1, 0]
    with pytest.raises(ModelError, match="has no neurons"):
        analysis.survival(torch.ones(3))
