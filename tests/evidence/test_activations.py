"""Statistics: hand-computed sums, exactness in every dtype, and merging by adding."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.errors import RecipeError
from actprune.evidence import SHARED, Firing, Gram, InputMoments, MeanAbs, OfActivations, OutputMoments, Scratch, merge
from actprune.evidence.firing import EXACT, Tally
from actprune.types import Evidence

VALUES = torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.0, 3.0]])
ALL = [Firing(), Firing(0.5), MeanAbs(), OutputMoments(), InputMoments(), Gram()]


def summed(evidence, values, axis=-1):
    sums = evidence.init(values.shape[axis], values)
    evidence.update(sums, values, axis)
    return sums


def test_hand_computed_sums():
    assert summed(Firing(), VALUES)["fired"].tolist() == [0, 1, 2]
    assert summed(Firing(1.0), VALUES)["fired"].tolist() == [0, 0, 2]  # |value| > 1
    assert summed(Firing(), VALUES)["rows"].item() == 2
    assert summed(MeanAbs(), VALUES)["out_abs"].tolist() == [0, 1, 5]
    moments = summed(OutputMoments(), VALUES)
    assert (moments["out_sum"].tolist(), moments["out_square"].tolist()) == ([0, 1, 1], [0, 1, 13])
    moments = summed(InputMoments(), VALUES)
    assert (moments["in_sum"].tolist(), moments["in_square"].tolist()) == ([0, 1, 1], [0, 1, 13])
    assert moments["in_rows"].item() == 2


def test_types_of_the_sums():
    assert {key: value.dtype for key, value in summed(Firing(), VALUES.half()).items()} == {
        "fired": torch.int64,
        "rows": torch.int64,
    }
    for need in ALL[2:]:
        for key, value in summed(need, VALUES.half()).items():
            assert value.dtype == (torch.int64 if key in SHARED else torch.float64)


@pytest.mark.parametrize("need", ALL, ids=str)
def test_every_axis_layout_counts_the_same_rows(need):
    tokens = torch.randn(4, 5, 6, 3).relu()
    flat = summed(need, tokens.reshape(-1, 3))
    for values, axis in [
        (tokens, -1),
        (tokens.movedim(-1, 1), 1),  # conv: examples x positions
        (tokens.reshape(20, 6, 3).movedim(-1, 1), 1),
        (tokens.reshape(1, -1, 3)[0].T.reshape(3, 10, 12), 0),  # unbatched conv
        (tokens.movedim(-1, 1).contiguous(memory_format=torch.channels_last), 1),
    ]:
        other = summed(need, values, axis)
        assert all(torch.allclose(other[key].double(), flat[key].double()) for key in flat)


def test_one_unbatched_vector_is_one_row():
    sums = summed(Firing(), torch.tensor([0.0, 2.0]))
    assert (sums["fired"].tolist(), sums["rows"].item()) == ([0, 1], 1)


def test_fp16_squares_do_not_overflow():
    big = torch.full((4, 1), 60000.0, dtype=torch.float16)
    assert summed(OutputMoments(), big)["out_square"].item() == 4 * float(big[0]) ** 2


@pytest.mark.parametrize("need", ALL[2:], ids=str)
def test_nan_and_inf_show_in_the_sums(need):
    for bad in (float("nan"), float("inf")):
        sums = summed(need, torch.tensor([[1.0, bad]]))
        assert not all(bool(value.isfinite().all()) for value in sums.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("need", ALL[:2], ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [((700, 3), -1), ((7, 5, 3), -1), ((9, 3, 20), 1), ((3, 40), 0), ((3,), -1)]
)
def test_the_fast_tally_is_exact_in_every_dtype(dtype, need, shape, axis):
    statistic = need
    tally, sums = statistic.accumulator(Scratch()), statistic.init(3, torch.zeros(1))
    assert isinstance(tally, Tally)
    for _ in range(3):
        values = torch.randn(shape).to(dtype).relu()
        tally.add(values, axis)
        statistic.update(sums, values, axis)
    found = tally.flush()
    assert {key: value.tolist() for key, value in found.items()} == {key: value.tolist() for key, value in sums.items()}
    assert found["fired"].dtype == torch.int64
    assert tally.flush() == {}


def test_tallies_that_share_a_scratch_buffer_do_not_mix():
    scratch = Scratch()
    one, two = (Firing().accumulator(scratch) for _ in range(2))
    batches = [(torch.randn(rows, 5).relu(), torch.randn(rows, 3).relu()) for rows in (4, 4, 9, 30_000, 2)]
    for left, right in batches:
        one.add(left, -1)
        two.add(right, -1)
    for tally, side in ((one, 0), (two, 1)):
        assert tally.flush()["fired"].tolist() == sum((pair[side] != 0).sum(0) for pair in batches).tolist()


def test_the_tally_follows_changes_of_type_and_axis():
    tally, values = Firing().accumulator(Scratch()), torch.randn(4, 4, 4).relu()
    expected = torch.zeros(4, dtype=torch.int64)
    for dtype, axis in [(torch.float32, 1), (torch.float32, -1), (torch.bfloat16, -1), (torch.float64, 1)]:
        tally.add(values.to(dtype), axis)
        expected += (values.to(dtype) != 0).sum([other for other in range(3) if other != axis % 3])
    assert tally.flush()["fired"].tolist() == expected.tolist()


def test_the_tally_stays_exact_where_float32_would_not():
    tally = Tally(Firing())
    ones = torch.ones(1, 1).expand(EXACT - 1, 1)
    tally.add(ones, -1)
    tally.add(torch.ones(3, 1), -1)  # 2**24 + 2 is the first sum that would be off in float32 counting by ones
    tally.add(torch.ones(1, 1), -1)
    assert tally.flush()["fired"].item() == EXACT + 3
    tally.add(torch.ones(1, 1).expand(EXACT + 1, 1), -1)  # one batch that is too large by itself
    tally.add(torch.ones(2, 1), -1)
    assert {key: value.item() for key, value in tally.flush().items()} == {"fired": EXACT + 3, "rows": EXACT + 3}


def test_the_tally_is_exact_under_autocast_and_after_inference_mode():
    tally = Tally(Firing())
    with torch.autocast("cpu", torch.bfloat16):
        tally.add(torch.ones(1001, 2), -1)
    with torch.inference_mode():
        tally.add(torch.ones(2, 2), -1)
    tally.add(torch.ones(2, 2, requires_grad=True), -1)
    found = tally.flush()
    assert found["fired"].tolist() == [1005, 1005]
    assert not found["fired"].is_inference()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 10_000), st.sampled_from(ALL))
def test_sums_of_parts_are_the_sum_of_the_whole(rows, cuts, seed, need):
    values = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)).relu()
    whole = summed(need, values)
    bounds = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    merged = {}
    for start, stop in itertools.pairwise(bounds):
        merge(merged, summed(need, values[start:stop]))
    for key, value in whole.items():
        if value.dtype == torch.int64:
            assert torch.equal(merged[key], value)
        assert torch.allclose(merged[key].double(), value.double(), rtol=1e-12)


def test_merging_does_not_tie_the_two_together():
    more = summed(Firing(), VALUES)
    into = {}
    merge(into, more)
    merge(into, more)
    assert more["fired"].tolist() == [0, 1, 2]
    assert into["fired"].tolist() == [0, 2, 4]


def test_meaningless_thresholds():
    with pytest.raises(RecipeError, match="finite"):
        Firing(float("nan"))


@pytest.mark.parametrize("evidence", ALL, ids=str)
def test_evidence_is_frozen_and_knows_its_entries(evidence):
    assert isinstance(evidence, OfActivations)
    assert isinstance(evidence, Evidence)
    assert hash(evidence) == hash(type(evidence)(**vars(evidence)))
    assert set(evidence.keys) == set(summed(evidence, VALUES))
