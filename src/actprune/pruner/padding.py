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

DEFAULT: Mask = "attention_mask"
_OTHER = "decoder_attention_mask"  # of an encoder-decoder: it speaks of other tokens


def real_tokens(how: Mask, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Bool ``(B, T)``, True = real; None when all are, or nothing tells. Raises ObservationError for an odd mask."""
    if how is None:
        return None
    found = how(args, kwargs) if callable(how) else _argument(how, model, args, kwargs)
    if found is None:
        if how != DEFAULT:
            raise ObservationError(
                f"observe(mask={how!r}): the model was called without it; name an argument of its forward or a key of "
                "the batch, or give a function of (args, kwargs) that returns a (B, T) tensor"
            )
        return None
    if not isinstance(found, Tensor) or found.dim() != 2 or found.is_floating_point():
        what = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ObservationError(
            f"the mask ({how!r}) is {what}; expected integers or bools (B, T), non-zero for a real token: give "
            "observe(mask=function) that makes one of (args, kwargs), or observe(mask=None) to count all tokens"
        )
    mask = found != 0
    other = None if callable(how) else _argument(_OTHER, model, args, kwargs)
    if isinstance(other, Tensor) and other.shape == mask.shape and not torch.equal(other != 0, mask):
        raise ObservationError(
            f"{how} and {_OTHER} have one shape, {tuple(mask.shape)}, and differ, so that nobody can tell which layer "
            "reads which tokens; make them of different lengths, or give observe(mask=None) to count all tokens"
        )
    return None if bool(mask.all()) else mask


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


def without_padding(values: Tensor, axis: int, mask: Tensor) -> tuple[Tensor, int]:
    """The rows of real tokens, ``(rows, .., units)`` with the units last.

    Values are ``(B, T, ..)``, ``(T, B, ..)`` or ``(B * T, ..)`` but for the units at ``axis``; any others, such as one
    row an example behind a pooling, or the tokens of a decoder, are not what the mask speaks of and stay.
    """
    rows = values.movedim(axis, -1)
    lead, mask = tuple(rows.shape[:-1]), mask.to(values.device)
    if lead[:2] == tuple(mask.shape):
        return rows[mask], -1
    if lead[:2] == tuple(mask.T.shape):
        return rows[mask.T], -1
    if lead[:1] == (mask.numel(),) and len(mask) != mask.numel():
        return rows[mask.flatten()], -1
    return values, axis
