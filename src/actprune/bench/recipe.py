"""L5: from a run's configuration to the recipe that the engine carries out."""

from __future__ import annotations

import inspect
import re
import typing
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from actprune import methods, recipes
from actprune.bench.config import RunConfig
from actprune.errors import RecipeError, unknown_name
from actprune.schedules import AccuracyTriggered, Cubic, OneShot
from actprune.types import NM, Block, Neuron, Recipe, Schedule, Unit, Weight

_SETTINGS = ("sparsity", "seed", "cycles", "start_at", "retrain_to", "schedule")


def recipe_of(config: RunConfig, steps_per_epoch: int) -> Recipe:
    """The method's recipe with this run's schedule. Raises RecipeError for unknown methods and options."""
    if config.method not in methods.REGISTRY:
        raise RecipeError(unknown_name("method", config.method, methods.REGISTRY))
    known = inspect.signature(methods.REGISTRY[config.method]).parameters
    values: dict[str, Any] = {"sparsity": config.sparsity, "seed": config.seed, **_checked_options(config)}
    if config.schedule == "accuracy":
        own = {"cycles": config.cycles, "start_at": config.start_at, "retrain_to": config.retrain_to}
        recipe = methods.make(config.method, {**values, **{name: own[name] for name in own if name in known}})
        return replace(recipe, schedule=_accuracy(config)) if waits_for_a_call(recipe) else recipe
    schedule = OneShot() if config.schedule == "before" else _cubic(config, steps_per_epoch)
    return methods.make(config.method, {**values, "schedule": schedule})


def waits_for_a_call(recipe: Recipe) -> bool:
    """Whether nothing but an explicit ``prune()`` starts it. The loop prunes such a recipe once, before training."""
    return recipe.schedule == OneShot()


def _checked_options(config: RunConfig) -> dict[str, Any]:
    """The options as their annotations want them; parts of a recipe are given as ``recipes.to_dict`` writes them."""
    known = inspect.signature(methods.REGISTRY[config.method]).parameters
    wanted = typing.get_type_hints(methods.REGISTRY[config.method])
    values = {}
    for name, value in config.options.items():
        if name in _SETTINGS:
            raise RecipeError(
                f"options has {name!r}, which is a setting of the run itself; set RunConfig.{name} (--{name})"
            )
        if name not in known:
            raise RecipeError(unknown_name(f"option of method {config.method}", name, set(known) - set(_SETTINGS)))
        values[name] = _checked(f"option {name} of method {config.method}", value, wanted[name])
    return values


def _checked(what: str, value: Any, wanted: Any) -> Any:
    if isinstance(value, dict):
        return recipes.from_dict(value)
    if isinstance(value, str) and Block in typing.get_args(wanted):
        return _unit(what, value)
    try:
        return TypeAdapter(wanted, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(str(problem["msg"]).removeprefix("Input should be ") for problem in error.errors())
        raise RecipeError(
            f"{what}: {value!r} cannot be used; expected {', or '.join(reasons)}. Parts of a recipe are written as "
            'objects, such as {"type": "Neuron"} for a unit'
        ) from None


def _unit(what: str, text: str) -> Unit:
    """``weight``, ``neuron``, ``block(1, 4)`` or ``2:4``."""
    if text in ("weight", "neuron"):
        return Weight() if text == "weight" else Neuron()
    numbers = re.fullmatch(r"block\((\d+), ?(\d+)\)|(\d+):(\d+)", text)
    if numbers is None:
        raise RecipeError(f"{what}: {text!r} cannot be used; expected 'weight', 'neuron', 'block(1, 4)' or '2:4'")
    first, second = (int(number) for number in numbers.groups() if number is not None)
    return NM(first, second) if ":" in text else Block(first, second)


def _accuracy(config: RunConfig) -> Schedule:
    return AccuracyTriggered(config.cycles, config.start_at, config.retrain_to)


def _cubic(config: RunConfig, steps_per_epoch: int) -> Schedule:
    """Prunings between epochs.

    ``begin=1`` puts each after the first step of an epoch, when the images drawn at the end of the last are counted.
    """
    epochs = config.cubic_epochs or max(1, config.max_epochs // 2)
    gap = epochs // config.cycles
    if gap < 1 or gap * config.cycles >= config.max_epochs:
        raise RecipeError(
            f"schedule='cubic' with cycles={config.cycles}, cubic_epochs={epochs} and max_epochs={config.max_epochs}: "
            "expected cycles <= cubic_epochs < max_epochs; use fewer cycles or more epochs"
        )
    every = gap * steps_per_epoch
    return Cubic(1, 1 + config.cycles * every, every)
