"""Dead structure, by masks and graph alone: weights out of neurons that cannot fire, and into neurons nobody reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from actprune.nodes import Consumer, Graph


def dead_neurons(mask: Tensor) -> Tensor:
    """Neurons of ``mask`` ``(out, in, *kernel)`` that keep no incoming weight: bool ``(out,)``."""
    return ~mask.flatten(1).any(1)


def without_dead(graph: Graph, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New masks that also remove every dead weight, to a fixed point; the given masks stay untouched.

    Forwards: see ``without_constants``. Backwards: a neuron that no kept weight of any reader (all of which must have
    masks) looks at can lose its inputs. Layers whose readers are not understood keep their dead weights.
    """
    found = _copied(graph, masks)
    known = _known(graph, found)
    changed = bool(known)
    while changed:
        forward = [_cut_outgoing(found, name, readers) for name, readers in known.items()]
        backward = [_cut_incoming(found, name, readers) for name, readers in reversed(known.items())]
        changed = any(forward + backward)
    return found


def without_constants(graph: Graph, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New masks without the weights that dead neurons feed, to a fixed point.

    A neuron without incoming weights sends a constant, so all weights it feeds can go if every reader can take the
    constant into its bias (``foldable``; whoever removes them must move the constant, or the outputs change).
    """
    found = _copied(graph, masks)
    changed = True
    while changed:
        changed = any([_cut_outgoing(found, name, readers) for name, readers in _known(graph, found).items()])  # noqa: C419
    return found


def _copied(graph: Graph, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the masks that may change: those of layers that are read by known ones, and of their readers."""
    known = _known(graph, masks)
    touched = {*known, *(reader.layer for readers in known.values() for reader in readers)}
    return {name: mask.clone() if name in touched else mask for name, mask in masks.items()}


def _known(graph: Graph, masks: Mapping[str, Tensor]) -> dict[str, tuple[Consumer, ...]]:
    return {name: readers for name, readers in graph.consumers.items() if readers and name in masks}


def _cut_outgoing(masks: dict[str, Tensor], name: str, readers: tuple[Consumer, ...]) -> bool:
    """Mask what dead neurons of a layer feed. True when something was masked that was kept."""
    dead = dead_neurons(masks[name])
    if not all(reader.foldable for reader in readers) or not bool(dead.any()):
        return False
    changed = False
    for reader in readers:
        mask = masks.get(reader.layer)
        if mask is None:
            continue
        columns = dead.to(mask.device).repeat_interleave(reader.repeat)
        if bool(mask[:, columns].any()):
            mask[:, columns] = False
            changed = True
    return changed


def _cut_incoming(masks: dict[str, Tensor], name: str, readers: tuple[Consumer, ...]) -> bool:
    """Mask the inputs of neurons that no reader looks at. True when something was masked that was kept."""
    mask = masks[name]
    if any(reader.layer not in masks for reader in readers):
        return False
    read = torch.zeros(mask.shape[0], dtype=torch.bool, device=mask.device)
    for reader in readers:
        read |= _inputs_read(masks[reader.layer], mask.shape[0] * reader.repeat, mask.shape[0]).to(mask.device)
    if not bool(mask[~read].any()):
        return False
    mask[~read] = False
    return True


def _inputs_read(mask: Tensor, inputs: int, units: int) -> Tensor:
    """Which neurons a reader with ``mask`` ``(out, inputs / groups, *kernel)`` looks at: bool ``(units,)``."""
    groups = inputs // mask.shape[1]
    columns = mask.reshape(groups, -1, mask.shape[1], mask[0, 0].numel()).any(3).any(1)
    return columns.reshape(units, -1).any(1)
