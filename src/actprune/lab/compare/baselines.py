"""L5: who takes part in a comparison: a method, its options, and how its run differs from the common one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actprune import methods
from actprune.errors import RecipeError, unknown_name
from actprune.lab.compare.training import Training

IMAGES = 512
"""Training images drawn for each observation of a baseline that looks at data."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """One row of a comparison.

    family    activation, magnitude, once, data or published: how its line is drawn
    note      what a reader must know to compare it ("one shot", "5x the steps", "Adam")
    options   of the method
    settings  fields of ``RunConfig`` that differ from the common recipe
    plan      further settings that follow from the number of epochs: "" or a name of ``_PLANS``
    lengths   trains so many times as long as the others
    by_data   further settings for a data set
    """

    name: str
    method: str
    family: str
    note: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    plan: str = ""
    lengths: int = 1
    by_data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def fields(self, data: str, training: Training, steps_per_epoch: int) -> dict[str, Any]:
        """Fields of its ``RunConfig``, without model, sparsity and seed."""
        planned = dict(_PLANS[self.plan](training, self.lengths, steps_per_epoch)) if self.plan else {}
        options = {**self.options, **planned.pop("options", {})}
        return {
            **training.settings(),
            "max_epochs": training.epochs * self.lengths,
            "data": data,
            "method": self.method,
            "options": options,
            **planned,
            **self.settings,
            **self.by_data.get(data, {}),
        }


def _gradual(training: Training, lengths: int, steps: int) -> dict[str, Any]:
    return {"schedule": "cubic", "pruning_steps": training.pruning_steps}


def _rounds(training: Training, lengths: int, steps: int) -> dict[str, Any]:
    """Five trainings, or ten (the nine pruning steps of the paper's 13.5 %) where there is time."""
    return {"schedule": "rounds", "pruning_steps": training.rounds(5 if lengths == 1 else 10, lengths) - 1}


def _late(training: Training, lengths: int, steps: int) -> dict[str, Any]:
    """Rewound to 5 % of the first training; the paper has 0.1 to 7 %."""
    rounds = training.rounds(5 if lengths == 1 else 10, lengths)
    return {
        "schedule": "rounds",
        "pruning_steps": rounds - 1,
        "options": {"to_step": max(1, round(0.05 * (training.epochs * lengths // rounds) * steps))},
    }


def _tuned(training: Training, lengths: int, steps: int) -> dict[str, Any]:
    """Han's rounds in nine tenths of the epochs; the last tenth moves the shared values."""
    return {**_rounds(training, lengths, steps), "options": {"tune_epochs": max(1, training.epochs // 10)}}


def _noisy(training: Training, lengths: int, steps: int) -> dict[str, Any]:
    """Noise for four fifths of the epochs, then it prunes and recovers."""
    return {"schedule": "once", "cubic_epochs": max(1, training.epochs * 4 // 5)}


_PLANS: dict[str, Callable[[Training, int, int], Mapping[str, Any]]] = {
    "gradual": _gradual, "rounds": _rounds, "late": _late, "tuned": _tuned, "noisy": _noisy,
}  # fmt: skip

_LOOKS = {"calibration_images": IMAGES}
_ONCE = {"schedule": "once"}
_OWN = {"schedule": "own"}
_GRADUAL: dict[str, Any] = {"plan": "gradual"}
# Han's retraining at a tenth of the rate is the whole decay: on top of a cosine hardly a step would be left.
_STEADY = {"lr_schedule": "constant"}

DENSE = Baseline("dense", "magnitude", "dense", "nothing pruned", settings={"schedule": "before"})
LITERAL = Baseline(
    "activation-literal", "activation_literal", "activation",
    "as published: prunes at rising training accuracies, dead weights on top, layers may be emptied",
    settings={"schedule": "accuracy", "pruning_steps": 5, "start_at": 0.80, "retrain_to": 0.98},
    by_data={"fashion-mnist": {"retrain_to": 0.92}},
)  # fmt: skip

_ALL: tuple[Baseline, ...] = (
    Baseline("activation", "activation", "activation", "gradual, one ranking", settings=_LOOKS, **_GRADUAL),
    Baseline("activation-layer", "activation", "activation", "gradual, same fraction in each layer",
             {"scope": "layer"}, _LOOKS, **_GRADUAL),
    Baseline("activation-lamp", "activation", "activation", "gradual, count x weight compared as LAMP compares weights",
             {"across": "lamp"}, _LOOKS, **_GRADUAL),
    Baseline("activation-lamp-all", "activation", "activation", "the same, the output layer included",
             {"across": "lamp", "skip_output": False}, _LOOKS, **_GRADUAL),
    Baseline("activation-neuron", "activation", "activation", "gradual, whole neurons",
             {"score": "neuron"}, _LOOKS, **_GRADUAL),
    LITERAL,
    Baseline("magnitude-global", "magnitude", "magnitude", "gradual, one ranking", **_GRADUAL),
    Baseline("magnitude-layer", "magnitude", "magnitude", "gradual, same fraction in each layer",
             {"scope": "layer"}, **_GRADUAL),
    Baseline("magnitude-erk", "magnitude", "magnitude", "gradual, Erdos-Renyi-kernel densities",
             {"scope": "layer", "allocation": "erk"}, **_GRADUAL),
    Baseline("lamp", "lamp", "magnitude", "gradual", **_GRADUAL),
    Baseline("activation-once", "activation", "once", "one shot, halfway", settings={**_LOOKS, **_ONCE}),
    Baseline("magnitude-once", "magnitude", "once", "one shot, halfway, one ranking", settings=_ONCE),
    Baseline("lamp-once", "lamp", "once", "one shot, halfway", settings=_ONCE),
    Baseline("random", "random", "data", "gradual, same fraction in each layer", **_GRADUAL),
    Baseline("snip", "snip", "data", "before training, 100 images",
             settings={"schedule": "before", "calibration_images": 100}),
    Baseline("grasp", "grasp", "data", "before training, 100 images",
             settings={"schedule": "before", "calibration_images": 100}),
    Baseline("obd", "obd", "data", "gradual, w^2 times squared gradients of 8 images", settings=_LOOKS, **_GRADUAL),
    Baseline("wanda", "wanda", "data", "gradual, same fraction in each row", settings=_LOOKS, **_GRADUAL),
    Baseline("ria", "ria", "data", "gradual, same fraction in each row", settings=_LOOKS, **_GRADUAL),
    Baseline("owl", "owl", "data", "gradual, more kept where more weights stand out", settings=_LOOKS, **_GRADUAL),
    Baseline("apoz", "apoz", "data", "gradual, whole neurons", settings=_LOOKS, **_GRADUAL),
    Baseline("taylor", "taylor", "data", "gradual, whole neurons, one ranking", settings=_LOOKS, **_GRADUAL),
    Baseline("han", "han", "published",
             "prunes and retrains in rounds; constant lr, a tenth of it from the first pruning on",
             settings=_STEADY, plan="rounds"),
    Baseline("deep-compression", "deep_compression", "published",
             "Han's rounds, then shared values, fine-tuned in the last tenth of the epochs, and coded",
             settings=_STEADY, plan="tuned"),
    Baseline("dns", "dns", "published", "prunes and splices from 10 to 75 % of the epochs, lr 0.05",
             settings={"schedule": "decaying", "lr": 0.05}),  # at 0.1 its masks turn over until little is left
    Baseline("lottery", "lottery", "tickets", "rounds within the budget", plan="rounds"),
    Baseline("lottery-5x", "lottery", "tickets", "5x the steps", plan="rounds", lengths=5),
    Baseline("lottery-late", "lottery", "tickets", "rounds, rewound to 5 % of the first training", plan="late"),
    Baseline("lottery-rate", "lottery", "tickets", "rounds, only the learning rate is rewound",
             {"variant": "rate"}, plan="rounds"),
    Baseline("lottery-reinit", "lottery", "tickets", "control: new initial weights after the last pruning",
             {"variant": "control"}, plan="rounds"),
    Baseline("rigl", "rigl", "published", "sparse from the start, connections grown by gradient until 75 %",
             settings=_OWN),
    Baseline("set", "sparse_evolutionary", "published", "sparse from the start, connections grown at random each epoch",
             settings=_OWN),
    Baseline("movement", "movement", "published", "scores learnt through the mask, cubic from 10 to 70 %",
             settings=_OWN),
    Baseline("synflow", "synflow", "published", "before training, no data, 100 rounds",
             settings={"schedule": "before"}),
    Baseline("sparsegpt", "sparsegpt", "published", "one shot, halfway, the kept weights updated, same share per layer",
             settings={**_LOOKS, **_ONCE}),
    Baseline("variational-dropout", "variational_dropout", "published",
             "Adam at lr 0.002, noise for 80 % of the epochs", settings={"optimizer": "adam", "lr": 2e-3,
             "weight_decay": 0.0}, plan="noisy"),
)  # fmt: skip

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}
_NOT_IN_ALL = {LITERAL.name}


def available() -> list[str]:
    """Every baseline that ``all`` stands for."""
    return [
        name for name, baseline in BASELINES.items() if baseline.method in methods.REGISTRY and name not in _NOT_IN_ALL
    ]


def chosen(names: Sequence[str]) -> list[Baseline]:
    """The baselines of these names, ``all`` being the whole field. Raises RecipeError with the nearest match."""
    wanted: list[str] = []
    for name in names:
        wanted += available() if name == "all" else [name]
    for name in wanted:
        if name != DENSE.name and name not in BASELINES:
            raise RecipeError(unknown_name("baseline", name, ["all", *BASELINES]))
    return [BASELINES[name] for name in dict.fromkeys(wanted) if name != DENSE.name]


def find(name: str) -> Baseline:
    """A baseline or the dense reference."""
    return DENSE if name == DENSE.name else BASELINES[name]
