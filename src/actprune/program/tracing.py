"""L2: ``torch.export`` at work: evaluation mode, a free batch axis, no writing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from actprune.errors import ActpruneError, ModelError
from actprune.program.ops import name_of
from actprune.structure import is_cache


def traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The ``ExportedProgram`` of ``model`` in evaluation mode, without operations that overwrite tensors.

    Raises ModelError where there is none. Training flags are as before, whatever happens.
    """
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        if alone := {id(item): item for item in (*args, *kwargs.values()) if item.dim() and len(item) == 1}:
            # A batch of one is taken for a model that takes no other; a batch of two is not.
            twice = {key: torch.cat([item, item]) for key, item in alone.items()}
            with suppress(Exception):
                more = {key: twice.get(id(item), item) for key, item in kwargs.items()}
                exported = _dynamic(model, tuple(twice.get(id(item), item) for item in args), more)
                if fixed_batch(exported) is None:
                    return exported
        return _dynamic(model, args, kwargs)
    except Exception as error:  # torch.export raises many types; each of them means the same to the user
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        refuse_failing(model, args, kwargs)
        raise ModelError(
            f"{type(model).__name__} cannot be turned into a graph: {type(error).__name__}: {first}; models whose "
            "control flow depends on values cannot be compacted or shipped without their class"
        ) from error
    finally:
        for module in training:
            module.training = True


def refuse_failing(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ModelError where plain PyTorch fails on the example too: then the example is to blame, not the graph."""
    with on_its_example(model, args, kwargs), torch.no_grad():
        model(*args, **kwargs)


@contextmanager
def on_its_example(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Around a forward: what the model raises becomes a ModelError that says what it was given."""
    try:
        yield
    except ActpruneError:
        raise
    except Exception as error:
        raise _failing(model, args, kwargs, error) from error


def _failing(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> ModelError:
    every = [item for item in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
    found = ", ".join(f"{tuple(item.shape)} {item.dtype} on {item.device}" for item in every)
    homes = sorted({str(tensor.device) for tensor in model.parameters()})
    remedy = "give an example of the shape and type that the model takes"
    if {str(item.device) for item in every} - set(homes) and homes:
        remedy = f"the model's parameters are on {', '.join(homes)}: bring both to one device"
        if "meta" in homes:
            remedy = "the model's parameters are on the meta device and have no values: load its weights first"
    return ModelError(
        f"{type(model).__name__} fails on the example itself, of shape {found}: {type(error).__name__}: {error}; "
        f"{remedy}"
    )


def _dynamic(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    dynamic = torch.export.Dim.AUTO
    shapes = tuple({0: dynamic} if item.dim() else None for item in (*args, *kwargs.values()))
    with warnings.catch_warnings(), torch.no_grad(), _without_caches(model):
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        return exported.run_decompositions({}) if _writes(exported.graph) else exported


@contextmanager
def _without_caches(model: nn.Module) -> Iterator[None]:
    """Inside, the model returns no caches for its own next call: a program has no use for them."""

    def left_out(_: nn.Module, __: Any, result: Any) -> Any:
        if not isinstance(result, Mapping) or not any(is_cache(*pair) for pair in result.items()):
            return result
        return {key: item for key, item in result.items() if not is_cache(key, item)}

    handle = model.register_forward_hook(left_out)
    try:
        yield
    finally:
        handle.remove()


def fixed_batch(exported: Any) -> int | None:
    """The batch size, where the model insists on one."""
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in exported.graph_signature.user_inputs and node.meta["val"].dim():
            size = node.meta["val"].shape[0]
            number: int | None = size if isinstance(size, int) else size.node.maybe_as_int()
            if number is not None:
                return number
    return None


def _writes(graph: Any) -> bool:
    """Whether any call overwrites a tensor: later readers of that tensor would then read something else."""
    calls = (name_of(node.target) for node in graph.nodes if node.op == "call_function")
    return any(op.partition(".")[0].endswith("_") for op in calls)
