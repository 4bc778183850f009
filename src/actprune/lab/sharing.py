"""L5: what ``Method.sharing`` asks for at the end of a run: shared values, fine-tuned, and the published code's bytes.

Source: S. Han, H. Mao, W. J. Dally. Deep Compression. ICLR 2016 (arXiv 1510.00149), sections 3 and 4.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from actprune.artifact import SharedWeights, deep_compression
from actprune.errors import RecipeError
from actprune.lab.train import train_epoch

if TYPE_CHECKING:
    from actprune.lab.listener import Listener
    from actprune.lab.setup import Setup
    from actprune.types import Sharing


def share(setup: Setup, epochs: int, listener: Listener) -> int:
    """Share the weights in place, fine-tune the shared values after ``epochs`` epochs of training; bytes when coded.

    Only kept weights count; biases are stored as they are, 4 bytes each. A run that is resumed here does this phase
    again from the end of training, so it needs no checkpoint of its own.
    """
    sharing = setup.recipe.sharing
    assert sharing is not None  # the loop asks only then
    weights = {name: setup.model.get_parameter(name) for name in setup.pruner.layers}
    bits = {name: _bits(sharing, name) for name in weights}
    shared = SharedWeights(setup.model, bits)
    shared.apply()
    setup.optimizer.state.clear()  # momentum of single weights means nothing to shared ones
    with shared.attach(setup.optimizer):
        for epoch in range(epochs + 1, epochs + 1 + sharing.tune_epochs):
            train_epoch(setup, epoch, listener, lr=sharing.tune_lr)
    shared.apply()
    coded = sum(_coded(name, weight.detach(), bits[name], sharing.index_bits) for name, weight in weights.items())
    others = [p for name, p in setup.model.named_parameters() if name not in weights]
    return coded + sum(4 * parameter.numel() for parameter in others)


def _coded(name: str, weight: torch.Tensor, bits: int, index_bits: int) -> int:
    spec, parts = deep_compression.prepare(name, weight.float().cpu(), bits, index_bits)
    return deep_compression.layer_size(spec, parts).coded_bytes


def _bits(sharing: Sharing, name: str) -> int:
    for pattern, width in sharing.bits:
        if fnmatchcase(name, pattern):
            return width
    raise RecipeError(
        f"sharing names no bits for {name!r} (patterns: {', '.join(pattern for pattern, _ in sharing.bits)}); add a "
        'pair such as ("*", 6)'
    )
