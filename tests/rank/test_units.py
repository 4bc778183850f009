"""Units, rows and n:m patterns: masks worked out by hand."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.errors import RecipeError
from actprune.rank import ties
from actprune.rank.rows import lowest_of_nm, lowest_of_rows, row_counts
from actprune.rank.units import Block, Neuron, Weight
from actprune.scopes import NM

CPU = torch.device("cpu")


def test_a_neuron_scores_the_mean_of_its_weights_in_float64():
    scores = Neuron().scores(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert scores.dtype == torch.float64
    assert scores.tolist() == [1.5, 4.5]


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2, 2), (3, 1)])
def test_counts_that_are_constant_along_a_neuron_stay_exact_integers(shape):
    counts = torch.tensor([2**60 + 1, 0, 2**60])
    expanded = counts.view(3, *(1,) * (len(shape) - 1)).expand(shape)
    scores = Neuron().scores(expanded)
    assert scores.dtype == torch.int64
    assert torch.equal(scores, counts)


def test_a_conv_neuron_is_its_whole_filter():
    scores = torch.arange(2 * 3 * 4.0).view(2, 3, 2, 2)
    assert Neuron().scores(scores).tolist() == [5.5, 17.5]
    assert Neuron().kept_weights(scores.shape, None) == 12
    mask = Neuron().mask(torch.tensor([True, False]), (2, 3, 2, 2))
    assert mask[0].all()
    assert not mask[1].any()


def test_edge_tiles_are_smaller():
    scores = torch.arange(15.0).view(3, 5)
    tiles = Block(2, 3).scores(scores)
    assert tiles.tolist() == [[3.5, 6.0], [11.0, 13.5]]  # means of {0,1,2,5,6,7}, {3,4,8,9}, {10,11,12}, {13,14}
    assert Block(2, 3).kept_weights((3, 5), None).tolist() == [[6, 4], [3, 2]]
    mask = Block(2, 3).mask(torch.tensor([[True, False], [False, True]]), (3, 5))
    assert mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_a_block_of_a_conv_runs_over_inputs_and_kernel():
    mask = Block(1, 3).mask(torch.tensor([[True, False, True]]), (1, 2, 2, 2))
    assert mask.flatten().int().tolist() == [1, 1, 1, 0, 0, 0, 1, 1]


def test_a_unit_costs_what_it_still_keeps():
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    assert Neuron().kept_weights((3, 3), mask).tolist() == [2, 0, 3]
    assert Block(2, 2).kept_weights((3, 3), mask).tolist() == [[1, 1], [2, 1]]
    assert Weight().kept_weights((3, 3), mask) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_tiles_cover_every_weight_once(out, inputs, rows, cols, kernel):
    shape = (out, inputs, kernel)
    sizes = Block(rows, cols).kept_weights(shape, None)
    assert int(sizes.sum()) == out * inputs * kernel
    for tile in itertools.product(*map(range, sizes.shape)):
        keep = torch.ones(sizes.shape, dtype=torch.bool)
        keep[tile] = False
        assert int((~Block(rows, cols).mask(keep, shape)).sum()) == int(sizes[tile])


def test_two_of_four_by_hand():
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0, 8.0, 5.0, 6.0, 7.0]])
    removed = lowest_of_nm(NM(2, 4), "a", scores, None, 0)
    assert removed.int().tolist() == [[1, 0, 0, 1, 0, 1, 1, 0]]


def test_nm_of_a_conv_runs_along_the_inputs_at_each_kernel_position():
    scores = torch.tensor([[[1.0, 9.0], [2.0, 1.0]]])  # (1, 2, 2)
    assert lowest_of_nm(NM(1, 2), "a", scores, None, 0).tolist() == [[[True, False], [False, True]]]


def test_nm_keeps_the_best_of_what_is_alive():
    scores = torch.tensor([[9.0, 8.0, 2.0, 1.0]])
    alive = torch.tensor([[False, True, True, True]])
    removed = lowest_of_nm(NM(2, 4), "a", scores, alive, 0)
    assert removed.tolist() == [[False, False, False, True]]


def test_nm_ties_are_seeded_and_every_group_has_its_share():
    def removed(seed):
        return lowest_of_nm(NM(2, 4), "a", torch.ones(64, 16), None, seed)

    assert torch.equal(removed(0), removed(0))
    assert not torch.equal(removed(0), removed(1))
    assert (removed(0).view(64, 4, 4).sum(-1) == 2).all()


def test_inputs_that_are_not_a_multiple_of_m_name_layer_and_remedy():
    with pytest.raises(RecipeError, match=r"2:4 .*'fc1.weight' with shape \(3, 6\).*skip=\('fc1',\)"):
        lowest_of_nm(NM(2, 4), "fc1.weight", torch.ones(3, 6), None, 0)


def test_the_lowest_of_every_row_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 5.0, 0.0]])
    alive = torch.tensor([[True, True, True], [False, True, True]])
    removed = lowest_of_rows("a", scores, alive, torch.tensor([2, 1]), 0)
    assert removed.int().tolist() == [[0, 1, 1], [0, 0, 1]]


def test_rows_do_not_depend_on_how_many_are_ranked_together(monkeypatch):
    scores = torch.randint(0, 4, (50, 20))
    counts = torch.arange(50) % 20
    whole = lowest_of_rows("a", scores, None, counts, 3)
    monkeypatch.setattr("actprune.rank.rows._AT_ONCE", 30)
    assert torch.equal(lowest_of_rows("a", scores, None, counts, 3), whole)
    assert torch.equal(whole.sum(1), counts)


def test_row_counts_are_even_within_their_bounds():
    keys = ties.unit_keys("a", 4, 0, CPU)
    least, most = torch.tensor([0, 3, 0, 0]), torch.tensor([5, 5, 1, 5])
    counts = row_counts(8, least, most, keys)
    assert counts.tolist() == [2, 3, 1, 2]
    counts = row_counts(9, least, most, keys)
    assert int(counts.sum()) == 9
    assert sorted(counts.tolist()) == [1, 2, 3, 3]
    assert row_counts(16, least, most, keys).tolist() == [5, 5, 1, 5]
    assert row_counts(3, least, most, keys).tolist() == [0, 3, 0, 0]
