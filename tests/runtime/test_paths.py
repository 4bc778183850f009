"""Every path computes what the network computes, at any batch size, or says why it cannot."""

import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.errors import RuntimePathError
from actprune.runtime.base import KEPT_SIZES, csr, sized
from actprune.runtime.paths import PATHS
from actprune.runtime.paths.mkl_library import mkl
from support.execution import built, close, exact, inputs, model_of
from support.nets import convnet, sparse_mlp

OURS = {path.name: path for path in PATHS if path.name != "numba sparse"}  # that one has tests of its own
SPARSE = ["litert sparse", "litert blocks", "torch csr", "mkl sparse"]
DENSE = ["torch eager", "onnxruntime dense", "openvino dense"]
COMPACT = ["torch eager compact", "onnxruntime compact", "openvino compact"]


def test_names_are_unique_and_the_dense_ones_are_references():
    assert len({path.name for path in PATHS}) == len(PATHS)
    assert [path.name for path in PATHS if path.dense] == DENSE


@pytest.mark.parametrize("name", [*SPARSE, *DENSE])
def test_images_through_a_chain_at_several_batch_sizes(name):
    net = sparse_mlp(30, 9, 6, 3, density=0.3)
    run = built(OURS[name], model_of(net, inputs(1, 5, 6)))
    for batch in (1, 3, 1, 32, 65, 3):
        x = inputs(batch, 5, 6, seed=batch)
        close(run(x), exact(net, x))


@pytest.mark.parametrize("name", COMPACT)
def test_the_compact_paths_run_the_small_program(name):
    net, small = sparse_mlp(10, 8, 3), sparse_mlp(4, 5, 3, columns=[1, 2, 5, 9])
    run = built(OURS[name], model_of(net, inputs(2, 10), small=small))
    x = inputs(3, 10)
    close(run(x), exact(small, x))


@pytest.mark.parametrize("name", COMPACT)
def test_images_whose_pixels_are_gathered(name):
    small = sparse_mlp(3, 4, 2, columns=[5, 0, 7])
    run = built(OURS[name], model_of(sparse_mlp(8, 2), inputs(1, 2, 4), small=small))
    for batch in (1, 6):
        close(run(inputs(batch, 2, 4)), exact(small, inputs(batch, 2, 4)))


@pytest.mark.parametrize("name", COMPACT[1:])
def test_gathered_features_that_do_not_exist(name):
    small = sparse_mlp(2, 2, columns=[1, 8])
    with pytest.raises(RuntimePathError, match=r"reads feature 8, an example has 4|not installed"):
        OURS[name].build(model_of(sparse_mlp(4, 2), inputs(1, 4), small=small))


@pytest.mark.parametrize("name", COMPACT)
def test_the_compact_paths_are_not_measured_twice(name):
    with pytest.raises(RuntimePathError, match="not compacted"):
        OURS[name].build(model_of(sparse_mlp(4, 2), inputs(1, 4)))


@pytest.mark.parametrize("name", SPARSE)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    density=st.sampled_from([0.0, 0.2, 1.0]),
    bias=st.booleans(),
    gathered=st.booleans(),
    batch=st.sampled_from([1, 2, 33]),
    seed=st.integers(0, 99),
)
def test_random_chains(name, widths, density, bias, gathered, batch, seed):
    columns = np.random.default_rng(seed).permutation(widths[0] + 3)[: widths[0]] if gathered else None
    net = sparse_mlp(*widths, density=density, bias=bias, columns=columns, seed=seed)
    x = inputs(batch, widths[0] + (3 if gathered else 0), seed=seed)
    close(built(OURS[name], model_of(net, x))(x), exact(net, x))


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_paths_refuse_convolutions(name):
    with pytest.raises(RuntimePathError, match=r"not a chain of fully connected layers|not installed"):
        OURS[name].build(model_of(convnet(), inputs(1, 1, 8, 8)))


@pytest.mark.parametrize("name", DENSE)
def test_convolutions_at_several_batch_sizes(name):
    net = convnet()
    run = built(OURS[name], model_of(net, inputs(1, 1, 8, 8)))
    for batch in (1, 5):
        x = inputs(batch, 1, 8, 8, seed=batch)
        close(run(x), exact(net, x))


@pytest.mark.parametrize("name", [name for name in [*SPARSE, *DENSE] if name != "torch eager"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 5), (2, 2, 2), (4,)])
def test_other_shapes_are_refused(name, shape):
    run = built(OURS[name], model_of(sparse_mlp(4, 2), inputs(1, 4)))
    with pytest.raises(RuntimePathError, match="pass a non-empty batch"):
        run(np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", SPARSE)
def test_an_example_of_another_width_is_an_error_and_not_a_read_of_foreign_memory(name):
    model = model_of(sparse_mlp(2, 2, columns=[1, 4]), inputs(1, 5))
    wrong = type(model)(model.dense, model.small, inputs(1, 3))
    with pytest.raises(RuntimePathError, match=r"example of the shape|not installed"):
        OURS[name].build(wrong)
    chain = model_of(sparse_mlp(4, 2), inputs(1, 4))
    with pytest.raises(RuntimePathError, match=r"example of the shape|not installed"):
        OURS[name].build(type(model)(chain.dense, chain.small, inputs(1, 3)))


@pytest.mark.parametrize("name", ["onnxruntime dense", "openvino dense", "litert sparse", "mkl sparse"])
def test_more_threads_same_results(name):
    net, x = sparse_mlp(40, 30, 5), inputs(64, 40)
    close(built(OURS[name], model_of(net, x, threads=2))(x), exact(net, x))


@pytest.mark.parametrize("name", sorted(OURS))
def test_an_absent_library_is_a_word_and_not_a_crash(name, monkeypatch, tmp_path):
    def absent(module, *_):
        raise ImportError(f"No module named {module!r}", name=module)

    path = OURS[name]
    model = model_of(sparse_mlp(4, 2), inputs(1, 4), small=sparse_mlp(4, 2, density=0.1))
    mkl.cache_clear()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(importlib, "import_module", absent)
    if path.extra is None:
        assert path.build(model)(inputs(1, 4)).shape == (1, 2)
    else:
        with pytest.raises(RuntimePathError, match="not installed here; pip install"):
            path.build(model)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(1, 6), st.integers(0, 99))
def test_csr_rebuilds_the_matrix(rows, columns, seed):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.4)
    starts, places = csr(dense)
    rebuilt = np.zeros_like(dense)
    for row in range(rows):
        rebuilt[row, places[starts[row] : starts[row + 1]]] = dense[row, places[starts[row] : starts[row + 1]]]
    assert (rebuilt == dense).all()
    assert starts[-1] == np.count_nonzero(dense)


def test_prepared_sizes_are_made_once_and_the_oldest_goes():
    made = []

    def prepare(batch):
        made.append(batch)
        return lambda x: x

    run = sized(prepare, (1,))
    for batch in [1, 1, *range(2, KEPT_SIZES + 2), 2, 1]:
        run(np.zeros((batch, 1), np.float32))
    assert made == [1, *range(2, KEPT_SIZES + 2), 1]
