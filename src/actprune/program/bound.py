"""L2: what one forward of a stored program may allocate, found out on tensors without memory before it is allocated.

A file is small however large the values are that its steps make: ``expand`` to 10^12 costs its author ten letters. So a
program from a file runs on meta tensors first, whenever inputs of new shapes come, and every operation inside it is
looked at. The bound grows with the inputs and with the tensors in the file:

    64 MiB, or ``growth`` times the larger of all inputs and the largest tensor, whichever is more; token ids count as
    rows of the widest tensor, for that is what an embedding or the last layer of a language model makes of each

Real networks stay far below 256 times: 64 channels of full size of one grey one (a U-Net) are 64 to 128 times,
attention's scores are (positions / width of a head) times. Values alive at the same time may take four times that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from actprune.errors import ArtifactError
from actprune.program.nodes import Ref, Step
from actprune.structure import mapped

GROWTH = 256.0
FREE_BYTES = 1 << 26
MOST_STEPS = 1 << 14
_ALIVE = 4
_LONGEST = 1 << 28  # cells that sizes written into a step may name: a gigabyte of float32
_TRIES, _OPERATIONS = 48, 2048  # of a trial at loading, which knows no shapes
_REMEMBERED = 4096  # shapes of inputs
_SIDES = (32, 28, 64, 224, 16, 8, 128)
_LENGTHS = (8, 16, 4, 32)
_DRAWN = "repeat_interleave.Tensor", "repeat_interleave.self_Tensor"
_SECOND = (1, 2)
_SIZED = {"full": (0, 1), "ones": (0, 1), "zeros": (0, 1), "arange": (0, 2), "unflatten": (2, 3),
          "triu_indices": (0, 2), "tril_indices": (0, 2), "histc": (1, 2),
          **dict.fromkeys(("expand", "repeat", "tile", "new_zeros", "new_ones", "view", "reshape", "_unsafe_view",
                           "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
                           "adaptive_avg_pool3d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d",
                           "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
                           "upsample_trilinear3d", "constant_pad_nd", "pad", "repeat_interleave"), _SECOND),
}  # fmt: skip
"""Operations that make as much as they are told to: where their sizes are among the arguments."""
_NAMED = ("size", "repeats", "dims", "shape", "sizes", "output_size", "pad", "end")
_MAY_BE_NEGATIVE = frozenset({"constant_pad_nd", "pad", "arange"})


class _UnknownError(Exception):
    """A trial has used up the operations it may take."""


@dataclass
class _Budget:
    """Operations that may still be tried."""

    left: float

    def spend(self) -> None:
        """One of them."""
        self.left -= 1
        if self.left < 0:
            raise _UnknownError


@dataclass(eq=False)
class Bound:
    """Checks forwards of one program. growth: see above; names: of the tensors that it had in the file."""

    growth: float
    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    functions: Sequence[Callable[..., Any]]
    dead: Sequence[Sequence[str]]
    names: frozenset[str]

    def __post_init__(self) -> None:
        self._seen: set[Any] = set()

    def check(self, values: Mapping[str, Any], tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Before a forward on these inputs. Raises ArtifactError when it would allocate too much.

        Inputs of shapes that were checked before cost a look-up. Nothing is checked while the program is traced or
        compiled, nor once its tensors are others than those of the file.
        """
        given = list(values.values())
        if not all(type(item) is Tensor for item in given) or _traced(given):
            return
        autocast = torch.is_autocast_enabled(given[0].device.type)
        key = autocast, *((item.shape, item.dtype) for item in given)
        if key in self._seen:
            return
        own = tensors()
        if set(own) != self.names:
            return
        meta = {name: _meta(item, autocast) for name, item in own.items()}
        self._run({name: _meta(item, autocast) for name, item in values.items()}, meta, _Budget(math.inf))
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen.add(key)

    def check_unseen(self, tensors: Mapping[str, Tensor], batch: int | None) -> None:
        """What can be told without inputs: sizes that are written down, and a few inputs that might be meant.

        Raises ArtifactError. A program that none of them fits is left to ``check``.
        """
        for step in self.steps:
            _check_sizes(step)
        meta = {name: _meta(item, False) for name, item in tensors.items()}
        budget = _Budget(_OPERATIONS)
        for inputs in _guesses(self.inputs, self.steps, tensors, batch):
            try:
                self._run(inputs, meta, budget)
                return
            except ArtifactError:
                raise
            except _UnknownError:
                return
            except Exception:  # no such input, or nothing that any input could do: a forward will tell
                continue

    def _run(self, inputs: Mapping[str, Tensor], tensors: Mapping[str, Tensor], budget: _Budget) -> None:
        base = _base(inputs.values(), tensors.values())
        watch = _Watch(self.growth, base, [tuple(item.shape) for item in inputs.values()], budget)
        values: dict[str, Any] = dict(inputs)
        alive = _Alive()
        with torch.no_grad(), torch._C.DisableTorchFunction(), _disable_current_modes(), watch:
            for step, call, dead in zip(self.steps, self.functions, self.dead, strict=True):
                watch.step = step
                values[step.name] = _called(step, call, values, tensors)
                watch.look(alive.add(step.name, values[step.name]), _ALIVE)
                budget.spend()
                for name in dead:
                    alive.drop(name)
                    del values[name]


