"""Watching one forward pass: which tensor came out of which layer, module or function, and who read it.

Tensors are followed by identity. Each is numbered anew when an in-place operation changes it, so a relu_ and the conv
whose output it overwrites stay apart. Layers are found by module, not by function, which works under DDP and FSDP2 too.
No tensor is held: whoever wants to look at one is called when it is new.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from actprune.graph.layers import unit_axis
from actprune.graph.ops import DROPOUTS, LINEAR, RESHAPES, SAME, Op, is_metadata, normalises, op_of
from actprune.graph.record import Entered, Leaf, Node, Record, Value, plain, tensors_in
from actprune.graph.units import Place, Shape, after

Born = Callable[[Value, Tensor], None]
"""Called with every new value that has a layer's shape, and its tensor."""


class Recorder(TorchFunctionMode):
    """Records every torch function called while it is active; layers and modules report to it through hooks."""

    def __init__(self, constants: Iterable[Tensor], wanted: Collection[str] = (), born: Born | None = None) -> None:
        super().__init__()
        self._wanted, self._born = wanted, born  # layers whose activations somebody wants to see
        self.record = Record()
        self.inside = 0  # depth of layers we are in: what happens there belongs to the layer
        self._paused = True
        self._constants = {id(tensor) for tensor in constants}
        self._values: dict[int, tuple[weakref.ref[Tensor], Value]] = {}
        self._by_storage: dict[int, list[tuple[StorageWeakRef, Value]]] = {}
        self._calls: dict[str, int] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, then note what went in and out."""
        kwargs = kwargs or {}
        op = op_of(func)
        if self._paused or is_metadata(op.name) or _gathers_parameters():
            return func(*args, **kwargs)
        call = self._calls.get(op.key, 0)
        self._calls[op.key] = call + 1
        if self.inside:
            return func(*args, **kwargs)
        in_place = op.in_place or bool(kwargs.get("inplace"))
        inputs = self._read(tensors_in((args, kwargs)))
        out = func(*args, **kwargs)
        made = self._made(op, args, out, in_place)
        if made or next(tensors_in(out), None) is None:
            node = self._node(op, call, args, kwargs, inputs)
            node.outputs = [self._bind(tensor, node) for tensor in made]
            for value in node.outputs:
                value.constant = not inputs
        return out

    def start(self) -> None:
        """Watch everything from now on."""
        self._paused = False
        super().__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Watch no longer."""
        self._paused = True
        super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch what is done inside the block."""
        self._paused = True
        yield
        self._paused = False

    def source(self, tensor: Tensor) -> Value:
        """Register a tensor that was there before the forward: an input of the model."""
        return self._bind(tensor, None)

    def layer_called(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """A Linear or conv has returned. Called with ``inside`` already lowered."""
        node = self._node(Op("layer", "layer", False), 0, (), {}, self._read(tensors_in(inputs)))
        node.layer, node.module, node.nested = name, module, self.inside > 0
        places = frozenset([Place(unit_axis(module))] if name in self._wanted else [])
        node.outputs = [self._bind(tensor, node, places) for tensor in tensors_in(output)]

    def module_called(self, entered: Entered, output: Any) -> None:
        """Any module has returned: its result is the site of a hook if it was made in there."""
        if self.inside or not isinstance(output, Tensor):
            return
        module, name = entered.module, type(entered.module).__name__
        inputs = [value for tensor in tensors_in(entered.inputs) if (value := self._known(tensor))]
        value = self._known(output) or self._alias(output)
        if value is None:  # made by something that is no torch function, such as an autograd.Function
            node = self._node(Op(name, f"module.{name}", False), 0, (), {}, inputs)
            value = self._bind(output, node)
            node.outputs = [value]
        elif value.producer is None or value.producer.index < entered.start:
            return
        if value.module is None:
            value.module = (entered.path, entered.call)
        if not type(module).__module__.startswith("torch.nn") and _may_be_an_activation(module):
            self.record.leaves.append(Leaf(name, inputs, value, _is_norm(name, self.record.nodes[entered.start :])))
            # the units may have lain elsewhere inside, where we did not see how
            places = value.places.union(*(each.places for each in inputs if each.shape == value.shape))
            if places != value.places:
                value.places = places
                self._show(value, output)

    def finished(self, output: Any) -> None:
        """The forward is over and has returned ``output``."""
        self.record.results = self._read(tensors_in(output))

    def _made(self, op: Op, args: Any, out: Any, in_place: bool) -> list[Tensor]:
        """Tensors that are new after a call; none when it handed its own argument through (dropout in eval mode)."""
        if in_place:
            return list(tensors_in(args[:1] if out is None else out))
        made = list(tensors_in(out))
        same = op.name in SAME or op.name in DROPOUTS or op.name in RESHAPES
        return [] if same and {id(t) for t in made} <= {id(t) for t in tensors_in(args)} else made

    def _node(self, op: Op, call: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Value]) -> Node:
        node = Node(len(self.record.nodes), op, call, plain(tuple(args)), plain(dict(kwargs)), inputs)
        self.record.nodes.append(node)
        for value in dict.fromkeys(inputs):
            value.readers.append(node)
        return node

    def _read(self, tensors: Iterable[Tensor]) -> list[Value]:
        """Values of tensors that are read; the model's own constants and what is made of them alone have none."""
        found = []
        for tensor in tensors:
            value = self._known(tensor)
            if value is None and isinstance(tensor, nn.Parameter):
                self.record.parameters.add(id(tensor))
            if value is None and not isinstance(tensor, nn.Parameter) and id(tensor) not in self._constants:
                value = self._alias(tensor)
                if value is None:
                    self.record.unseen = len(self.record.nodes)
                    value = self._bind(tensor, None)
            if value is not None and not value.constant:
                found.append(value)
        return found

    def _known(self, tensor: Tensor) -> Value | None:
        found = self._values.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None  # an id is used again

    def _alias(self, tensor: Tensor) -> Value | None:
        """A new tensor object on the same memory, as FSDP's and DDP's autograd functions return."""
        for storage, value in reversed(self._by_storage.get(_storage(tensor), [])):
            if value.layout == _layout(tensor) and not storage.expired():  # type: ignore[no-untyped-call]
                self._values[id(tensor)] = weakref.ref(tensor), value
                return value
        return None

    def _bind(self, tensor: Tensor, producer: Node | None, places: frozenset[Place] = frozenset()) -> Value:
        value = Value(_layout(tensor), producer)
        value.places = places if producer is None else places | _inherited(producer, value.shape)
        self._values[id(tensor)] = weakref.ref(tensor), value
        # Autograd functions make new objects on the same memory; where none can be, nothing needs to be noted of it.
        storage = _storage(tensor) if torch.is_grad_enabled() else 0
        if storage:
            place = self._by_storage.setdefault(storage, [])
            place.append((StorageWeakRef(tensor.untyped_storage()), value))  # type: ignore[no-untyped-call]
        self._show(value, tensor)
        return value

    def _show(self, value: Value, tensor: Tensor) -> None:
        if self._born is not None and value.places and tensor.is_floating_point():
            self._born(value, tensor)


