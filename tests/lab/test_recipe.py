"""Settings of a run that are more than a number: the learning rate's schedule, and units given as words."""

import math

import pytest

import actprune
import actprune.lab
from actprune.coupled import Channel, Head
from actprune.errors import RecipeError
from actprune.lab import RunConfig
from actprune.lab.recipe import recipe_of
from actprune.lab.train import learning_rate
from actprune.rank.units import Block, Neuron, Weight
from actprune.schedules import AccuracyTriggered, Cubic, OneShot
from actprune.scopes import NM
from actprune.types import Budget
from support.runs import quick


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
    [("block(1, 4)", Block(1, 4)), ("block(2,8)", Block(2, 8)), ("neuron", Neuron()), ("weight", Weight()),
     ("channel", Channel()), ("head", Head()),
     ("channel(round_to=8, reduce='mean')", Channel(reduce="mean", round_to=8)),
     ("channel(at_most=(('stem*', 0.0), ('*', 0.5)))", Channel(at_most=(("stem*", 0.0), ("*", 0.5))))],
)  # fmt: skip
def test_units_are_given_as_words(text, unit):
    assert recipe_of(RunConfig(options={"unit": text}), 10, 500).unit == unit


@pytest.mark.parametrize(
    ("text", "budget"),
    [("flop(0.5)", Budget.flop(0.5)), ("channels(0.25)", Budget.channels(0.25)), ("bytes(4000)", Budget.bytes(4000)),
     ("sparsity(0.9, of='all')", Budget.sparsity(0.9, "all"))],
)  # fmt: skip
def test_budgets_are_given_as_words(text, budget):
    config = RunConfig(method="magnitude", options={"budget": text, "unit": "channel"})
    assert recipe_of(config, 10, 500).budget == budget


def test_budgets_that_are_none_are_refused_with_what_is_expected():
    for text in ("half", "flop(x)", "flop(2.0)", "channels()"):
        with pytest.raises(RecipeError, match=r"flop\(0\.5\)|flop=2\.0"):
            recipe_of(RunConfig(method="magnitude", options={"budget": text, "unit": "channel"}), 10, 500)
    with pytest.raises(RecipeError, match=r"both sparsity=0\.5 and the option budget=flop\(0\.5\)"):
        recipe_of(RunConfig(method="magnitude", sparsity=0.5, options={"budget": "flop(0.5)"}), 10, 500)


def test_n_of_m_is_a_scope():
    assert recipe_of(RunConfig(method="wanda", options={"scope": "2:4"}, sparsity=0.5), 10, 500).scope == NM(2, 4)
    with pytest.raises(RecipeError, match=r"scope=2:4"):
        recipe_of(RunConfig(method="wanda", options={"unit": "2:4"}, sparsity=0.5), 10, 500)


@pytest.mark.parametrize(
    "text", ["blocks", "block(4)", "block(0, 4)", "4:2", "", "channel(8", "channel(of=1)", "head().x"]
)
def test_other_words_are_refused_with_what_is_expected(text):
    with pytest.raises(RecipeError, match=r"block|n:m"):
        recipe_of(RunConfig(options={"unit": text}), 10, 500)


def test_the_accuracy_schedule_is_given_to_every_method():
    config = quick(sparsity=0.9, seed=7)
    for method in actprune.methods.names():
        recipe = recipe_of(config.with_(method=method), 10, 500)
        assert recipe.schedule == AccuracyTriggered(2, 0.5, 0.9)
        assert recipe.budget.kind == "threshold" or recipe.budget.value == 0.9
        assert recipe.seed == 7
    assert recipe_of(config.with_(pruning_steps=1), 10, 500).schedule == AccuracyTriggered(1, 0.5, 0.9)
    assert recipe_of(config.with_(schedule="before"), 10, 500).schedule == OneShot()
    assert recipe_of(config.with_(schedule="cubic", cubic_epochs=4), 10, 500).schedule == Cubic(1, 41, 20)
