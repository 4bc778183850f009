"""L5: from a run's configuration to the recipe that the engine carries out."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from actprune import methods, recipes
from actprune.coupled import Channel, Head
from actprune.edit import Method
from actprune.errors import RecipeError, unknown_name
from actprune.lab.config import RunConfig
from actprune.rank.units import Block, Neuron, Weight
from actprune.schedules import AccuracyTriggered, Cubic, Decaying, EqualSurvivors, LayerByLayer, OneShot
from actprune.scopes import NM
from actprune.types import Budget, Progress, Schedule, Unit

_T = TypeVar("_T")

_SETTINGS = ("sparsity", "seed", "pruning_steps", "start_at", "retrain_to", "schedule")


def recipe_of(config: RunConfig, steps_per_epoch: int, examples: int) -> Method:
    """The method's recipe with this run's schedule. Raises RecipeError for unknown methods and options.

    A method that has a parameter ``examples``, ``steps`` or ``steps_per_epoch`` is told the training examples, the
    steps of the whole run, or of one epoch, unless the options do.
    """
    if config.method not in methods.REGISTRY:
        raise RecipeError(unknown_name("method", config.method, methods.REGISTRY))
    known = inspect.signature(methods.REGISTRY[config.method]).parameters
    run = {
        "sparsity": config.sparsity,
        "examples": examples,
        "steps": config.max_epochs * steps_per_epoch,
        "steps_per_epoch": steps_per_epoch,
    }
    values: dict[str, Any] = {name: value for name, value in run.items() if name in known}
    values |= {"seed": config.seed, **_checked_options(config)}
    if config.schedule == "accuracy":
        own = {"pruning_steps": config.pruning_steps, "start_at": config.start_at, "retrain_to": config.retrain_to}
        recipe = methods.make(config.method, {**values, **{name: own[name] for name in own if name in known}})
        own_triggers = isinstance(recipe.schedule, (AccuracyTriggered, LayerByLayer))
        return recipe if own_triggers else replace(recipe, schedule=_accuracy(config))
    if config.schedule == "own":
        return methods.make(config.method, values)
    if "schedule" not in known:
        raise RecipeError(f"method {config.method} has a schedule of its own; use schedule='own' (--schedule own)")
    return methods.make(config.method, {**values, "schedule": _SCHEDULES[config.schedule](config, steps_per_epoch)})


def waits_for_a_call(recipe: Method) -> bool:
    """Whether an explicit ``prune()`` starts it, or a step 0 that no optimizer step reports: before training."""
    return recipe.schedule == OneShot() or recipe.schedule.due(Progress())


def _checked_options(config: RunConfig) -> dict[str, Any]:
    """The options as their annotations want them; parts of a recipe are given as ``recipes.to_dict`` writes them."""
    known = inspect.signature(methods.REGISTRY[config.method]).parameters
    if "budget" in config.options and "sparsity" in config.model_fields_set:
        raise RecipeError(
            f"both sparsity={config.sparsity:g} and the option budget={config.options['budget']} say how much is to "
            "go; leave one of them out"
        )
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
    if isinstance(value, str) and (wanted is Unit or Unit in typing.get_args(wanted)):
        return _in_words(what, value, _UNITS, "unit")
    if isinstance(value, str) and Budget in typing.get_args(wanted):
        return _in_words(what, value, _BUDGETS, "budget")
    if isinstance(value, str) and NM in typing.get_args(wanted) and (pattern := re.fullmatch(r"(\d+):(\d+)", value)):
        return NM(*map(int, pattern.groups()))
    try:
        return TypeAdapter(wanted, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(str(problem["msg"]).removeprefix("Input should be ") for problem in error.errors())
        raise RecipeError(
            f"{what}: {value!r} cannot be used; expected {', or '.join(reasons)}. Parts of a recipe are written as "
            'objects, such as {"type": "Neuron"} for a unit'
        ) from None


_UNITS: dict[str, Callable[..., Unit]] = {
    "weight": Weight, "neuron": Neuron, "block": Block, "channel": Channel, "head": Head,
}  # fmt: skip
_BUDGETS: dict[str, Callable[..., Budget]] = {
    name: getattr(Budget, name) for name in ("sparsity", "compression", "parameters", "flop", "channels", "bytes")
}


_EXPECTED = {
    "unit": "'weight', 'neuron', 'block(1, 4)', 'channel', 'channel(round_to=8)' or 'head'; an n:m pattern is a scope "
            "(--option scope=2:4)",
    "budget": "such as 'channels(0.5)' (removed), 'flop(0.5)', 'parameters(100000)' or 'bytes(400000)' (left), "
              "'compression(10)'",
}  # fmt: skip


def _in_words(what: str, text: str, known: Mapping[str, Callable[..., _T]], kind: str) -> _T:
    """A unit or a budget: ``neuron``, ``block(1, 4)``, ``channel(round_to=8)``, ``flop(0.5)``."""
    try:
        return _called(text, known)
    except (SyntaxError, ValueError, TypeError) as error:
        raise RecipeError(f"{what}: {text!r} cannot be used; expected {_EXPECTED[kind]}; found {error}") from None


def _called(text: str, known: Mapping[str, Callable[..., _T]]) -> _T:
    """A name, or a call of it with plain values. Nothing but that is looked at: no code is run.

    Raises SyntaxError, ValueError or TypeError.
    """
    node = ast.parse(text, mode="eval").body
    call = node if isinstance(node, ast.Call) else None
    name = node if call is None else call.func
    if not isinstance(name, ast.Name) or name.id not in known:
        raise ValueError(unknown_name("name", ast.unparse(name), known))
    args = [ast.literal_eval(each) for each in call.args] if call else []
    options = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg} if call else {}
    return known[name.id](*args, **options)


def _accuracy(config: RunConfig) -> Schedule:
    return AccuracyTriggered(config.pruning_steps, config.start_at, config.retrain_to)


def _before(config: RunConfig, steps_per_epoch: int) -> Schedule:
    return OneShot()


def _once(config: RunConfig, steps_per_epoch: int) -> Schedule:
    return OneShot(1 + _middle(config) * steps_per_epoch)


def _rounds(config: RunConfig, steps_per_epoch: int) -> Schedule:
    """``pruning_steps`` of them, so one more training than that."""
    length, rest = divmod(config.max_epochs, config.pruning_steps + 1)
    if rest or not length:
        raise RecipeError(
            f"schedule='rounds' with pruning_steps={config.pruning_steps} needs max_epochs to be a multiple of "
            f"{config.pruning_steps + 1}, "
            f"one equal share for each of {config.pruning_steps + 1} trainings; found {config.max_epochs}: use "
            f"{max(1, length) * (config.pruning_steps + 1)}"
        )
    return EqualSurvivors(config.pruning_steps, length * steps_per_epoch)


def _decaying(config: RunConfig, steps_per_epoch: int) -> Schedule:
    begin, stop = max(1, round(0.1 * config.max_epochs)), round(0.75 * config.max_epochs)
    ramp = max(0, min(_middle(config), stop - 1) - begin)
    first = 1 + begin * steps_per_epoch
    return Decaying(first, stop * steps_per_epoch, ramp * steps_per_epoch, every=16, seed=config.seed)


def _middle(config: RunConfig) -> int:
    """The epoch that ``cubic_epochs`` names; half of all if it does not."""
    epochs = config.cubic_epochs or max(1, config.max_epochs // 2)
    if epochs >= config.max_epochs:
        raise RecipeError(
            f"schedule={config.schedule!r} with cubic_epochs={epochs} and max_epochs={config.max_epochs}: no epoch is "
            "left after the last pruning; use fewer cubic_epochs or more epochs"
        )
    return epochs


def _cubic(config: RunConfig, steps_per_epoch: int) -> Schedule:
    """Pruning steps between epochs.

    ``begin=1`` puts each after the first step of an epoch, when the images drawn at the end of the last are counted.
    """
    epochs = config.cubic_epochs or max(1, config.max_epochs // 2)
    gap = epochs // config.pruning_steps
    if gap < 1 or gap * config.pruning_steps >= config.max_epochs:
        raise RecipeError(
            f"schedule='cubic' with pruning_steps={config.pruning_steps}, cubic_epochs={epochs} and "
            f"max_epochs={config.max_epochs}: "
            "expected pruning_steps <= cubic_epochs < max_epochs; use fewer pruning steps or more epochs"
        )
    every = gap * steps_per_epoch
    return Cubic(1, 1 + config.pruning_steps * every, every)


_SCHEDULES = {"cubic": _cubic, "once": _once, "before": _before, "rounds": _rounds, "decaying": _decaying}
