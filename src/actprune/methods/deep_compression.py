"""Deep Compression: prune, share weights, code.

Source: S. Han, H. Mao, W. J. Dally. Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
Quantization and Huffman Coding. ICLR 2016 (arXiv 1510.00149).

    1 prune     as Han et al. 2015 (``methods.han``)
    2 quantise  per layer: k-means of the kept weights, k = 2^b, centroids at first even over [min, max]
                fine-tune: dL/dC_k = sum of dL/dW over cluster k; assignments fixed
    3 store     positions as gaps in flat order, of a fixed width, with filler zeros
    4 Huffman   cluster indices and gaps, each with a code of its own, per layer

Stages 2 to 4 are ``recipe.sharing``; the training loop of ``actprune.lab`` carries them out with
``artifact.SharedWeights`` and the published codec. Deviations of the codec are listed in ``artifact.deep_compression``.
"""

from __future__ import annotations

from dataclasses import replace

from actprune.methods.han import Pairs, han
from actprune.ranked import Ranked
from actprune.types import Schedule, Sharing


def deep_compression(
    sparsity: float = 0.92,
    *,
    kept: Pairs = (),
    bits: tuple[tuple[str, int], ...] = (("conv*", 8), ("*", 6)),
    index_bits: int = 5,
    tune_epochs: int = 2,
    schedule: Schedule | None = None,
    lr_scale: float = 0.1,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Han's pruning, then codebooks of 2^bits values per layer and the published code.

    bits         pairs of fnmatch pattern and bits, the first match counts; 8 for convolutions and 6 for fully
                 connected layers are what the paper uses for LeNet-300-100 (5 for those of LeNet-5)
    index_bits   width of a gap
    tune_epochs  epochs, of those the run has, in which the shared values are fine-tuned
    """
    pruned = han(
        sparsity, kept=kept, schedule=schedule, lr_scale=lr_scale, keep_at_least=keep_at_least,
        allow_collapse=allow_collapse, skip_output=skip_output, seed=seed,
    )  # fmt: skip
    return replace(pruned, name="deep_compression", sharing=Sharing(bits, index_bits, tune_epochs))
