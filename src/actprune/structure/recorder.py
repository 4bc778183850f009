"""L2: recording one eager forward at ATen dispatch level, fused kernels off, without leaving a trace on the model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from actprune.graph.hooks import unhooked
from actprune.structure.frames import Frames
from actprune.structure.record import Node, Record, Sized, Slot, flat, mapped, outputs, sized, tensors

_MARK = "_actprune_slot"


@torch.no_grad()
def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    hooks: bool = False,
    around: Callable[[Recorder], AbstractContextManager[Any]] | None = None,
) -> Record:
    """Run ``model`` once on an example in evaluation mode, and note every operation.

    Hooks of the user's own are not called (unless ``hooks``), buffers and the RNG are put back, no gradient is made.
    Tables that a module has made of its parameters and kept in a dict are made anew, so that it is seen of what.
    around: a context for the forward, which may ask the recorder what it knows.
    """
    kept = tables(model)
    if kept:
        try:
            with _emptied(kept):
                found = _record(model, args, kwargs, hooks, around)
        except Exception:  # it was no table that the model can make again
            return _record(model, args, kwargs, hooks, around)
        found.remade = True
        return found
    return _record(model, args, kwargs, hooks, around)


def _record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    hooks: bool,
    around: Callable[[Recorder], AbstractContextManager[Any]] | None,
) -> Record:
    recorder = Recorder(model, (args, dict(kwargs)))
    with ExitStack() as stack:
        if not hooks:
            stack.enter_context(unhooked(model))
        stack.enter_context(plainly(model))
        if around is not None:
            stack.enter_context(around(recorder))
        stack.enter_context(recorder.running())
        result = model(*args, **kwargs)
        recorder.finished(result)
    return recorder.record


def tables(model: nn.Module) -> list[dict[Any, Tensor]]:
    """Dicts of tensors that modules hold as plain attributes: what they keep of an earlier forward."""
    return [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if type(value) is dict
        and value
        and not name.startswith("_")
        and all(isinstance(each, Tensor) for each in value.values())
    ]


@contextmanager
def _emptied(kept: list[dict[Any, Tensor]]) -> Iterator[None]:
    before = [dict(each) for each in kept]
    for each in kept:
        each.clear()
    try:
        yield
    finally:
        for each, values in zip(kept, before, strict=True):
            each.clear()
            each.update(values)


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Kernels that do several things at once are off, so that each operation is seen; the RNG is put back."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fast = torch.backends.mha.get_fastpath_enabled()
    state = torch.get_rng_state()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.backends.mkldnn.flags(enabled=not recurrent), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(state)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers tensors as they come up, and notes who made what of which."""

    def __init__(self, model: nn.Module, given: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = Record()
        self._model = model
        self._given = {id(tensor): tensor for tensor in tensors(given)}
        self._frames = Frames(model, self._left)
        self._held: dict[int, tuple[Tensor, int]] = {}  # parameters and buffers: they must not be marked
        self._memory: dict[int, list[weakref.ref[Tensor]]] = {}
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}
        self._names: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._names.setdefault(id(tensor), name)
        self._tensors = [*model.parameters(), *model.buffers()]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch everything inside the block."""
        flags = [(module, module.training) for module in self._model.modules()]
        try:
            for module, _ in flags:
                module.training = False
            with self._frames.running(), _Sizes(self), self:
                yield
        finally:
            for module, flag in flags:
                module.training = flag
            for tensor, before in self._saved.values():
                tensor.copy_(before)

    def finished(self, result: Any) -> None:
        """The forward has returned."""
        self.record.results = [slot for tensor in outputs(result) if (slot := self.known(tensor)) is not None]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under it, and to say so would import the compiler, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note it."""
        kwargs = kwargs or {}
        written = self._written(func, args, kwargs)
        spoils = tuple(slot for tensor in written for slot in self._sharing(tensor))
        given_args, given_kwargs = mapped((tuple(args), kwargs), self._slot)
        out = func(*args, **kwargs)
        made = [leaf for leaf in flat(out) if isinstance(leaf, Tensor)] or written
        outs = tuple(self._new(tensor) for tensor in made)
        name = func.overloadpacket.__name__
        self.record.nodes.append(
            Node(
                name, func, given_args, given_kwargs, outs, self._frames.path, tuple(s for s in spoils if s not in outs)
            )
        )
        return out

    def _written(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """Tensors that the operation overwrites; a buffer is copied first."""
        if not func._schema.is_mutable:
            return []
        found = []
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = kwargs.get(argument.name, args[number] if number < len(args) else None)
            found += [leaf for leaf in flat(value) if isinstance(leaf, Tensor)]
        for tensor in found:
            for held in self._tensors:
                same = held.untyped_storage()._cdata == tensor.untyped_storage()._cdata
                if same and id(held) not in self._saved:
                    self._saved[id(held)] = (held, held.detach().clone())
        return found

    def _sharing(self, tensor: Tensor) -> list[int]:
        """Slots of the other tensors that lie in the same memory."""
        found = []
        for other in self._memory.get(tensor.untyped_storage()._cdata, []):
            if (alive := other()) is not None and alive is not tensor:
                slot = self.known(alive)
                if slot is not None:
                    found.append(slot)
        return found

    def known(self, tensor: Tensor) -> int | None:
        """The slot of a tensor as it is now."""
        if id(tensor) in self._held:
            return self._held[id(tensor)][1]
        slot: int | None = tensor.__dict__.get(_MARK)
        return slot

    def slot(self, tensor: Tensor) -> int:
        """The slot of a tensor, a new one if nobody has met it."""
        found: int = self._slot(tensor).number
        return found

    def _slot(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        slot = self.known(leaf)
        return Slot(self._met(leaf) if slot is None else slot)

    def _met(self, tensor: Tensor) -> int:
        """A tensor that no operation of this forward has made."""
        slot = self._fresh(tensor)
        name = self._names.get(id(tensor)) or self._same_memory(tensor)
        if name is not None:
            self.record.names[slot] = name
        elif id(tensor) not in self._given:
            self.record.others[slot] = tensor
        else:
            self.record.inputs.append(slot)
        self._held[id(tensor)] = (tensor, slot)
        return slot

    def _same_memory(self, tensor: Tensor) -> str | None:
        """``parameter.data``, and what a wrapper makes of one: another object on the same numbers."""
        for held in self._tensors:
            same = held.untyped_storage()._cdata == tensor.untyped_storage()._cdata
            if same and held.shape == tensor.shape and held.stride() == tensor.stride():
                return self._names[id(held)]
        return None

    def _new(self, tensor: Tensor) -> int:
        slot = self._fresh(tensor)
        if id(tensor) in self._held:
            self._held[id(tensor)] = (tensor, slot)
        else:
            tensor.__dict__[_MARK] = slot
        return slot

    def _fresh(self, tensor: Tensor) -> int:
        self.record.shapes.append(tuple(tensor.shape))
        self.record.floats.append(tensor.is_floating_point())
        place = self._memory.setdefault(tensor.untyped_storage()._cdata, [])
        if not any(each() is tensor for each in place):
            place[:] = [each for each in place if each() is not None] + [weakref.ref(tensor)]
        return len(self.record.shapes) - 1

    def _left(self, path: str, inputs: Any, output: Any) -> None:
        both = [
            tuple(slot for tensor in tensors(item) if (slot := self.known(tensor)) is not None)
            for item in (inputs, output)
        ]
        self.record.calls.setdefault(path, []).append((both[0], both[1]))

    def sized(self, name: str, args: Any, kwargs: Any, source: int | None, out: Any) -> None:
        """The model's code has made a call with sizes in it."""
        given = mapped((tuple(args), dict(kwargs)), lambda leaf: None if isinstance(leaf, Tensor) else leaf)
        outs = tuple(self._slot(tensor).number for tensor in tensors(out))
        self.record.sized.append(Sized(self._frames.called(name), given[0], given[1], source, outs))


class _Sizes(TorchFunctionMode):
    """Notes calls of the model's own code that may have sizes written in them."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, then note."""
        name = getattr(func, "__name__", "")
        if not sized(name, args, kwargs or {}):
            return func(*args, **(kwargs or {}))
        first = next(iter(tensors(args)), None)
        source = None if first is None else self._recorder.slot(first)
        out = func(*args, **(kwargs or {}))
        self._recorder.sized(name, args, kwargs or {}, source, out)
        return out