def _called(step: Step, call: Callable[..., Any], values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """What a step makes of meta tensors. Raises ArtifactError for what cannot be told, or is impossibly large."""

    def value(item: Any) -> Any:
        return (values if item.name in values else tensors)[item.name] if isinstance(item, Ref) else item

    kwargs = {key: mapped(item, value) for key, item in (step.kwargs or {}).items()}
    if step.op.partition(".")[0] in MAKERS:
        kwargs["device"] = "meta"
    try:
        return call(*mapped(step.args, value), **kwargs)
    except NotImplementedError as error:
        raise ArtifactError(
            f"step {step.name[:60]!r} ({step.op[:60]}) makes a value whose size is known only when it runs, so what it "
            f"allocates cannot be bounded. {_TRUST}math.inf"
        ) from error
    except (RuntimeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            raise
        raise ArtifactError(f"step {step.name[:60]!r} ({step.op[:60]}) makes a value of an impossible size") from error


MAKERS = frozenset({"arange", "full", "ones", "zeros", "scalar_tensor", "triu_indices", "tril_indices"})
"""They take no tensor whose device they share."""
_TRUST = "If you trust the file, load it with growth="


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, those inside a step too. base: bytes that ``growth`` is a multiple of."""

    def __init__(self, growth: float, base: int, shapes: list[tuple[int, ...]], budget: _Budget) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit, self._base, self._shapes, self._budget = max(FREE_BYTES, growth * base), base, shapes, budget
        self.step = Step("", "")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that skips it imports the compiler, which takes more than a second, and nothing compiles."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it, then look at what it has made."""
        self._budget.spend()
        here = {"device": "meta"} if (kwargs or {}).get("device") is not None else {}  # or it would take real memory
        found = func(*args, **{**(kwargs or {}), **here})
        for item in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(item, Tensor):
                self.look(item.numel() * item.element_size(), 1, tuple(item.shape))
        return found

    def look(self, size: int, times: int, shape: tuple[int, ...] | None = None) -> None:
        """Raise ArtifactError for ``size`` bytes beyond ``times`` the bound."""
        if size <= times * self._limit:
            return
        what = "leaves values alive" if shape is None else f"makes a value of shape {shape}"
        needed = math.ceil(size / (times * max(self._base, 1)))
        raise ArtifactError(
            f"step {self.step.name[:60]!r} ({self.step.op[:60]}) of the program {what}, {size} bytes, from inputs of "
            f"{str(self._shapes)[:120]}; the bound is {times * self._limit:.0f} bytes. {_TRUST}{needed} or more, which "
            "is how many times the inputs or the largest tensor that would be, or without any bound, growth=math.inf"
        )


class _Alive:
    """Bytes of all memory that living values share."""

    def __init__(self) -> None:
        self._held: dict[str, list[int]] = {}
        self._users: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._total = 0

    def add(self, name: str, value: Any) -> int:
        """One more value; what is held then."""
        held = []
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Tensor):
                storage = item.untyped_storage()
                key = storage._cdata
                held.append(key)
                self._users[key] = self._users.get(key, 0) + 1
                if self._users[key] == 1:
                    self._sizes[key] = storage.nbytes()
                    self._total += storage.nbytes()
        self._held[name] = held
        return self._total

    def drop(self, name: str) -> None:
        """One value less."""
        for key in self._held.pop(name, []):
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._total -= self._sizes.pop(key)


def _meta(item: Tensor, autocast: bool) -> Tensor:
    dtype = torch.float32 if autocast and item.is_floating_point() else item.dtype
    return torch.empty_strided(item.shape, item.stride(), dtype=dtype, device="meta")


def _base(inputs: Any, tensors: Any) -> int:
    """Bytes that growth is measured by."""
    given, held = list(inputs), list(tensors)
    widest: int = max((max(item.shape[0], item.shape[-1]) for item in held if item.dim() > 1), default=1)
    ids: int = sum(item.numel() for item in given if not item.is_floating_point())
    largest: int = max((item.numel() * item.element_size() for item in held), default=0)
    tokens = math.ceil(4 * ids * widest / GROWTH)
    taken: int = sum(item.numel() * item.element_size() for item in given)
    return max(taken, largest, tokens)


def _traced(items: Sequence[Tensor]) -> bool:
    """Whether there is nothing to run: the program is compiled, exported or differentiated by a transform."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return any(item.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(item) for item in items)


def _check_sizes(step: Step) -> None:
    """Sizes that are written into a step. Raises ArtifactError."""
    base = step.op.partition(".")[0]
    what = f"step {step.name[:60]!r} ({step.op[:60]})"
    if step.op in _DRAWN and (step.kwargs or {}).get("output_size") is None:
        raise ArtifactError(
            f"{what} makes as much as the values of a tensor say, which cannot be bounded. {_TRUST}math.inf"
        )
    if base not in _SIZED:
        return
    written = step.args[slice(*_SIZED[base])]
    for given in (*written, *(value for key, value in (step.kwargs or {}).items() if key in _NAMED)):
        sizes = [item for item in (given if isinstance(given, (list, tuple)) else [given]) if type(item) is int]
        cells = math.prod(item for item in sizes if item > 1)
        wrong = min(sizes, default=0) < -1 and base not in _MAY_BE_NEGATIVE
        if wrong or cells > _LONGEST:
            raise ArtifactError(
                f"{what} has the size {str(sizes)[:120]}; a size is -1 or more, and at most {_LONGEST} cells are made "
                f"so. {_TRUST}math.inf"
            )


def _guesses(
    inputs: Sequence[str], steps: Sequence[Step], tensors: Mapping[str, Tensor], batch: int | None
) -> list[dict[str, Tensor]]:
    """Inputs that the program might take, all of them alike, the likeliest first; none is certain."""
    first = 2 if batch is None else batch
    shapes: list[tuple[int, ...]] = []
    whole: list[tuple[int, ...]] = []
    for step in steps:
        refs = [item for item in step.args[:2] if isinstance(item, Ref) and item.name in tensors]
        weight = tensors[refs[0].name] if refs else None
        if weight is not None and step.op.startswith("conv") and weight.dim() > 2:
            groups = step.arg(6, "groups", 1)
            channels = weight.shape[1] * (groups if type(groups) is int else 1)
            shapes += [(first, channels, *[side] * (weight.dim() - 2)) for side in _SIDES]
        elif weight is not None and step.op == "linear" and weight.dim() == 2:
            shapes += [(first, weight.shape[1]), *((first, length, weight.shape[1]) for length in _LENGTHS)]
        elif weight is not None and step.op == "embedding":
            whole += [(first, length) for length in _LENGTHS]
        elif step.op == "index_select" and isinstance(step.args[-1], Ref) and step.args[-1].name in tensors:
            index = tensors[step.args[-1].name]
            shapes.append((first, int(index.max()) + 1 if index.numel() and not index.is_floating_point() else 1))
    shapes += [(first, 8), (first, 3, 32, 32), (first, 1, 28, 28), (first, 8, 16)]
    found = [(shape, torch.int64) for shape in dict.fromkeys(whole)]
    floats = next((item.dtype for item in tensors.values() if item.is_floating_point()), torch.float32)
    found += [(shape, floats) for shape in dict.fromkeys(shapes)]
    return [
        {name: torch.empty(shape, dtype=dtype, device="meta") for name in inputs} for shape, dtype in found[:_TRIES]
    ]
