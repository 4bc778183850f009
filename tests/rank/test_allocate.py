"""Integer budgets per layer: hand-solved numbers, exact sums, bounds."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.errors import BudgetError
from actprune.rank.allocate import Share, allocate, erk_densities, round_half_up


def share(*shape, removed=0, removable=None, price=1):
    size = price
    for length in shape:
        size *= length
    return Share("x".join(map(str, shape)), shape, size, removed, size if removable is None else removable)


LENET = [share(300, 784), share(100, 300), share(10, 100)]


def test_uniform_takes_the_same_fraction_of_every_layer():
    assert allocate("uniform", LENET, 239_580) == [211_680, 27_000, 900]


def test_the_largest_remainder_gets_the_odd_weight():
    layers = [share(3, 1), share(5, 1), share(2, 1)]
    assert allocate("uniform", layers, 5) == [2, 2, 1]  # 1.5, 2.5, 1: the tie goes to the earlier layer
    assert allocate("uniform", layers, 4) == [1, 2, 1]  # 1.2, 2, 0.8


def test_erk_on_lenet_300_100_by_hand():
    # raw densities 1084/235200, 400/30000, 110/1000. At 10 % kept one scale for all would be 26620/1594 = 16.7, which
    # puts the last layer at 1.84: it stays dense, and (26620 - 1000)/(1084 + 400) = 17.264 holds for the others.
    scale = Fraction(25_620, 1484)
    assert erk_densities(LENET, 239_580) == [scale * 1084 / 235_200, scale * 400 / 30_000, 1]
    assert allocate("erk", LENET, 239_580) == [216_486, 23_094, 0]  # kept 18714.3 and 6905.7


def test_erk_counts_the_kernel():
    layers = [share(20, 1, 5, 5), share(50, 20, 5, 5)]
    # raw 31/500 and 80/25000; kept 2550 of 25500: scale 2550/111 puts the first at 1.42, so it is dense; 2050 remain.
    assert erk_densities(layers, 22_950) == [1, Fraction(2050, 25_000)]
    assert allocate("erk", layers, 22_950) == [0, 22_950]


def test_erk_reaches_the_asked_flop():
    layers = [share(20, 1, 5, 5, price=1152), share(50, 20, 5, 5, price=128), share(500, 800, price=2)]
    budgets = allocate("erk", layers, 2_000_000)
    assert sum(budgets) == 2_000_000
    density = [1 - removed / layer.cost for removed, layer in zip(budgets, layers, strict=True)]
    assert density[1] / density[2] == pytest.approx((80 / 25_000) / (1300 / 400_000), rel=1e-3)


def test_staged_prunes_one_layer_per_pruning_step_by_the_full_fraction():
    assert allocate("staged", LENET, 239_580, pruning_step=0) == [211_680, 0, 0]
    assert allocate("staged", LENET, 239_580, pruning_step=1) == [211_680, 27_000, 0]
    assert allocate("staged", LENET, 239_580, pruning_step=2) == [211_680, 27_000, 900]
    assert allocate("staged", LENET, 239_580, pruning_step=7) == [211_680, 27_000, 900]


def test_what_is_removed_stays_removed_and_the_others_give_less():
    layers = [share(100, 1, removed=80), share(100, 1)]
    assert allocate("uniform", layers, 100) == [80, 20]
    assert allocate("uniform", layers, 30) == [80, 0]  # nothing comes back


def test_what_may_not_be_removed_is_taken_from_the_others():
    layers = [share(100, 1, removable=50), share(100, 1), share(100, 1)]
    assert allocate("uniform", layers, 240) == [50, 95, 95]


def test_layers_that_erk_keeps_dense_give_way_when_the_others_cannot():
    layers = [share(300, 784, removable=200_000), share(100, 300), share(10, 100)]
    assert allocate("erk", layers, 230_500) == [200_000, 30_000, 500]


def test_an_impossible_budget_says_how_much_is_possible():
    layers = [share(10, 10, removable=90), share(10, 10, removable=60)]
    with pytest.raises(BudgetError, match=r"asked to remove 151 from 2 layers; only 150 may be removed"):
        allocate("uniform", layers, 151)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6
    ),
    st.floats(0, 1),
    st.sampled_from(("uniform", "erk", "staged")),
    st.integers(0, 6),
)
def test_sums_are_exact_and_bounds_hold(sizes, fraction, allocation, pruning_step):
    layers = []
    for out, inputs, low, high in sizes:
        removed, removable = sorted((int(low * out * inputs), int(high * out * inputs)))
        layers.append(share(out, inputs, removed=removed, removable=removable))
    asked = int(fraction * sum(layer.removable for layer in layers))
    try:
        budgets = allocate(allocation, layers, asked, pruning_step)
    except BudgetError:
        assert allocation == "staged"  # the layers whose turn it is may not have that much
        return
    for budget, layer in zip(budgets, layers, strict=True):
        assert layer.removed <= budget <= layer.removable
    if allocation != "staged":
        assert sum(budgets) == max(asked, sum(layer.removed for layer in layers))


def test_halves_round_up():
    assert [round_half_up(value) for value in (0.5, 1.5, 2.4999, Fraction(5, 2))] == [1, 2, 2, 3]
