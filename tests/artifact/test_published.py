"""Deep Compression as published: round trip, fillers, and everything counted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.artifact import build, from_bytes, layer_size, published, to_bytes
from actprune.artifact.deep_compression import prepare, read, write
from actprune.artifact.entropy import Cursor
from actprune.artifact.inspect import entropy_bits, log2_choose
from actprune.artifact.tensor import join
from actprune.errors import ArtifactError
from support.artifact_files import program


def sparse(shape, density, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(40, 50), (7,), (4, 3, 3, 3), (1, 1), (0, 3)]), st.sampled_from([0.0, 0.005, 0.1, 1.0]),
    st.integers(1, 8), st.integers(1, 8), st.integers(0, 999),
)  # fmt: skip
def test_tensors_round_trip(shape, density, bits, gap_bits, seed):
    spec, parts = prepare("w", sparse(shape, density, seed), bits, gap_bits)
    data = write(spec, parts)
    cursor = Cursor(data)
    assert torch.equal(join(spec, read(cursor, spec)), join(spec, parts))
    assert cursor.left == 0
    assert join(spec, parts).unique().numel() <= (1 << bits) + 1


def test_zeros_stay_zeros_and_weights_stay_near():
    tensor = sparse((60, 80), 0.1)
    found = join(*prepare("w", tensor, 5))
    assert torch.equal(found == 0, tensor == 0)
    assert (found - tensor).abs().max() <= (tensor.max() - tensor.min()) / 31


def test_a_gap_that_does_not_fit_is_filled():
    tensor = torch.zeros(100)
    tensor[[3, 40, 99]] = 1.0
    size = layer_size(*prepare("w", tensor, 2, 3))
    assert size.kept == 3
    assert size.fillers == 0 + 36 // 8 + 58 // 8


def test_the_last_code_is_the_filler_only_where_there_are_fillers():
    tensor = torch.linspace(1, 2, 64)
    assert join(*prepare("w", tensor, 3)).unique().numel() == 8
    far = torch.zeros(10_000)
    far[::100] = torch.linspace(1, 2, 100)
    assert join(*prepare("w", far, 3)).unique().numel() == 8  # seven centroids and zero


def test_sizes_are_those_of_the_bytes():
    tensor = sparse((100, 200), 0.08)
    spec, parts = prepare("w", tensor, 6)
    size = layer_size(spec, parts)
    assert size.coded_bytes == len(write(spec, parts))
    entries = size.kept + size.fillers
    assert size.fixed_bytes == 4 * len(parts.symbols.table) + math.ceil(entries * 6 / 8) + math.ceil(entries * 5 / 8)
    tables = 4 * len(parts.symbols.table) + math.ceil((len(parts.symbols.table) + 1) * 5 / 8) + 32 * 5 // 8
    streams = entries * (size.weight_bits_coded + size.index_bits_coded) / 8
    assert size.coded_bytes == pytest.approx(tables + streams, abs=12)
    assert size.weight_bits_coded < size.weight_bits
    assert size.index_bits_coded < size.index_bits


def test_it_costs_more_than_the_entropy_bound_and_not_twice():
    tensor = sparse((200, 300), 0.05)
    spec, parts = prepare("w", tensor, 4)
    bound = (log2_choose(tensor.numel(), int(tensor.count_nonzero())) + entropy_bits(parts.symbols.symbols)) / 8
    assert bound < len(write(spec, parts)) < 1.3 * bound


def test_whole_files_load():
    model = program(0.2, (60, 40, 4))
    doc = published(model.structure(), model.tensors(), {"0.weight": 5, "2.weight": 6}, {}, {"2.weight": 3})
    found = build(from_bytes(to_bytes(doc)))
    state, expected = found.state_dict(), doc.tensors()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(state["0.bias"], model.state_dict()["0.bias"])


@pytest.mark.parametrize(("bits", "gap_bits"), [(0, 5), (9, 5), (4, 0), (4, 9)])
def test_impossible_widths_are_refused(bits, gap_bits):
    with pytest.raises(ArtifactError, match="must be 1 to 8"):
        prepare("w", sparse((4, 4), 0.5), bits, gap_bits)
