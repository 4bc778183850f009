"""Activation-based pruning: prune what fires least, in steps triggered by the training accuracy.

Source: T. Ganguli, E. K. P. Chong. Activation-Based Pruning of Neural Networks. Algorithms 17(1):48, 2024.

    c_l[j] <- number of inputs for which neuron j of layer l fires (relu(w_j . x + b_j) != 0)
    repeat   train until the training accuracy reaches the next threshold
             score(w_ij) = c[j]              (score="neuron")
                         = c[j] * |w_ij|     (score="neuron_weight")
             remove the lowest-scored weights
               scope="global"  all hidden layers compete in one ranking
               scope="layer"   one hidden layer per pruning step
    until    the last threshold; then go on training to recover

``activation_literal`` is the recipe as published; ``activation`` is the same method with three guards, and our default.

Deviations of ``activation_literal`` from the text and the authors' code
  - ties are broken by a seeded rule (the code: whatever an unstable sort gives);
  - dead weights: the code zeroes the outgoing weights only of neurons emptied in the same step and sends relu(bias) of
    those neurons nowhere; we remove the outgoing weights of every neuron without inputs and fold its constant into
    the next bias, so that removing dead weights does not change what the network computes;
  - zeros are held at zero after the optimizer step (any optimizer), not by zeroed gradients (plain SGD only).
Guards of ``activation``
  - dead weights count inside the budget, so that a target of 90 % removes 90 %;
  - no layer is emptied: the best ``keep_at_least`` units of each layer never compete;
  - activities are compared across layers relative to the mean of their layer, or (``across="lamp"``) every score is
    weighed against what its layer would keep, the idea of Lee et al. 2021 (arXiv 2010.07611) applied to count x |w|.
"""

from __future__ import annotations

from typing import Literal

from actprune.coupled import Channel
from actprune.criteria import Counter, CounterTimesWeight
from actprune.criteria.counter import Across, Count, Smooth
from actprune.errors import RecipeError
from actprune.rank.units import Neuron, Weight
from actprune.ranked import Ranked
from actprune.repair import RemoveDead
from actprune.schedules import AccuracyTriggered, LayerByLayer, OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit

Score = Literal["neuron", "neuron_weight"]


def _criterion(
    score: Score, count: Count, across: Across, fires_above: float | None = None, smooth: Smooth = "mean_abs"
) -> Counter:
    kinds: dict[str, type[Counter]] = {"neuron": Counter, "neuron_weight": CounterTimesWeight}
    if score not in kinds:
        raise RecipeError(f"score={score!r} is not known; use 'neuron' or 'neuron_weight'")
    return kinds[score](count, across, fires_above, smooth)


def activation(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    score: Score = "neuron_weight",
    scope: Scope = "global",
    count: Count = "nonzero",
    across: Across = "layer_mean",
    unit: Unit | None = None,
    pruning_steps: int = 1,
    start_at: float = 0.80,
    retrain_to: float = 0.98,
    schedule: Schedule | None = None,
    count_on: Literal["observe", "train"] | None = None,
    count_every: int = 1,
    fires_above: float | None = None,
    remove_dead: bool = True,
    keep_at_least: int = 1,
    regrow: Literal["frozen", "free"] = "frozen",
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = True,
    seed: int = 0,
) -> Ranked:
    """Activation-based pruning, guarded: no layer emptied, dead weights inside the budget, layers comparable.

    sparsity    fraction of all prunable weights to remove, dead weights included
    budget      another budget in its place, such as ``Budget.channels(0.5)`` with ``unit=Channel()``
    score       "neuron": the firing count alone, whole neurons; "neuron_weight": firing count x |weight|
    scope       "global", "layer" (each layer loses the same fraction) or "row"
    pruning_steps  1: once, when ``prune()`` is called; more: at training accuracies from ``start_at`` in equal steps
                towards ``retrain_to``, amounts proportional to 0.8^i
    fires_above count |activation| > this everywhere; left out: ``!= 0`` where an activation can be exactly zero, mean
                |activation| behind smooth ones (GELU, SiLU, GLU), always firing where there is no non-linearity at all
    skip_output leave the output layer alone, as the article does; False: its neurons, which have no non-linearity,
                count as always firing
    count_on    "observe" (default for one step) or "train": count on the live training batches (default for several)

    >>> activation(0.9).budget
    Budget(kind='sparsity', value=0.9, of='prunable')
    """
    return Ranked(
        name="activation",
        criterion=_criterion(score, count, across, fires_above),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule
        or (OneShot() if pruning_steps == 1 else AccuracyTriggered(pruning_steps, start_at, retrain_to)),
        unit=unit or (Neuron() if score == "neuron" else Weight()),
        scope=scope,
        count_on=count_on or ("observe" if pruning_steps == 1 else "train"),
        count_every=count_every,
        regrow=regrow,
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        repairs=(RemoveDead(),) if remove_dead and not isinstance(unit, Channel) else (),
        allow_collapse=allow_collapse,
        seed=seed,
    )


def activation_literal(
    sparsity: float = 0.9,
    *,
    score: Score = "neuron",
    scope: Scope = "global",
    count: Count = "nonzero",
    pruning_steps: int = 5,
    start_at: float = 0.80,
    retrain_to: float = 0.98,
    schedule: Schedule | None = None,
    count_on: Literal["observe", "train"] = "observe",
    remove_dead: bool | None = None,
    seed: int = 0,
) -> Ranked:
    """Activation-based pruning as published, with nothing in its way: layers may be emptied, dead weights come on top.

    The fraction is one of ALL weights, the unpruned output layer included. Global scope accumulates the counts over the
    whole run; the local scope counts afresh for each step. ``count_on="train"`` is the 2022 code (every training
    batch); "observe" the later one (32 random training images at the end of each epoch, which the loop draws).
    ``remove_dead``: like the code, in global scope only, unless said otherwise.
    """
    local = scope != "global"
    dead = not local if remove_dead is None else remove_dead
    return Ranked(
        name="activation_literal",
        criterion=_criterion(score, count, "count", smooth="refuse"),
        budget=Budget.sparsity(sparsity, of="prunable" if local else "all"),
        schedule=schedule
        or (LayerByLayer(start_at) if local else AccuracyTriggered(pruning_steps, start_at, retrain_to)),
        unit=Neuron() if local and score == "neuron" else Weight(),
        scope=scope,
        allocation="staged" if local else "uniform",
        count_on=count_on,
        skip_output=True,
        repairs=(RemoveDead(in_budget=False),) if dead else (),
        allow_collapse=("*",),
        reset_counts=local,
        seed=seed,
    )
