"""L5: data sets for the experiments: ``load`` by name, path or import string, split, check against a model.

The validation set is taken from the training data by a permutation that depends on the split seed alone, so it is
the same for every method and every run seed. The founding article takes the first tenth of the unshuffled training
set instead; a fixed permutation also serves data that is stored sorted by class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from actprune.errors import DataError
from actprune.lab.dataset import Dataset, Pair, Raw, checked, fingerprint, tensors
from actprune.lab.sources import names, read

__all__ = ["Dataset", "check_compatible", "load", "names"]


def load(name_or_path: str | Path, *, seed: int = 0, validation: float = 0.1, download: bool = False) -> Dataset:
    """A data set in memory.

    name_or_path  one of
                  - "digits", "mnist", "fashion-mnist"
                  - a folder with the four idx files (plain or .gz), or with one .npz file
                  - an .npz file with x_train, y_train, x_test, y_test and, optionally, x_val, y_val
                  - "package.module:factory", called without arguments, that returns a Dataset, or (train, test) or
                    (train, test, validation), each a pair (x, y) or a torch Dataset
    seed          of the *split* (validation, and the test set of "digits"), not of a run: leave it alone, or change it
                  for all runs that are compared
    validation    fraction 0 < v < 1 of the training data, the last ones of the permutation; not used when the source
                  has a validation set of its own
    download      fetch mnist and fashion-mnist into the user cache when they are nowhere on this machine

    uint8 images are divided by 255; float data is taken as it is; ``(N, H, W)`` becomes ``(N, 1, H, W)``.
    Raises DataError when the data is missing, damaged or inconsistent, saying what was expected, found, and what to do.
    """
    source = str(name_or_path)
    raw = read(source, seed, download)
    try:
        ready, classes = checked(raw)
        train, kept_back = _split(ready, seed, validation)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    parts = tensors(train), tensors(kept_back), tensors(ready.test)
    name = source if source in names() or ":" in source else Path(source).resolve().name
    return Dataset(name, *parts, classes, tuple(parts[0][0].shape[1:]), fingerprint(raw))


def check_compatible(dataset: Dataset, model: nn.Module, *, rebuilds: bool = False) -> None:
    """Try the model on two training examples (inference only; modes, buffers and RNG are left as they were).

    rebuilds: whether it is to give back its input, in its shape or flat, instead of ``(2, classes)``.
    Raises DataError with the input shape, the classes and what the model did instead of what is expected.
    """
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    x = dataset.train[0][:2].to(device)
    asked = f"{dataset.name} has examples of shape {dataset.shape} and {dataset.classes} classes"
    outputs = f"{math.prod(dataset.shape)}), such as model='autoencoder'" if rebuilds else f"{dataset.classes})"
    remedy = f"use a model that maps (batch, {', '.join(map(str, dataset.shape))}) to (batch, {outputs}"
    try:
        with _inference(model):
            found = model(x)
    except Exception as error:
        raise DataError(
            f"{asked}; the model {type(model).__name__} fails on an input {tuple(x.shape)}: {error}; {remedy}"
        ) from error
    good = {(len(x), dataset.classes)} if not rebuilds else {tuple(x.shape), tuple(x.flatten(1).shape)}
    if not isinstance(found, Tensor) or tuple(found.shape) not in good:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise DataError(
            f"{asked}; the model {type(model).__name__} returns {got} for an input {tuple(x.shape)}; {remedy}"
        )


def _split(raw: Raw, seed: int, fraction: float) -> tuple[Pair, Pair]:
    """(training, validation) pairs; the raw arrays are indexed before scaling, which keeps the peak of memory low."""
    if raw.validation is not None:
        return raw.train, raw.validation
    x, y = raw.train
    held = round(len(x) * fraction) if 0 < fraction < 1 else 0
    if not 0 < held < len(x):
        raise DataError(
            f"validation={fraction!r} of {len(x)} training examples; expected a fraction that leaves both parts"
        )
    # RandomState's stream is frozen for ever; that of numpy's and torch's newer generators may change with a version.
    order = np.random.RandomState(seed).permutation(len(x))
    train, kept_back = order[: len(x) - held], order[len(x) - held :]
    return (x[train], y[train]), (x[kept_back], y[kept_back])


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode and the CPU's RNG are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
