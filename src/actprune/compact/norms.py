"""L4: norms over channels of which some are gone: the same function, as those were zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.errors import CompactionError
from actprune.runtime.measure import measure
from actprune.structure import Norm, WidthNorm, eps_of


def rescale(module: nn.Module, norm: Norm, left: int) -> None:
    """An RMSNorm over k of n channels is the same function with ``weight * sqrt(n / k)`` and ``eps * n / k``."""
    factor = norm.width / left
    name = "weight" if "weight" in module._parameters else "scale"
    weight = module._parameters[name]
    assert weight is not None
    with torch.no_grad():
        value = (1 + weight if norm.offset else weight) * math.sqrt(factor)
        weight.copy_(value - 1 if norm.offset else value)
    setattr(module, str(norm.eps), eps_of(module, norm) * factor)


def put(root: nn.Module, path: str, norm: Norm, left: int, exact: bool) -> str:
    """Make the norm at ``path`` right for ``left`` channels; returns what was done, for the report."""
    module = root.get_submodule(path)
    if isinstance(module, WidthNorm):
        return "kept its width"
    if not exact:
        return f"a plain norm over {left} of {norm.width} channels"
    rescalable = (
        norm.kind == "rms"
        and isinstance(norm.eps, str)
        and any(module._parameters.get(name) is not None for name in ("weight", "scale"))
    )
    if rescalable:
        rescale(module, norm, left)
        return "weight and eps rescaled"
    if next(module.children(), None) is not None:
        raise CompactionError(f"{path} normalises over channels of which some go, and cannot be replaced")
    parent, _, leaf = path.rpartition(".")
    root.get_submodule(parent)._modules[leaf] = WidthNorm.of(module, norm)
    return f"divides by {norm.width}"


@torch.no_grad()
def cost(small: nn.Module, shapes: Callable[[str], Sequence[tuple[int, ...]]]) -> str | None:
    """What norms that divide by a width of before take beside plain ones, measured. None: there are none.

    shapes: of what a module is given on the example, by its path. Hooks are not called, and the RNG is not touched.
    """
    found = [(module, shape) for path, module in small.named_modules() if isinstance(module, WidthNorm)
             for shape in shapes(path)]  # fmt: skip
    kinds = {(repr(module), shape): (module, shape) for module, shape in found}
    if not kinds:
        return None
    times = Counter((repr(module), shape) for module, shape in found)
    exact = plain = 0.0
    for key, (module, shape) in kinds.items():
        like = next(module.parameters(), torch.empty(0))
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
        took = measure(
            {"exact": _synchronised(module.forward), "plain": _synchronised(_plain(module))}, [x], min_seconds=0
        )
        exact, plain = (total + times[key] * took[name].median for total, name in ((exact, "exact"), (plain, "plain")))
    modules = len({id(module) for module, _ in found})
    return (
        f"{modules} norm{'s divide' if modules > 1 else ' divides'} by a width of before: {1e3 * exact:.3g} ms of a "
        f"forward of the example, where plain ones (exact=False, another function) would take {1e3 * plain:.3g} ms"
    )


def _plain(module: WidthNorm) -> Callable[[Tensor], Tensor]:
    """The norm over what is left."""
    weight, bias = module.weight, module.bias

    def run(x: Tensor) -> Tensor:
        if module.kind == "group":
            return F.group_norm(x, module.groups, weight, bias, module.eps)
        x = x.movedim(module.axis, -1)
        if module.kind == "layer":
            out = F.layer_norm(x, x.shape[-1:], weight, bias, module.eps)
        else:
            out = F.rms_norm(x, x.shape[-1:], weight, module.eps)
        return out.movedim(-1, module.axis)

    return run


def _synchronised(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], object]:
    def run(x: Tensor) -> object:
        out = call(x)
        if out.is_cuda:
            torch.cuda.synchronize(out.device)
        return out

    return run
