"""``select`` with dead weights removed as well: inside the budget, or on top of it."""

import dataclasses

import pytest
import torch

from actprune.errors import LayerCollapseError
from support.selection import chosen, recipe


def closing(masks):
    """Stands for removal of dead weights: when the first weight of a row goes, the whole row does."""
    return {name: mask & mask[:, :1] for name, mask in masks.items()}


def test_dead_weights_inside_count_towards_the_budget():
    weights = {"a": torch.arange(100.0).view(10, 10)[torch.randperm(10, generator=torch.Generator().manual_seed(0))]}
    plain = recipe(remove_dead=True)
    masks = chosen(plain, weights, 0.5, closure=closing)
    assert int((~masks["a"]).sum()) == 50  # 41 selected: 0..40, and the row of the 40 goes with it
    outside = chosen(dataclasses.replace(plain, dead_in_budget=False), weights, 0.41, closure=closing)
    assert torch.equal(outside["a"], masks["a"])
    ignored = chosen(recipe(), weights, 0.41, closure=closing)
    assert int((~ignored["a"]).sum()) == 41


def test_dead_weights_inside_pick_the_smallest_selection_that_reaches_the_budget():
    torch.manual_seed(1)
    weights = {"a": torch.rand(40, 5), "b": torch.rand(10, 40)}
    asked = round(0.6 * 600)

    def removed(need):
        masks = closing(chosen(recipe(), weights, need / 600))
        return sum(int((~mask).sum()) for mask in masks.values())

    expected = min(need for need in range(asked + 1) if removed(need) >= asked)
    masks = chosen(recipe(remove_dead=True), weights, 0.6, closure=closing)
    assert sum(int((~mask).sum()) for mask in masks.values()) == removed(expected)


def test_collapse_is_judged_after_dead_weights_are_gone():
    weights = {"a": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    with pytest.raises(LayerCollapseError):
        chosen(recipe(remove_dead=True, dead_in_budget=False), weights, 0.25, closure=closing)
