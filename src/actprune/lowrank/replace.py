"""L4: a model with layers of low rank in place of full ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from actprune.errors import RecipeError
from actprune.graph import named_layers
from actprune.lowrank.choose import largest_rank
from actprune.lowrank.factors import Factors, Kind, factorise
from actprune.lowrank.layers import layers_of, pair


def replace(
    model: nn.Module,
    ranks: Mapping[str, int],
    kind: Kind = "svd",
    *,
    moments: Mapping[str, Tensor] | None = None,
    allow_growth: bool = False,
) -> nn.Module:
    """A copy of ``model`` in which each named layer is two; everything else, and ``model`` itself, is as it was.

    ranks         by weight name, such as ``{"fc1.weight": 20}``; layers not named stay
    kind          see ``factorise``; "activation" needs ``moments`` by weight name (``input_moments``)
    allow_growth  also factors that hold more weights than the layer had: k factors pay only if k < m n / (m + n)

    In the state dict ``fc1.weight`` and ``fc1.bias`` become ``fc1.first.weight`` ``(k, in, *kernel)``,
    ``fc1.second.weight`` ``(out, k)`` (a conv: ``(out, k, 1, 1)``) and ``fc1.second.bias``.

    Raises ModelError (names that do not exist or cannot be factorised, NaN) and RecipeError (ranks).
    """
    layers = layers_of(model, list(ranks))
    pairs: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        weight = layer.get_parameter("weight")
        factors = factorise(weight, ranks[name], kind, (moments or {}).get(name))
        if not allow_growth:
            _check_saves(name, weight, factors)
        pairs[name] = pair(layer, factors)
    memo: dict[int, object] = {id(layers[name]): pairs[name] for name in layers}  # a layer used twice stays one
    return copy.deepcopy(model, memo)


def weights(model: nn.Module) -> int:
    """Weights of every Linear and conv, biases left out; a weight that several layers share counts once."""
    return sum(places[0][1].get_parameter("weight").numel() for places in named_layers(model).values())


def _check_saves(name: str, weight: Tensor, factors: Factors) -> None:
    if factors.weights >= weight.numel():
        raise RecipeError(
            f"rank {factors.rank} for {name} {tuple(weight.shape)} takes factors of {factors.directions} directions: "
            f"{factors.weights} weights, no fewer than the {weight.numel()} it has; at most {largest_rank(weight)} "
            "directions pay: choose a smaller rank, leave the layer out, or pass allow_growth=True"
        )
