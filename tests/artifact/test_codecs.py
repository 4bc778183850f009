"""Positions, values, Huffman codes and k-means: exact round trips, and sizes near the entropy."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.artifact import deep_compression, tensor, values
from actprune.artifact.encoding import candidates, chosen, code, read_raw, size, write_raw
from actprune.artifact.entropy import Cursor, Meter, Reader, Writer, packed, packed_size, unpacked, varint
from actprune.artifact.inspect import entropy_bits, log2_choose
from actprune.artifact.tensor import join, split
from actprune.artifact.values import Kind, centroids, nearest
from actprune.errors import ArtifactError

pytest.importorskip("constriction")
quick = settings(max_examples=40, deadline=None)
SHAPES = st.sampled_from([(7,), (1, 9), (12, 1), (5, 8), (30, 40), (4, 3, 3, 3), (3, 700), (100,), (), (0, 4)])
SEEDS = st.integers(0, 10_000)


def masked(shape, density, seed):
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(shape).astype(np.float32) * (rng.random(shape) < density)
    return np.asarray(array, np.float32)


@quick
@given(st.lists(st.integers(0, 2**42 - 1), max_size=20))
def test_varints_round_trip(numbers):
    cursor = Cursor(b"".join(varint(number) for number in numbers))
    assert [cursor.varint() for _ in numbers] == numbers
    assert cursor.left == 0


@quick
@given(st.integers(1, 16), st.integers(0, 50), SEEDS)
def test_packed_bits_round_trip(width, count, seed):
    symbols = np.random.default_rng(seed).integers(0, 1 << width, count)
    data = packed(symbols, width)
    assert len(data) == packed_size(width, count)
    np.testing.assert_array_equal(unpacked(memoryview(data), width, count), symbols)


def test_a_cursor_does_not_overrun():
    with pytest.raises(ArtifactError, match="ends too early"):
        Cursor(b"abc").take(4)
    with pytest.raises(ArtifactError, match="longer than any"):
        Cursor(b"\xff" * 9).varint()


@quick
@given(SHAPES, st.sampled_from([0.0, 0.01, 0.2, 0.9, 1.0]), SEEDS)
def test_positions_round_trip_in_every_encoding(shape, density, seed):
    mask = masked(shape, density, seed) != 0
    writer = Writer()
    tensor.code_mask(writer, shape, mask)
    found = tensor.code_mask(Reader(writer.getvalue()), shape, None)
    np.testing.assert_array_equal(found, mask.ravel())
    np.testing.assert_array_equal(tensor.read_gaps(Cursor(tensor.gaps(mask)), mask.size), mask.ravel())
    np.testing.assert_array_equal(tensor.read_bitmask(Cursor(tensor.bitmask(mask)), mask.size), mask.ravel())


def test_the_meter_measures_what_the_writer_writes():
    mask = masked((60, 80), 0.05, 0) != 0
    meter, writer = Meter(), Writer()
    tensor.code_mask(meter, mask.shape, mask)
    tensor.code_mask(writer, mask.shape, mask)
    assert abs(meter.bits / 8 - len(writer.getvalue())) <= 8


def test_uneven_densities_are_coded_below_the_bound_of_random_masks():
    rng = np.random.default_rng(0)
    rows, columns = rng.gamma(0.7, size=(100, 1)), rng.gamma(0.7, size=(1, 200))
    mask = rng.random((100, 200)) < np.minimum(0.04 * rows * columns, 0.9)
    meter = Meter()
    tensor.code_mask(meter, mask.shape, mask)
    assert meter.bits < 0.9 * log2_choose(mask.size, int(mask.sum()))


def test_random_masks_cost_their_entropy():
    mask = masked((100, 200), 0.03, 1) != 0
    meter = Meter()
    tensor.code_mask(meter, mask.shape, mask)
    assert meter.bits < 1.05 * log2_choose(mask.size, int(mask.sum()))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "int2", "int8", "int8row", "shared1", "shared4", "shared8"])
@pytest.mark.parametrize("density", [0.0, 0.15, 1.0])
def test_every_encoding_gives_the_same_tensor(kind, density):
    spec, parts = split("w", torch.from_numpy(masked((20, 30), density, 3)), kind)
    reference = join(spec, parts)
    for encoding in ("bits", "gaps"):
        stored = replace(spec, encoding=encoding)
        whole = parts if parts.mask is not None else replace(parts, mask=np.ones(spec.numel, np.bool_))
        torch.testing.assert_close(
            join(stored, read_raw(Cursor(write_raw(stored, whole)), stored)), reference, rtol=0, atol=0
        )
    stored = replace(spec, encoding="coded" if parts.mask is not None else "coded-all")
    writer = Writer()
    code(writer, stored, parts)
    assert torch.equal(join(stored, code(Reader(writer.getvalue()), stored, None)), reference)


@quick
@given(SHAPES, st.sampled_from([0.0, 0.1, 0.6, 1.0]), SEEDS)
def test_fp32_is_exact(shape, density, seed):
    tensor = torch.from_numpy(masked(shape, density, seed))
    spec, parts = split("w", tensor, "fp32")
    assert torch.equal(join(spec, parts), tensor)


def test_the_smallest_encoding_is_chosen():
    for density in (0.01, 0.3, 1.0):
        spec, parts = split("w", torch.from_numpy(masked((40, 50), density, 5)), "shared3")
        sizes = {name: size(replace(spec, encoding=name), parts) for name in candidates(spec, parts)}
        best, bytes_ = chosen(spec, parts)
        assert bytes_ == sizes[best.encoding] == min(sizes.values())


@pytest.mark.parametrize(
    ("kind", "most"), [("fp16", 2**-11), ("bf16", 2**-8), ("int8", 0.02), ("int8row", 0.02), ("shared8", 0.03)]
)
def test_rounding_stays_within_the_precision(kind, most):
    tensor = torch.from_numpy(masked((50, 60), 0.5, 7))
    error = (join(*split("w", tensor, kind)) - tensor).abs()
    assert error.max() <= most * tensor.abs().max()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(9).reshape(3, 3), torch.tensor([3, 1, 2]), torch.tensor([5, 9, 10, 700]), torch.tensor(4),
        torch.zeros(0, dtype=torch.int64), torch.tensor([True, False, True]), torch.tensor([[1.5, 0.0]]).double(),
        torch.tensor([1.5, -0.25, 0.0]).half(), torch.tensor([1.5, 0.0]).bfloat16(), torch.tensor([-4, 7]),
    ],
    ids=str,
)  # fmt: skip
def test_other_tensors_are_exact_and_keep_their_type(tensor):
    spec, parts = split("t", tensor, "fp32")
    spec, _ = chosen(spec, parts)
    if spec.encoding == "coded":
        writer = Writer()
        code(writer, spec, parts)
        found = join(spec, code(Reader(writer.getvalue()), spec, None))
    elif spec.encoding == "coded-all":
        found = join(spec, parts)
    else:
        found = join(spec, read_raw(Cursor(write_raw(spec, parts)), spec))
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)


def test_kept_inputs_are_stored_as_positions():
    columns = torch.arange(100, 700, 2)
    spec, parts = split("columns", columns, "fp32")
    spec, bytes_ = chosen(spec, parts)
    assert spec.kind == "index"
    assert bytes_ < 700 / 8


@pytest.mark.parametrize("kind", ["int9", "shared0", "shared9", "fp64", "", "float32", "int8col"])
def test_unknown_precisions_are_named(kind):
    with pytest.raises(ArtifactError, match="unknown value precision"):
        Kind.of(kind)


@pytest.mark.parametrize(
    ("value", "kind"), [(1e6, "fp16"), (1e6, "shared2"), (float("nan"), "int8"), (float("inf"), "shared2")]
)
def test_values_that_do_not_fit_are_refused_with_the_tensor_named(value, kind):
    with pytest.raises(ArtifactError, match="fc1"):
        split("fc1.weight", torch.tensor([[value, 1.0]]), kind)


@quick
@given(st.integers(1, 40), st.integers(0, 400), SEEDS)
def test_huffman_round_trips(size, count, seed):
    rng = np.random.default_rng(seed)
    symbols = np.minimum(rng.geometric(0.3, count) - 1, size - 1)
    data = deep_compression.huffman_coded(symbols, max(2, size))
    cursor = Cursor(data)
    np.testing.assert_array_equal(deep_compression.read_huffman(cursor, max(2, size), count), symbols)
    assert cursor.left == 0


def test_huffman_is_within_a_bit_of_the_entropy():
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, 5000) - 1, 31)
    lengths = deep_compression.code_lengths(np.bincount(symbols, minlength=32))
    assert entropy_bits(symbols) <= lengths[symbols].sum() <= entropy_bits(symbols) + len(symbols)
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1


def test_huffman_codes_stay_short_for_extreme_counts():
    counts = np.array([2**n for n in range(40)])
    assert deep_compression.code_lengths(counts).max() <= deep_compression.LONGEST


def test_exact_k_means_is_the_optimum():
    values_ = np.sort(np.random.default_rng(0).standard_normal(9))

    def cost(cuts):
        pieces = np.split(values_, cuts)
        return sum(((piece - piece.mean()) ** 2).sum() for piece in pieces)

    best = min(cost(cuts) for cuts in itertools.combinations(range(1, 9), 2))
    centers = centroids(values_, 3, "exact")
    assert math.isclose(((values_ - centers[nearest(values_, centers)]) ** 2).sum(), best)


@quick
@given(st.integers(1, 6), st.integers(1, 200), SEEDS)
def test_exact_k_means_is_never_worse_than_lloyd(bits, count, seed):
    sample = np.random.default_rng(seed).standard_t(3, count)

    def cost(init):
        centers = centroids(sample, 1 << bits, init)
        assert len(centers) <= 1 << bits
        assert (np.diff(centers) > 0).all()
        return ((sample - centers[nearest(sample, centers)]) ** 2).sum()

    assert cost("exact") <= cost("linear") + 1e-9


def test_few_different_values_are_their_own_centroids():
    np.testing.assert_array_equal(centroids(np.array([3.0, 1.0, 3.0]), 4), [1.0, 3.0])


def test_adaptive_symbols_cost_little_more_than_their_entropy():
    symbols = np.random.default_rng(0).binomial(15, 0.5, 3000).astype(np.uint32)
    meter = Meter()
    values.adaptive(meter, 16, len(symbols), symbols)
    assert meter.bits < 1.02 * entropy_bits(symbols)
