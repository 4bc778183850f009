"""L3: one file per published method. A new one is a file, an export line below and a golden test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from actprune.edit import Method
from actprune.errors import RecipeError, unknown_name
from actprune.methods.activation import activation, activation_literal
from actprune.methods.apoz import apoz
from actprune.methods.deep_compression import deep_compression
from actprune.methods.dns import dns, dns_thresholds
from actprune.methods.geometric_median import geometric_median
from actprune.methods.gradual_magnitude import gradual_magnitude
from actprune.methods.grasp import grasp
from actprune.methods.han import han, han_thresholds
from actprune.methods.l1_filters import l1_filters
from actprune.methods.lamp import lamp
from actprune.methods.lottery import lottery
from actprune.methods.magnitude import magnitude
from actprune.methods.movement import movement
from actprune.methods.nuclear_norm import nuclear_norm
from actprune.methods.obd import obd
from actprune.methods.owl import owl
from actprune.methods.random import random
from actprune.methods.ria import ria
from actprune.methods.rigl import rigl
from actprune.methods.slimming import slimming
from actprune.methods.snip import snip
from actprune.methods.sparse_evolutionary import sparse_evolutionary
from actprune.methods.sparsegpt import sparsegpt
from actprune.methods.synflow import synflow
from actprune.methods.taylor import taylor
from actprune.methods.variational_dropout import variational_dropout, variational_dropout_threshold
from actprune.methods.wanda import wanda

__all__ = [
    "REGISTRY",
    "activation",
    "activation_literal",
    "apoz",
    "deep_compression",
    "dns",
    "dns_thresholds",
    "geometric_median",
    "gradual_magnitude",
    "grasp",
    "han",
    "han_thresholds",
    "l1_filters",
    "lamp",
    "lottery",
    "magnitude",
    "make",
    "movement",
    "names",
    "nuclear_norm",
    "obd",
    "owl",
    "random",
    "ria",
    "rigl",
    "slimming",
    "snip",
    "sparse_evolutionary",
    "sparsegpt",
    "synflow",
    "taylor",
    "variational_dropout",
    "variational_dropout_threshold",
    "wanda",
]

REGISTRY: dict[str, Callable[..., Method]] = {
    method.__name__: method
    for method in (
        activation,
        activation_literal,
        apoz,
        deep_compression,
        dns,
        dns_thresholds,
        geometric_median,
        gradual_magnitude,
        grasp,
        han,
        han_thresholds,
        l1_filters,
        lamp,
        lottery,
        magnitude,
        movement,
        nuclear_norm,
        obd,
        owl,
        random,
        ria,
        rigl,
        slimming,
        snip,
        sparse_evolutionary,
        sparsegpt,
        synflow,
        taylor,
        variational_dropout,
        variational_dropout_threshold,
        wanda,
    )
}


def names() -> list[str]:
    """Names of all methods."""
    return sorted(REGISTRY)


def make(name: str, options: dict[str, Any]) -> Method:
    """Build the recipe of a method by name. An unknown name or option is a RecipeError with the nearest match."""
    if name not in REGISTRY:
        raise RecipeError(unknown_name("method", name, REGISTRY))
    known = inspect.signature(REGISTRY[name]).parameters
    for option in options:
        if option not in known:
            raise RecipeError(unknown_name(f"option of method {name}", option, known))
    return REGISTRY[name](**options)
