"""What a forward is given: how many examples, copies of it, and two examples of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actprune.graph import tensors_in


def examples_in(inputs: Any) -> int | None:
    """Length of the first axis of the first tensor that has one; None when there is no such tensor."""
    return next((tensor.shape[0] for tensor in tensors_in(inputs) if tensor.dim() > 0), None)


def two_examples(inputs: Any) -> Any:
    """``inputs`` with every tensor cut to its first two examples and copied; None when that cannot be done.

    It can when all tensors have the same first axis and everything else is a plain number, string, bool or None.
    """
    examples = examples_in(inputs)
    try:
        return None if examples is None else _cut(inputs, examples)
    except _CannotCutError:
        return None


def copied(item: Any) -> Any:
    """Tensors in nested tuples, lists and dicts as copies: the caller may fill the next batch into the same memory."""
    if isinstance(item, Tensor):
        with torch.inference_mode(False):
            return item.detach().clone()
    if type(item) in (tuple, list):
        return type(item)(copied(inner) for inner in item)
    return {key: copied(inner) for key, inner in item.items()} if type(item) is dict else item


class _CannotCutError(Exception):
    pass


def _cut(item: Any, examples: int) -> Any:
    if isinstance(item, Tensor):
        if item.dim() == 0 or item.shape[0] != examples:
            raise _CannotCutError
        with torch.inference_mode(False):
            return item[:2].detach().clone()
    if type(item) in (tuple, list):
        return type(item)(_cut(inner, examples) for inner in item)
    if type(item) is dict:
        return {key: _cut(inner, examples) for key, inner in item.items()}
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    raise _CannotCutError
