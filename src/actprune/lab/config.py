"""L5: what a run is, as one frozen description that goes through JSON unchanged."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actprune.errors import RecipeError, unknown_name
from actprune.lab.models import HIDDEN

Precision = Literal["32-true", "64-true", "bf16-true", "bf16-mixed"]


class RunConfig(BaseModel):
    """Everything that decides the result of a run, besides the machine. Fractions and accuracies lie in 0..1.

    data, data_seed, validation, download   see ``lab.data.load``; ``data_seed`` fixes the split, not the run
    model, hidden, init   see ``lab.models.build``; with hidden sizes of one's own the article's network is an "mlp"
    task                  "classify", or "autoencode": give back the input (model "autoencoder"); wherever the text says
                          accuracy it is then the explained variance, see ``lab.task``
    labels                only so many training examples keep their label, equally many of each class, chosen by
                          ``data_seed``; an epoch still has as many steps as with all of them (see ``lab.labels``)
    semi                  what is done with the others while training: "none", or "pseudo" (see ``lab.semi``)
    method, options       a name of ``actprune.methods.names()`` and its own options, plain JSON values
    sparsity              fraction of weights to remove
    schedule              "accuracy": ``pruning_steps`` of them, at training accuracies from ``start_at`` in equal steps
                          towards ``retrain_to`` (the founding article's, for every method so that they compare; methods
                          with an accuracy-driven schedule of their own keep it); "cubic": ``pruning_steps`` between
                          epochs, spread over the first ``cubic_epochs`` (Zhu & Gupta; default half of ``max_epochs``);
                          "once": everything at once after ``cubic_epochs``; "before": before training (SNIP as
                          published); "rounds": ``pruning_steps`` after equal shares of the epochs, the same share of
                          the survivors each (lottery tickets); "decaying": again and again, ever more rarely, between
                          10 % and 75 % of the epochs, the sparsity rising until ``cubic_epochs`` (network surgery);
                          "own": the method's own default
    seed                  of initial weights, batch order, dropout, drawn images, and the recipe's ties
    lr_schedule           "cosine": from ``lr`` in the first epoch down to nearly zero in epoch ``max_epochs``
    full_length           train for ``max_epochs`` whatever accuracy is reached: what a fair comparison needs
    stop_at               training accuracy that ends the run once the last pruning is done; default ``retrain_to``
    patience              "ticks" (hopeless epochs) before the run stops early, see ``lab.stopping``; 0 never stops
    patience_from         "last_pruning": ticks count only once the last pruning is done; "start": from the first epoch,
                          as in the authors' code, where it can end a run before its pruning steps are done
    restore_best          take the weights of the epoch with the lowest validation loss after the last pruning
    calibration_images    random training images drawn (with replacement) for each observation, where the method counts
                          on such images and not on the live training batches
    calibration_from      what they are drawn from: "train" (the labelled ones), "validation", or "unlabelled" (the
                          training images without label); a method that counts on the live batches by default counts
                          on drawn images instead, unless this is "train"
    spectra               write singular values of every prunable layer around each pruning (at most 50), see
                          ``lab.spectra``
    channels_last         memory layout of convolutions: about 1.6 times as fast for LeNet-5 on a CPU; other last bits
    threads               CPU threads for this run; default as torch is set; a resume uses the same, for equal bits

    Raises RecipeError naming the field, the value and what is expected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    data: str = "digits"
    data_seed: int = Field(0, ge=0, lt=2**32)
    validation: float = Field(0.1, gt=0, lt=1)
    download: bool = False
    model: str = "article"
    hidden: tuple[int, ...] | None = None
    init: Literal["glorot", "torch"] = "glorot"
    task: Literal["classify", "autoencode"] = "classify"
    labels: int | None = Field(None, ge=1)
    semi: Literal["none", "pseudo"] = "none"

    method: str = "activation"
    options: dict[str, Any] = {}
    sparsity: float = Field(0.9, ge=0, lt=1)
    schedule: Literal["accuracy", "cubic", "once", "before", "rounds", "decaying", "own"] = "accuracy"
    pruning_steps: int = Field(5, ge=1)
    start_at: float = Field(0.80, ge=0, le=1)
    retrain_to: float = Field(0.98, ge=0, le=1)
    cubic_epochs: int | None = Field(None, ge=1)
    calibration_images: int = Field(32, ge=1)
    calibration_from: Literal["train", "validation", "unlabelled"] = "train"
    spectra: bool = False

    seed: int = Field(0, ge=0)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=1)
    max_epochs: int = Field(100, ge=1)

    full_length: bool = False
    stop_at: float | None = Field(None, ge=0, le=1)
    patience: int = Field(3, ge=0)
    patience_from: Literal["last_pruning", "start"] = "last_pruning"
    restore_best: bool = True

    precision: Precision = "32-true"
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    channels_last: bool = False
    threads: int | None = Field(None, ge=1)

    def __init__(self, **values: Any) -> None:
        known = type(self).model_fields
        if unknown := [name for name in values if name not in known]:
            raise RecipeError(unknown_name("run setting", unknown[0], known))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError("; ".join(_sentence(problem) for problem in error.errors())) from None
        if self.hidden is not None and self.model in HIDDEN and self.hidden != HIDDEN[self.model]:
            if self.model != "article":
                raise RecipeError(
                    f"model={self.model!r} has hidden layers {list(HIDDEN[self.model])}, but "
                    f"hidden={list(self.hidden)} was asked for; use model='mlp' with hidden="
                )
            object.__setattr__(self, "model", "mlp")  # with other sizes it is not the article's network
        if self.start_at > self.retrain_to:
            raise RecipeError(
                f"start_at={self.start_at} lies above retrain_to={self.retrain_to}; accuracy thresholds run from "
                "start_at up to retrain_to: lower the first or raise the second"
            )

    @property
    def network(self) -> str:
        """The model's name, with the sizes of its hidden layers where those were given."""
        return self.model if self.hidden is None else f"{self.model} {'-'.join(map(str, self.hidden))}"

    @property
    def stop_accuracy(self) -> float:
        """Training accuracy that ends the run after the last pruning."""
        return self.retrain_to if self.stop_at is None else self.stop_at

    def with_(self, **changes: Any) -> RunConfig:
        """A checked copy with some fields changed."""
        return RunConfig(**{**self.model_dump(), **changes})


def _sentence(problem: Any) -> str:
    """One pydantic error as: field, value, what is expected."""
    field = ".".join(str(part) for part in problem["loc"][:1])
    value = problem["input"]
    expected = str(problem["msg"]).removeprefix("Input should be ")
    near = difflib.get_close_matches(value, str(problem.get("ctx", {}).get("expected", "")).split("'")[1::2], n=1) if (
        isinstance(value, str)
    ) else []  # fmt: skip
    hint = f"; did you mean {near[0]!r}?" if near else ""
    percent = isinstance(value, (int, float)) and field in _FRACTIONS and 1 < value <= 100
    remedy = f"; it is a fraction, so write {value / 100:g} for {value:g} %" if percent else ""
    return f"{field}={value!r} cannot be used; expected {expected}{hint}{remedy}"


_FRACTIONS = {"sparsity", "start_at", "retrain_to", "stop_at", "validation"}
