"""Looking at a model without leaving a trace: training flags, gradients mode, RNG and compilation as before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def quiet(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode for every module, no gradients (unless wanted), hooks that fire, and the RNG put back at the end.

    Flags are set one by one: a model's own ``train()`` or ``eval()`` may do more than that.
    """
    flags = [(module, module.training) for module in model.modules()]
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    states = torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []
    try:
        for module, _ in flags:
            module.training = False
        with torch.set_grad_enabled(gradients), uncompiled():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        torch.set_rng_state(states[0])
        if cuda:
            torch.cuda.set_rng_state_all(states[1])


def uncompiled() -> AbstractContextManager[None]:
    """Compiled models run as they were written: hooks added after compilation would not fire.

    Importing the compiler takes seconds, and before it is imported nothing can have been compiled.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
