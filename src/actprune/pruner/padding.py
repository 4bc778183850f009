"""Which tokens of a batch are padding: they are no examples, and nothing is counted of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actprune.errors import ObservationError

Mask = str | Callable[[tuple[Any, ...], dict[str, Any]], Tensor] | None
"""How padding is told: the name of an argument of the model's forward, or of a key in a batch that is a mapping, which
holds ``(B, T)``, non-zero = a real token; or a function of ``(args, kwargs)`` that returns it; None: all are real."""

Real = tuple[Tensor, ...]
"""Bool ``(B, T)`` each, True = a real token: of a model's tokens, and of its decoder's."""

DEFAULT: Mask = "attention_mask"
_DECODER = "decoder_attention_mask"
_TOKENS = "input_ids"


def real_tokens(how: Mask, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Real | None:
    """The masks of a batch; None when all tokens are real, or nothing tells. An odd mask raises ObservationError."""
    if how is None:
        return None
    found = how(args, kwargs) if callable(how) else _argument(how, model, args, kwargs)
    if found is None and how != DEFAULT:
        raise ObservationError(
            f"observe(mask={how!r}): the model was called without it; name an argument of its forward or a key of "
            "the batch, or give a function of (args, kwargs) that returns a (B, T) tensor"
        )
    other = None if callable(how) else _argument(_DECODER, model, args, kwargs)
    if found is None and other is not None:  # then all tokens of the encoder are real
        tokens = _argument(_TOKENS, model, args, kwargs)
        found = torch.ones_like(tokens) if isinstance(tokens, Tensor) else None
    masks = {what: _as_mask(what, each) for what, each in ((how, found), (_DECODER, other)) if each is not None}
    _check_apart(masks)
    padded = tuple(mask for mask in masks.values() if not bool(mask.all()))
    return padded or None


def _as_mask(how: Mask, found: Any) -> Tensor:
    if not isinstance(found, Tensor) or found.dim() != 2 or found.is_floating_point():
        what = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ObservationError(
            f"the mask ({how!r}) is {what}; expected integers or bools (B, T), non-zero for a real token: give "
            "observe(mask=function) that makes one of (args, kwargs), or observe(mask=None) to count all tokens; where "
            "training batches are counted, attach(optimizer, mask=...)"
        )
    return found != 0


def _check_apart(masks: Mapping[Any, Tensor]) -> None:
    """Two masks of one shape can be told apart only if they say the same."""
    if len(masks) < 2:
        return
    (how, first), (_, other) = masks.items()
    if first.shape == other.shape and not torch.equal(first, other.to(first.device)):
        raise ObservationError(
            f"{how} and {_DECODER} have one shape, {tuple(first.shape)}, and differ, so that nobody can tell which "
            "layer reads which tokens; make them of different lengths, or give observe(mask=None) to count all tokens"
        )


def _argument(name: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name in kwargs:
        return kwargs[name]
    for item in (*args, *kwargs.values()):
        if isinstance(item, Mapping) and name in item:
            return item[name]
    try:
        return inspect.signature(model.forward).bind(*args, **kwargs).arguments.get(name)
    except (TypeError, ValueError):
        return None


def without_padding(values: Tensor, axis: int, real: Real) -> tuple[Tensor, int]:
    """The rows of real tokens, ``(rows, .., units)`` with the units last.

    Values are ``(B, T, ..)``, ``(T, B, ..)``, ``(B, heads, T, ..)`` or ``(B * T, ..)`` but for the units at ``axis``;
    any others, such as one row an example behind a pooling, or every second token, are not what a mask speaks of and
    stay. Where B equals T, examples come first.
    """
    rows = values.movedim(axis, -1)
    for mask in real:
        found = _rows_of(rows, mask.to(values.device))
        if found is not None:
            return found, -1
    return values, axis


def _rows_of(rows: Tensor, mask: Tensor) -> Tensor | None:
    lead, (examples, tokens) = tuple(rows.shape[:-1]), mask.shape
    if lead[:2] == (examples, tokens):
        return rows[mask]
    if lead[:2] == (tokens, examples):
        return rows[mask.T]
    if len(lead) > 2 and (lead[0], lead[2]) == (examples, tokens):
        return rows.transpose(1, 2)[mask]
    if lead[:1] == (mask.numel(),) and tokens > 1:
        return rows[mask.flatten()]
    return None
