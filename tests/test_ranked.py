"""``select``: recipes in, masks out. Every expected mask is worked out by hand or against a plain reference."""

import pytest
import torch

from actprune.edit import final_fraction
from actprune.errors import BudgetError, LayerCollapseError, RecipeError
from actprune.rank.units import Block, Neuron
from actprune.scopes import NM
from actprune.types import Budget, Cost
from support.selection import chosen, recipe, rows

TWO = {"a": torch.tensor([[1.0, 8.0], [3.0, 6.0]]), "b": torch.tensor([[2.0, 4.0]])}


def test_global_scope_ranks_all_layers_together():
    masks = chosen(recipe(), TWO, 0.5)
    assert rows(masks["a"]) == [[0, 1], [0, 1]]
    assert rows(masks["b"]) == [[0, 1]]


def test_layer_scope_takes_the_same_fraction_of_each_layer():
    masks = chosen(recipe(scope="layer"), TWO, 0.5)
    assert rows(masks["a"]) == [[0, 1], [0, 1]]
    assert rows(masks["b"]) == [[0, 1]]
    masks = chosen(recipe(scope="layer"), {"a": TWO["a"], "b": TWO["b"] + 100}, 0.5)
    assert rows(masks["b"]) == [[0, 1]]


def test_row_scope_takes_the_same_number_from_each_row():
    weights = {"a": torch.tensor([[1.0, 2.0, 3.0, 4.0], [50.0, 60.0, 40.0, 30.0]])}
    assert rows(chosen(recipe(scope="row"), weights, 0.5)["a"]) == [[0, 0, 1, 1], [1, 1, 0, 0]]
    odd = chosen(recipe(scope="row"), weights, 0.4)["a"]  # 3 of 8: one row gives two, the other one
    assert sorted((~odd).sum(1).tolist()) == [1, 2]


def test_the_number_removed_is_the_fraction_rounded_half_up():
    weights = {"a": torch.arange(10.0).view(2, 5)}
    for fraction, expected in ((0.24, 2), (0.25, 3), (0.9, 9), (0.0, 0)):
        assert int((~chosen(recipe(), weights, fraction)["a"]).sum()) == expected


def test_neuron_unit_removes_whole_neurons_until_the_budget_is_reached():
    weights = {"a": torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 5.0]]), "b": torch.tensor([[0.0], [9.0]])}
    masks = chosen(recipe(unit=Neuron()), weights, 0.5)  # 4 of 8: b's first neuron (1), then a's first (3)
    assert rows(masks["a"]) == [[0, 0, 0], [1, 1, 1]]
    assert rows(masks["b"]) == [[0], [1]]


def test_block_unit_removes_tiles():
    weights = {"a": torch.tensor([[1.0, 1.0, 9.0], [1.0, 1.0, 9.0], [2.0, 2.0, 0.0]])}
    masks = chosen(recipe(unit=Block(2, 2)), weights, 5 / 9)  # corner tile (1), big tile (4)
    assert rows(masks["a"]) == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_nm_unit_keeps_n_of_m_and_accepts_no_other_sparsity():
    weights = {"a": torch.tensor([[1.0, 4.0, 3.0, 2.0]])}
    assert rows(chosen(recipe(scope=NM(2, 4)), weights, 0.5)["a"]) == [[0, 1, 1, 0]]
    assert rows(chosen(recipe(scope=NM(1, 2)), weights, 0.4999)["a"]) == [[0, 1, 1, 0]]
    with pytest.raises(RecipeError, match=r"2:4 pattern removes a fraction of 0.5, .* 0.9 was asked"):
        chosen(recipe(scope=NM(2, 4)), weights, 0.9)
    with pytest.raises(RecipeError, match="not a multiple of 3"):
        chosen(recipe(scope=NM(1, 3)), weights, 2 / 3)


def test_erk_leaves_small_layers_dense():
    weights = {"a": torch.rand(300, 784), "b": torch.rand(100, 300), "c": torch.rand(10, 100)}
    masks = chosen(recipe(scope="layer", allocation="erk"), weights, 0.9)
    assert [int((~mask).sum()) for mask in masks.values()] == [216_486, 23_094, 0]


def test_staged_prunes_layer_by_layer_at_the_full_fraction():
    weights = {"a": torch.rand(10, 10), "b": torch.rand(4, 10)}
    rec = recipe(scope="layer", allocation="staged")
    first = chosen(rec, weights, 0.9)
    assert [int((~mask).sum()) for mask in first.values()] == [90, 0]
    second = chosen(rec, weights, 0.9, masks=first, pruning_step=1)
    assert [int((~mask).sum()) for mask in second.values()] == [90, 36]
    assert torch.equal(second["a"], first["a"])


def test_flop_budget_counts_output_positions():
    weights = {"conv": torch.tensor([[1.0, 9.0]]), "fc": torch.tensor([[3.0, 4.0, 5.0, 6.0]])}
    rec = recipe(budget=Budget.flop(0.5))
    masks = chosen(rec, weights, 0.5, positions={"conv": 8})  # 20 of 40: the 1 (16), the 3 (2), the 4 (2)
    assert rows(masks["conv"]) == [[0, 1]]
    assert rows(masks["fc"]) == [[0, 0, 1, 1]]


