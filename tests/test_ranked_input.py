"""``select``: refused input, any dtype, nothing modified, little memory."""

import math
import weakref
from dataclasses import dataclass

import pytest
import torch

from actprune.errors import BudgetError, ModelError, RecipeError
from actprune.rank.units import Neuron
from actprune.scopes import NM
from support.selection import chosen, recipe, rows

TWO = {"a": torch.tensor([[1.0, 8.0], [3.0, 6.0]]), "b": torch.tensor([[2.0, 4.0]])}


@dataclass(frozen=True)
class Wrong:
    needs = ()

    def score(self, layer):
        return layer.weight.sum(1)


def test_a_criterion_with_the_wrong_shape_is_told_both_shapes():
    with pytest.raises(RecipeError) as caught:
        chosen(recipe(criterion=Wrong()), {"fc1.weight": torch.ones(32, 784)}, 0.5)
    message = "criterion returned shape (32,) for 'fc1.weight'; expected (32, 784) (out, in)"
    assert str(caught.value) == message


@pytest.mark.parametrize("slots", [{}, {"scope": "layer"}, {"scope": "row"}, {"unit": Neuron()}, {"scope": NM(1, 2)}])
def test_nan_scores_name_the_layer(slots):
    weights = {"good": torch.ones(2, 2), "bad": torch.tensor([[1.0, math.nan], [1.0, 1.0]])}
    with pytest.raises(ModelError, match="'bad' are NaN"):
        chosen(recipe(**slots), weights, 0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_fractions_outside_0_to_1_are_refused(fraction):
    with pytest.raises(BudgetError, match="0 <= fraction <= 1"):
        chosen(recipe(), TWO, fraction)


def test_row_scope_does_not_fit_neurons():
    with pytest.raises(RecipeError, match="scope 'row'"):
        chosen(recipe(scope="row", unit=Neuron()), TWO, 0.5)


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_inputs_are_not_modified_and_masks_are_new(scope):
    weights = {"a": torch.rand(6, 6)}
    old = {"a": torch.rand(6, 6) < 0.8}
    kept = weights["a"].clone(), old["a"].clone()
    for fraction in (0.0, 0.5):
        new = chosen(recipe(scope=scope), weights, fraction, masks=old)
        new["a"].zero_()
        assert torch.equal(weights["a"], kept[0])
        assert torch.equal(old["a"], kept[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_any_score_dtype(dtype):
    weights = {"a": torch.arange(60).view(6, 10).to(dtype), "b": torch.arange(60, 100).view(4, 10).to(dtype)}
    masks = chosen(recipe(allow_collapse=("a",)), weights, 0.7)
    assert not masks["a"].any()
    assert rows(masks["b"]) == [[0] * 10] + [[1] * 10] * 3


class Watching:
    """Scores are |w|; notes every call, and how many earlier results still exist when it is asked for another."""

    needs = ()

    def __init__(self):
        self.calls, self.alive, self.results = [], [], []

    def score(self, layer):
        self.alive.append(sum(result() is not None for result in self.results))
        self.calls.append(layer.name)
        scores = layer.weight.abs()
        self.results.append(weakref.ref(scores))
        return scores


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_one_layer_of_scores_exists_at_a_time_and_few_are_asked_for(scope, masked):
    torch.manual_seed(0)
    weights = {"a": torch.randn(300, 200), "b": torch.randn(100, 300), "c": torch.randn(50, 100)}
    masks = {name: torch.rand(weight.shape) < 0.9 for name, weight in weights.items()} if masked else None
    watching = Watching()
    chosen(recipe(criterion=watching, scope=scope), weights, 0.8, masks=masks)
    assert set(watching.alive) == {0}
    assert watching.calls.count("a") == 1  # the largest layer is held where one read ends and the next begins
    assert len(watching.calls) <= 5
