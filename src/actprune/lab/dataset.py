"""L5: what a data set is: raw arrays as they were stored, the checks they must pass, and the tensors made of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actprune.errors import DataError

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, resident in memory. Images stay images: to flatten is the model's job.

    train, validation, test   pairs ``(x, y)``; x float32 ``(N, C, H, W)`` or ``(N, F)``, y int64 ``(N,)``
    classes                   labels lie in ``0..classes-1``
    shape                     of one example, ``(C, H, W)`` or ``(F,)``
    fingerprint               SHA-256 (hex) of the raw arrays before scaling and splitting
    """

    name: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    shape: tuple[int, ...]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Raw:
    """Arrays as a source gave them, unchecked. ``classes`` None: one more than the largest training label."""

    train: Pair
    test: Pair
    validation: Pair | None = None
    classes: int | None = None

    @property
    def parts(self) -> dict[str, Pair]:
        """The pairs that are there, by name."""
        pairs = {"train": self.train, "test": self.test}
        return pairs if self.validation is None else {**pairs, "validation": self.validation}


def checked(raw: Raw) -> tuple[Raw, int]:
    """``raw`` with gray images given their channel axis, and the number of classes.

    Raises DataError for empty or unequal lengths, wrong dtypes or dimensions, values that are not finite, and
    labels outside ``0..classes-1``, saying what was expected, found, and what to do.
    """
    parts = {name: (_examples(f"x of {name}", x), _labels(f"y of {name}", y)) for name, (x, y) in raw.parts.items()}
    classes = _count_classes(parts["train"], raw.classes)
    expected = parts["train"][0].shape[1:]
    for name, (x, y) in parts.items():
        if len(x) != len(y):
            raise DataError(f"{name}: {len(x)} examples but {len(y)} labels; give one label per example")
        if x.shape[1:] != expected:
            raise DataError(f"{name}: examples have shape {x.shape[1:]}, those of train {expected}; make them equal")
        outside = np.flatnonzero((y < 0) | (y >= classes))
        if outside.size:
            first = int(outside[0])
            raise DataError(
                f"{name}: label {int(y[first])} at index {first} ({outside.size} such labels); expected integers "
                f"0..{classes - 1}, as there are {classes} classes; renumber the labels from 0"
            )
    return Raw(parts["train"], parts["test"], parts.get("validation"), classes), classes


def fingerprint(raw: Raw) -> str:
    """SHA-256 over name, dtype, shape and bytes of every array, independent of byte order and packaging."""
    digest = hashlib.sha256()
    for name, pair in sorted(raw.parts.items()):
        for axis, array in zip("xy", pair, strict=True):
            little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
            digest.update(f"{name}.{axis} {little.dtype.str} {little.shape}\n".encode())
            digest.update(little.data)
    return digest.hexdigest()


def tensors(pair: Pair) -> tuple[Tensor, Tensor]:
    """The pair as float32 (uint8 divided by 255, bool and float as they are) and int64, owning their memory."""
    x, y = pair
    scaled = x.astype(np.float32)
    if x.dtype == np.uint8:
        scaled /= np.float32(255)
    return torch.from_numpy(scaled), torch.from_numpy(y.astype(np.int64))


def _examples(what: str, x: Array) -> Array:
    """Checked examples, ``(N, H, W)`` turned into ``(N, 1, H, W)``."""
    if x.size == 0:
        raise DataError(f"{what} is empty (shape {x.shape}); expected at least one example")
    if x.ndim not in (2, 3, 4):
        raise DataError(f"{what} has shape {x.shape}; expected images (N, C, H, W) or (N, H, W), or features (N, F)")
    if x.dtype not in (np.uint8, np.bool_) and not np.issubdtype(x.dtype, np.floating):
        raise DataError(
            f"{what} has dtype {x.dtype}; expected uint8 (divided by 255 here), float (taken as it is) or bool"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf here and is reported below
        finite = np.isfinite(x.astype(np.float32, copy=False))
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{what} holds {x[where]} at index {where}; expected finite float32 values; remove or replace them"
        )
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] > 4:
        raise DataError(
            f"{what} has shape {x.shape}, channels last; expected (N, C, H, W): use x.transpose(0, 3, 1, 2)"
        )
    return x[:, None] if x.ndim == 3 else x


def _labels(what: str, y: Array) -> Array:
    """Checked labels: integers, one dimension."""
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{what} has shape {y.shape} and dtype {y.dtype}; expected integer class indices of shape (N,)")
    return y


def _count_classes(train: Pair, classes: int | None) -> int:
    """Given, or one more than the largest label; a largest label beyond the number of examples is no class index."""
    if classes is None:
        classes = int(train[1].max()) + 1 if train[1].size else 0
        if classes > len(train[1]):
            raise DataError(
                f"y of train: the largest label is {classes - 1} but there are only {len(train[1])} examples; "
                f"expected class indices that count from 0; renumber the labels"
            )
    if classes < 2:
        raise DataError(f"found {classes} class(es); expected at least 2 different labels, counting from 0")
    return classes