def test_a_budget_of_all_also_counts_the_layers_left_alone():
    weights = {"a": torch.arange(80.0).view(8, 10)}
    rec = recipe(budget=Budget.sparsity(0.5, of="all"))
    assert int((~chosen(rec, weights, 0.5, others=Cost(weights=20))["a"]).sum()) == 50
    assert int((~chosen(recipe(), weights, 0.5, others=Cost(weights=20))["a"]).sum()) == 40
    with pytest.raises(BudgetError, match=r"remove 90 of 100 weights .* only 80 may be removed"):
        chosen(rec, weights, 0.9, others=Cost(weights=20))


def test_removed_weights_stay_removed_and_count():
    masks = {"a": torch.tensor([[True, False], [True, True]])}  # the 8 is gone
    new = chosen(recipe(), TWO, 0.5, masks=masks)
    assert rows(new["a"]) == [[0, 0], [1, 1]]
    assert rows(new["b"]) == [[0, 1]]
    again = chosen(recipe(), TWO, 1 / 6, masks=masks)  # that much is gone already
    assert rows(again["a"]) == [[1, 0], [1, 1]]
    assert again["b"].all()


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_masks_only_shrink_from_pruning_step_to_pruning_step(scope):
    torch.manual_seed(0)
    masks = None
    for fraction in (0.3, 0.6, 0.9):
        weights = {"a": torch.rand(30, 20), "b": torch.rand(10, 30)}
        new = chosen(recipe(scope=scope), weights, fraction, masks=masks)
        assert sum(int((~mask).sum()) for mask in new.values()) == round(fraction * 900)
        assert masks is None or all(not (new[name] & ~masks[name]).any() for name in new)
        masks = new


def test_a_neuron_that_is_partly_gone_costs_what_it_keeps():
    weights = {"a": torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])}
    masks = {"a": torch.tensor([[True, False], [True, True], [True, True]])}
    new = chosen(recipe(unit=Neuron()), weights, 1 / 3, masks=masks)  # 2 of 6: one is gone, one more
    assert rows(new["a"]) == [[0, 0], [1, 1], [1, 1]]


def test_without_monotone_the_old_mask_does_not_matter():
    masks = {"a": torch.tensor([[True, False], [True, True]])}
    new = chosen(recipe(monotone=False), TWO, 0.5, masks=masks)
    assert rows(new["a"]) == [[0, 1], [0, 1]]


def test_the_best_units_of_a_layer_never_compete():
    weights = {"a": torch.tensor([[1.0, 2.0, 3.0]]), "b": torch.tensor([[7.0, 8.0, 9.0]])}
    masks = chosen(recipe(keep_at_least=1), weights, 0.5)
    assert rows(masks["a"]) == [[0, 0, 1]]
    assert rows(masks["b"]) == [[0, 1, 1]]
    with pytest.raises(BudgetError, match=r"remove 5 of 6 weights .* only 4 may be removed .*keep_at_least=1"):
        chosen(recipe(keep_at_least=1), weights, 5 / 6)


def test_the_best_neurons_never_compete():
    weights = {"a": torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "b": torch.tensor([[7.0], [8.0], [9.0]])}
    masks = chosen(recipe(unit=Neuron(), keep_at_least=1), weights, 4 / 7)
    assert rows(masks["a"]) == [[0, 0], [1, 1]]
    assert rows(masks["b"]) == [[0], [0], [1]]


def test_an_emptied_layer_is_an_error_with_a_remedy_unless_allowed():
    weights = {"fc1.weight": torch.tensor([[1.0, 2.0]]), "fc2.weight": torch.tensor([[7.0, 8.0]])}
    with pytest.raises(LayerCollapseError, match=r"'fc1.weight' \(0 of 2 weights kept\).*keep_at_least=1") as caught:
        chosen(recipe(), weights, 0.5)
    assert "allow_collapse=('fc1.weight',)" in str(caught.value)
    masks = chosen(recipe(allow_collapse=("fc1.*",)), weights, 0.5)
    assert not masks["fc1.weight"].any()
    with pytest.raises(LayerCollapseError):
        chosen(recipe(allow_collapse=("fc2.*",)), weights, 0.5)


def test_ties_depend_on_the_seed_only():
    weights = {name: torch.ones(20, 20) for name in "abc"}
    first = chosen(recipe(seed=1), weights, 0.5)
    turned = chosen(recipe(seed=1), dict(reversed(weights.items())), 0.5)
    assert all(torch.equal(first[name], turned[name]) for name in weights)
    assert not torch.equal(first["a"], chosen(recipe(seed=2), weights, 0.5)["a"])


def test_final_fractions():
    assert final_fraction(Budget.sparsity(0.9), 1000) == 0.9
    assert final_fraction(Budget.compression(4), 1000) == 0.75
    assert final_fraction(Budget.parameters(250), 1000) == 0.75
    assert final_fraction(Budget.flop(0.25), 1000) == 0.75
    with pytest.raises(BudgetError, match="keep 1001 parameters, but there are only 1000"):
        final_fraction(Budget.parameters(1001), 1000)


def test_a_parameter_budget_is_met_to_the_weight():
    weights = {"a": torch.rand(100, 37), "b": torch.rand(10, 100)}
    for kept in (1, 123, 4699, 4700):
        masks = chosen(recipe(allow_collapse=("*",)), weights, final_fraction(Budget.parameters(kept), 4700))
        assert sum(int(mask.sum()) for mask in masks.values()) == kept
