"""``select`` with dead weights removed as well: inside the budget, or on top of it."""

import dataclasses

import pytest
import torch

from actprune.errors import LayerCollapseError
from actprune.nodes import Graph
from support.selection import Close, chosen, recipe

GRAPH = Graph({}, {}, ())
closing = Close().closes


def test_dead_weights_inside_count_towards_the_budget():
    weights = {"a": torch.arange(100.0).view(10, 10)[torch.randperm(10, generator=torch.Generator().manual_seed(0))]}
    plain = recipe(repairs=(Close(),))
    masks = chosen(plain, weights, 0.5, graph=GRAPH)
    assert int((~masks["a"]).sum()) == 50  # 41 selected: 0..40, and the row of the 40 goes with it
    outside = chosen(dataclasses.replace(plain, repairs=(Close(in_budget=False),)), weights, 0.41, graph=GRAPH)
    assert torch.equal(outside["a"], masks["a"])
    ignored = chosen(recipe(), weights, 0.41, graph=GRAPH)
    assert int((~ignored["a"]).sum()) == 41


def test_dead_weights_inside_pick_the_smallest_selection_that_reaches_the_budget():
    torch.manual_seed(1)
    weights = {"a": torch.rand(40, 5), "b": torch.rand(10, 40)}
    asked = round(0.6 * 600)

    def removed(need):
        masks = closing(GRAPH, chosen(recipe(), weights, need / 600))
        return sum(int((~mask).sum()) for mask in masks.values())

    expected = min(need for need in range(asked + 1) if removed(need) >= asked)
    masks = chosen(recipe(repairs=(Close(),)), weights, 0.6, graph=GRAPH)
    assert sum(int((~mask).sum()) for mask in masks.values()) == removed(expected)


def test_collapse_is_judged_after_dead_weights_are_gone():
    weights = {"a": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    with pytest.raises(LayerCollapseError):
        chosen(recipe(repairs=(Close(in_budget=False),)), weights, 0.25, graph=GRAPH)
