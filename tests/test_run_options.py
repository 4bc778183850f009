"""Settings of a run that are more than a number: the learning rate's schedule, and units given as words."""

import math

import pytest

from actprune.errors import RecipeError
from actprune.lab import RunConfig
from actprune.lab.recipe import recipe_of
from actprune.lab.train import learning_rate
from actprune.types import NM, Block, Neuron, Weight


def test_cosine_starts_at_lr_and_ends_near_zero():
    config = RunConfig(lr=0.2, lr_schedule="cosine", max_epochs=10)
    rates = [learning_rate(config, done, 10) for done in range(10)]
    assert rates[0] == 0.2
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 * (1 - math.cos(math.pi / 10)))
    assert learning_rate(config.with_(lr_schedule="constant"), 8, 10) == 0.2


@pytest.mark.parametrize(
    ("text", "unit"),
    [("block(1, 4)", Block(1, 4)), ("block(2,8)", Block(2, 8)), ("neuron", Neuron()), ("weight", Weight())],
)
def test_units_are_given_as_words(text, unit):
    assert recipe_of(RunConfig(options={"unit": text}), 10, 500).unit == unit
    assert recipe_of(RunConfig(method="wanda", options={"unit": "2:4"}, sparsity=0.5), 10, 500).unit == NM(2, 4)


@pytest.mark.parametrize("text", ["blocks", "block(4)", "block(0, 4)", "4:2", ""])
def test_other_words_are_refused_with_what_is_expected(text):
    with pytest.raises(RecipeError, match=r"block|n:m"):
        recipe_of(RunConfig(options={"unit": text}), 10, 500)
