"""L5: the networks of the experiments, built for a data set's shape and classes.

Layers are named conv1.., fc1.. (ResNet-20's by stage and block), and every hidden one is followed by an ``nn.ReLU``
module, so that a firing count sees exact zeros after each of them. For LeNet-5-Caffe this departs from the original
Caffe file, which has a ReLU only after the first fully connected layer; weights and FLOP are the same.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from actprune.errors import DataError, ModelError, unknown_name
from actprune.lab.dataset import Dataset
from actprune.lab.imports import import_object, is_import_string
from actprune.lab.resnet import resnet20

__all__ = ["build", "import_object", "names"]

HIDDEN: dict[str, tuple[int, ...]] = {"article": (300, 200, 100, 50), "lenet-300-100": (300, 100)}
"""Hidden layer sizes; "article" is the founding article's network (784-300-200-100-50-10 on MNIST)."""
AUTOENCODER, AROUND_THE_CODE = "autoencoder", (300, 100, 300)
LENET5 = "lenet-5-caffe"
RESNET20 = "resnet-20"


def names() -> tuple[str, ...]:
    """The models that are known by name; "mlp" needs ``hidden``."""
    return (*HIDDEN, LENET5, RESNET20, AUTOENCODER, "mlp")


def build(
    name: str,
    dataset: Dataset,
    *,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
    init: Literal["glorot", "torch"] = "glorot",
) -> nn.Module:
    """A model for ``dataset``, on the CPU, initialised from ``seed`` without touching the global RNG.

    name    one of ``names()`` or "package.module:factory"; a factory is called with ``(shape, classes)`` if it
            requires two arguments or names its two parameters so, else without arguments; its initialisation is kept
    hidden  sizes of the hidden layers: required for "mlp", replaces those of the other fully connected models, such
            as the (300, 100, 300) of "autoencoder", whose middle one is the code
    init    "glorot": uniform Glorot weights, zero biases (Keras' default, used by the founding article); "torch":
            PyTorch's default (for "resnet-20" that of its paper)

    Raises ModelError for unknown names or senseless sizes, DataError when the examples do not fit the model.
    """
    if is_import_string(name):
        if hidden is not None:
            raise ModelError(f"hidden={tuple(hidden)} cannot be passed to {name!r}; set the sizes in the factory")
        with _seeded(seed):
            return _from_factory(name, dataset)
    if name not in names():
        raise ModelError(f"{unknown_name('model', name, names())}, or package.module:factory")
    with _seeded(seed):
        if name in (LENET5, RESNET20):
            model = _images(name, dataset, hidden)
        else:  # an autoencoder's output has one value per pixel, flat and linear
            outputs = math.prod(dataset.shape) if name == AUTOENCODER else dataset.classes
            model = _mlp(dataset, _sizes(name, hidden), outputs)
        if init == "glorot":
            _glorot(model)
    return model


def _sizes(name: str, hidden: Sequence[int] | None) -> tuple[int, ...]:
    """Hidden sizes asked for, or those of the named model."""
    named = {**HIDDEN, AUTOENCODER: AROUND_THE_CODE}
    sizes = named.get(name, ()) if hidden is None else tuple(hidden)
    if not sizes or any(size < 1 for size in sizes):
        raise ModelError(
            f"model {name!r} with hidden sizes {sizes}; expected at least one positive size, such as (300, 100)"
        )
    return sizes


def _mlp(dataset: Dataset, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """flatten, fc1, relu1, .., fcN."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    widths = (math.prod(dataset.shape), *hidden, outputs)
    for i, (wide, narrow) in enumerate(itertools.pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(wide, narrow)
        if i <= len(hidden):
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def _images(name: str, dataset: Dataset, hidden: Sequence[int] | None) -> nn.Module:
    """The convolutional models, whose sizes are given."""
    if hidden is not None:
        raise ModelError(f"hidden={tuple(hidden)} cannot change {name!r}; use 'mlp' with hidden=")
    if name == LENET5:
        return _lenet5(dataset)
    if len(dataset.shape) != 3:
        raise DataError(
            f"{RESNET20!r} needs images (C, H, W); {dataset.name} has examples of shape {dataset.shape}; use 'article' "
            "or 'lenet-300-100'"
        )
    return resnet20(dataset.shape, dataset.classes)


def _lenet5(dataset: Dataset) -> nn.Sequential:
    """20 and 50 channels of 5x5, each halved by max pooling, then 500 neurons: 430,500 weights on 1x28x28 images."""
    sides = tuple(((side - 4) // 2 - 4) // 2 for side in dataset.shape[1:])
    if len(dataset.shape) != 3 or min(sides) < 1:
        raise DataError(
            f"{LENET5!r} needs images (C, H, W) of at least 16x16 pixels; {dataset.name} has examples of shape "
            f"{dataset.shape}; use 'article' or 'lenet-300-100'"
        )
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(dataset.shape[0], 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * math.prod(sides), 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, dataset.classes),
        )
    )


def _glorot(model: nn.Module) -> None:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)), biases zero (Glorot and Bengio, 2010)."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _from_factory(text: str, dataset: Dataset) -> nn.Module:
    """Call ``package.module:factory``. A ready instance is refused: a second run would start from trained weights."""
    factory = import_object(text)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ModelError(f"{text!r} is a {type(factory).__name__}; expected a function or class that builds the model")
    arguments = (dataset.shape, dataset.classes) if _takes_shape_and_classes(factory, text) else ()
    try:
        model = factory(*arguments)
    except Exception as error:
        given = f"({', '.join(map(str, arguments))})"
        raise ModelError(
            f"model factory {text!r} called with {given} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model factory {text!r} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


def _takes_shape_and_classes(factory: Callable[..., object], text: str) -> bool:
    """Whether it requires two arguments, or has exactly two that are called shape and classes.

    Other arguments with defaults, such as a width and a depth, are the user's own and are left alone.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some built-in callables have no signature
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    required += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) not in (0, 2):
        raise ModelError(
            f"model factory {text!r} requires {', '.join(required)}; it must require none, or (shape, classes)"
        )
    return len(required) == 2 or [p.name for p in positional] == ["shape", "classes"]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The CPU's generator seeded inside, as before outside; ``torch.manual_seed`` would also reseed accelerators."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
