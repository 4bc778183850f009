"""What the Pruner is given: recipes and arguments it can carry out, states that fit, zeros that are there already."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actprune.edit import Method
from actprune.errors import CheckpointError, RecipeError
from actprune.pruner.distributed import full
from actprune.pruner.padding import DEFAULT, Mask
from actprune.state import PruneState


def refuse(recipe: Method, sharing_elsewhere: bool) -> None:
    """Refuse what the Pruner cannot carry out."""
    if not isinstance(recipe, Method):
        raise RecipeError(f"{recipe!r} is no recipe; expected an edit.Method, such as methods.activation(0.9)")
    if recipe.sharing is not None and not sharing_elsewhere:
        raise RecipeError(
            f"{recipe.name} shares weights once pruning is done (sharing={recipe.sharing}), which the Pruner does not "
            "carry out; use `actprune run --method deep_compression`, or share them yourself with "
            "artifact.SharedWeights and say Pruner(sharing_elsewhere=True)"
        )


def check_fraction(recipe: Method, fraction: float | None) -> None:
    """Raise RecipeError for an argument of ``prune()`` that means nothing."""
    if fraction is None:
        return
    if not 0.0 <= fraction < 1.0:
        raise RecipeError(f"prune(fraction={fraction!r}): expected a removed fraction 0 <= f < 1, such as 0.9")
    if recipe.budget.kind == "threshold":
        raise RecipeError(
            f"prune(fraction={fraction!r}): this recipe keeps what scores at least {recipe.budget.value:g}, whatever "
            "fraction that is; call prune() without a fraction, or use a recipe with a sparsity"
        )


def zeros_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Masks of weights that are partly zero already, True = not zero; the others have none."""
    masks = {}
    for name, parameter in parameters.items():
        if not parameter.is_meta:
            mask = full(parameter) != 0
            if 0 < int(torch.count_nonzero(mask)) < mask.numel():
                masks[name] = mask
    return masks


def check_mask(recipe: Method, mask: Mask) -> None:
    """Raise RecipeError for a way to tell padding that would be forgotten, or that says the opposite."""
    if mask != DEFAULT and recipe.collects_again:
        raise RecipeError(
            f"{recipe.name} collects evidence again on the batches, and does not keep the function or name mask=; send "
            "the mask to the model as attention_mask, or leave padding out of the batches, and leave mask= out"
        )
    if isinstance(mask, str) and mask.endswith("key_padding_mask"):
        raise RecipeError(
            f"mask={mask!r}: PyTorch's key_padding_mask is True where a token is padding, and True is a real token "
            f"here; give mask=lambda args, kwargs: ~kwargs[{mask!r}]"
        )


def check_mask_grads(recipe: Method, *, looks: bool, learns: bool) -> None:
    """Raise RecipeError where gradients of pruned weights may not be zeroed. looks, learns: at or by gradients."""
    if recipe.regrow == "dense" or learns or (looks and not getattr(recipe, "monotone", False)):
        raise RecipeError(
            "mask_grads=True would zero the gradients of pruned weights, which this recipe looks at or trains by; "
            "leave it out"
        )


def check_fits(state: PruneState, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> PruneState:
    """``state`` (whole tensors), if it is one of this model, however that is sharded. Raises CheckpointError."""
    for name, mask in state.masks.items():
        if name not in parameters or tuple(mask.shape) != tuple(parameters[name].shape):
            found = tuple(parameters[name].shape) if name in parameters else "no such weight"
            raise CheckpointError(f"stored mask {name} is {tuple(mask.shape)}; the model has {found}")
    for name, values in state.dense.items():
        if name not in state.masks or tuple(values.shape) != tuple(parameters[name].shape):
            raise CheckpointError(
                f"stored dense weights behind the mask of {name} are {tuple(values.shape)}: not of this model"
            )
    for name, values in state.snapshot.items():
        if name not in tensors or values.shape != tensors[name].shape:
            raise CheckpointError(f"stored value {name} to rewind to is {tuple(values.shape)}: not of this model")
    return state