def _gathers_parameters() -> bool:
    """Whether FSDP is at work on its shards: its hooks run inside the forward but handle no activation."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("torch.distributed.fsdp"):
            return True
        frame = frame.f_back
    return False


def _is_norm(name: str, inside: list[Node]) -> bool:
    """Whether a module of the user's own, by what it calls, is a norm or a scale and not an activation."""
    scales = inside and all(len(node.inputs) <= 1 and node.op.name in LINEAR for node in inside)
    return bool(scales) or normalises(name, (node.op.name for node in inside))


def _inherited(node: Node, shape: Shape) -> frozenset[Place]:
    """Where units may lie in what a node makes, by where they may lie in what it reads."""
    reads = ((each.shape, place) for each in node.inputs for place in each.places)
    found = (after(node.op.name, (node.args, node.kwargs), before, shape, place) for before, place in reads)
    return frozenset(place for place in found if place is not None)


def _may_be_an_activation(module: nn.Module) -> bool:
    """Nothing inside, and no matrix that could mix neurons."""
    return next(module.children(), None) is None and all(weight.dim() < 2 for weight in module.parameters(False))


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    strided = tensor.layout == torch.strided
    return tensor.shape, tensor.stride() if strided else None, tensor.storage_offset() if strided else 0, tensor.dtype


def _storage(tensor: Tensor) -> int:
    """Address of the memory of a tensor; 0 when it has none (meta, fake, sparse and empty tensors)."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0
