"""The numba path: the same numbers as a dense network in float64, at every batch size, and clear words for the rest."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune.errors import RuntimePathError
from actprune.program import Program, Ref, Step, export
from actprune.runtime.base import Model

pytest.importorskip("numba", reason="the numba path is an optional extra")
from actprune.runtime.paths.numba_sparse import NumbaSparse


def program(layers, columns=None, relu_last=False, relu_between=True):
    """A Program of flatten, gather where asked, and (weight, bias or None) layers with ReLUs."""
    tensors, steps, at = {}, [Step("flat", "flatten.using_ints", (Ref("x"), 1), {})], "flat"
    if columns is not None:
        tensors["columns"] = torch.tensor(columns)
        steps.append(Step("read", "index_select", (Ref(at), 1, Ref("columns")), {}))
        at = "read"
    for i, (weight, bias) in enumerate(layers):
        names = [f"fc{i}.weight"] + ([f"fc{i}.bias"] if bias is not None else [])
        tensors |= {name: torch.tensor(value) for name, value in zip(names, (weight, bias), strict=False)}
        steps.append(Step(f"fc{i}", "linear", (Ref(at), *map(Ref, names)), {}))
        at = f"fc{i}"
        if relu_last if i == len(layers) - 1 else relu_between:
            steps.append(Step(f"r{i}", "relu", (Ref(at),), {}))
            at = f"r{i}"
    return Program(("x",), steps, Ref(at), tensors)


def built(small, example, threads=1):
    return NumbaSparse().build(Model(small, small, example, threads))


def exact(small, x):
    with torch.no_grad():
        return copy.deepcopy(small).double()(torch.from_numpy(x).double()).numpy()


def sparse(rng, width, inputs, density):
    weight = rng.standard_normal((width, inputs)).astype(np.float32)
    return weight * (rng.random((width, inputs)) < density)


def batches(rng, batch, features, active=0.4):
    x = rng.random((batch, features), dtype=np.float32) - np.float32(0.3)
    return x * (rng.random((batch, features)) < active)


def same(found, expected):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(np.abs(expected).max(initial=0), 1e-3))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_random_chains_compute_what_the_dense_network_computes(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    features = data.draw(st.integers(1, 60))
    columns = None
    if data.draw(st.booleans()):
        columns = np.sort(rng.choice(features, data.draw(st.integers(1, features)), replace=False))
    widths = [
        features if columns is None else len(columns),
        *data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=4)),
    ]
    layers = [
        (
            sparse(rng, out, inputs, data.draw(st.sampled_from([0, 0.05, 0.4, 1]))),
            rng.standard_normal(out).astype(np.float32) if data.draw(st.booleans()) else None,
        )
        for inputs, out in pairwise(widths)
    ]
    small = program(layers, columns, data.draw(st.booleans()), data.draw(st.booleans()))
    run = built(small, batches(rng, 2, features))
    for batch in data.draw(st.lists(st.integers(1, 70), min_size=2, max_size=4)):
        x = batches(rng, batch, features, data.draw(st.sampled_from([0, 0.4, 1])))
        found = run(x).copy()
        same(found, exact(small, x))


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(1)
    layers = [(sparse(rng, 50, 36, 0.1), np.ones(50, np.float32)), (sparse(rng, 7, 50, 0.2), np.ones(7, np.float32))]
    return program(layers)


@pytest.fixture(scope="module")
def run(network):
    return built(network, np.zeros((1, 1, 6, 6), np.float32))


def images(batch):
    return batches(np.random.default_rng(batch), batch, 36).reshape(batch, 1, 6, 6)


@pytest.mark.parametrize("batch", range(71))
def test_every_batch_size_across_the_borders_of_tiles(network, run, batch):
    x = images(batch)
    same(run(x), network(torch.from_numpy(x)).detach().numpy())


def test_an_exported_model_runs_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)).eval()
    x = np.random.default_rng(0).random((5, 3, 4), dtype=np.float32)
    same(built(export(model, torch.from_numpy(x)), x)(x), model(torch.from_numpy(x)).detach().numpy())


def test_each_tile_forgets_the_one_before(network, run):
    """Lanes that a short tile does not fill hold old numbers: none of them may show."""
    run(np.full((32, 1, 6, 6), np.nan, np.float32))
    x = images(20)
    same(run(x), network(torch.from_numpy(x)).detach().numpy())
    run(np.full((1, 1, 6, 6), np.inf, np.float32))
    same(run(x[:1]), network(torch.from_numpy(x[:1])).detach().numpy())


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_inputs_spread_through_the_weights_that_are_left(batch, value):
    first = np.zeros((3, 4), np.float32)
    first[0, 0], first[1, 1] = 1, 1
    run = built(program([(first, None), (np.eye(3, dtype=np.float32), None)]), np.zeros((1, 4), np.float32))
    x = np.ones((batch, 4), np.float32)
    x[:, 0] = value
    expected = [np.maximum(np.float32(value), 0), 1, 0]  # numpy's maximum keeps NaN, like ReLU
    np.testing.assert_array_equal(run(x), np.broadcast_to(np.array(expected, np.float32), (batch, 3)))


def test_other_floats_strides_and_read_only_arrays_are_converted(network, run):
    x = images(6)
    frozen = x.copy()
    frozen.setflags(write=False)
    wide = np.zeros((6, 1, 6, 12), np.float32)
    wide[..., ::2] = x
    unaligned = np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    other_order = x.astype(">f4")

    class Special(np.ndarray):
        pass

    expected = network(torch.from_numpy(x)).detach().numpy()
    for given_x in (
        x.astype(np.float64),
        frozen,
        wide[..., ::2],
        np.asfortranarray(x),
        unaligned,
        other_order,
        x.view(Special),
    ):
        same(run(given_x), expected)
    same(run(x.astype(np.float16)), network(torch.from_numpy(x.astype(np.float16).astype(np.float32))).detach().numpy())


@pytest.mark.parametrize(
    ("given_x", "words"),
    [
        (np.zeros((2, 1, 6, 5), np.float32), r"found shape \(2, 1, 6, 5\)"),
        (np.zeros((2, 36), np.float32), "found shape"),
        (np.zeros((1, 6, 6), np.float32), "found shape"),
        (np.float32(1), "found a float32"),
        (np.array(1, np.float32), "found shape"),
        (np.zeros((2, 1, 6, 6), np.int32), "int32 values"),
        (np.zeros((2, 1, 6, 6), np.complex64), "complex64 values"),
        ([[[0.0]]], "found a list"),
        (torch.zeros(2, 1, 6, 6), "found a Tensor"),
        (None, "found a NoneType"),
    ],
)
def test_what_is_no_batch_is_refused_and_nothing_is_lost(network, run, given_x, words):
    x = images(2)
    expected = run(x).copy()
    with pytest.raises(RuntimePathError, match=words):
        run(given_x)
    same(run(x), expected)


def test_the_result_is_kept_while_the_batch_size_changes(run):
    kept = run(images(4))
    before = kept.copy()
    run(images(5))
    run(images(1))
    np.testing.assert_array_equal(kept, before)


def test_what_happens_to_the_model_afterwards_does_not_matter():
    small = program([(np.eye(3, dtype=np.float32), np.ones(3, np.float32))])
    run = built(small, np.zeros((1, 3), np.float32))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(np.nan)
    np.testing.assert_array_equal(run(np.zeros((1, 3), np.float32)), [[1, 1, 1]])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_a_batch_out(network, threads):
    run = built(network, images(1), threads)
    for batch in (1, 40, 64, 65, 96, 97, 200, 64, 300, 0):
        x = images(batch)
        same(run(x), network(torch.from_numpy(x)).detach().numpy())
    with pytest.raises(RuntimePathError):
        run(np.zeros((128, 5), np.float32))
    same(run(images(300).astype(np.float64)), network(torch.from_numpy(images(300))).detach().numpy())


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_network_whose_middle_was_pruned_away_returns_its_bias():
    layers = [(np.ones((0, 4), np.float32), None), (np.ones((2, 0), np.float32), np.float32([3, 4]))]
    run = built(program(layers), np.zeros((1, 4), np.float32))
    for batch in (1, 5, 40):
        np.testing.assert_array_equal(run(np.ones((batch, 4), np.float32)), [[3, 4]] * batch)


def test_what_is_no_chain_is_refused():
    steps = [Step("t", "tanh", (Ref("x"),), {})]
    with pytest.raises(RuntimePathError, match="chain"):
        built(Program(("x",), steps, Ref("t"), {}), np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    ("small", "words"),
    [
        (program([(np.ones((2, 5), np.float32), None)]), "for 4 inputs"),
        (program([(np.ones((2, 4), np.float32), None), (np.ones((2, 3), np.float32), None)]), "for 2 inputs"),
        (program([(np.ones((2, 2), np.float32), None)], columns=[0, 4]), "feature 4"),
        (program([(np.ones((2, 2), np.float32), None)], columns=[-1, 0]), "feature"),
        (program([(np.ones((2, 4), np.float64), None)]), "float64"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_any_memory_is_read(small, words):
    with pytest.raises(RuntimePathError, match=words):
        built(small, np.zeros((1, 4), np.float32))


def test_without_numba_it_says_what_to_install(network, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    with pytest.raises(RuntimePathError, match="numba"):
        built(network, images(1))
