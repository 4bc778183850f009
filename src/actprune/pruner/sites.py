"""Hooks that count at known sites, and what they count into. They run in the user's training step: every operation
in here is paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actprune.errors import ObservationError
from actprune.evidence import SHARED, Accumulator, OfActivations, Scratch, rows_of
from actprune.graph import Hook, named_layers, op_of, own_modules, unit_axis
from actprune.nodes import Graph, Site
from actprune.pruner.padding import Real, without_padding
from actprune.types import Sums

OFF, COUNT, CHECK = range(3)


class Arena:
    """Room for many small tensors in few blocks.

    Each by itself would be carved out of the memory that a large activation has just given back, which then does not
    fit the next one: an allocator grows by all activations although none is alive.
    """

    def __init__(self, numbers: int = 1 << 18) -> None:
        self._size, self._used = numbers, numbers
        self._block = torch.empty(0, dtype=torch.int64)

    def keep(self, value: Tensor) -> Tensor:
        """A copy of a tensor of 8-byte numbers in here; what does not belong here is returned as it is."""
        count = value.numel()
        if value.device.type != "cpu" or value.itemsize != 8 or count > self._size // 8:
            return value
        with torch.inference_mode(False):
            if self._used + count > self._size:
                self._block, self._used = torch.empty(self._size, dtype=torch.int64), 0
            room = self._block[self._used : self._used + count].view(value.dtype).view(value.shape)
        self._used += count
        return room.copy_(value)


class Switch:
    """What all hooks share: what to do now (nothing, count, or count and look for NaN and Inf), which tokens are real
    (None: all), and where to write.
    """

    def __init__(self) -> None:
        self.level = OFF
        self.real: Real | None = None
        self.arena = Arena()
        self.scratch = Scratch()


@dataclass(frozen=True)
class Early:
    """What a traced forward has summed at one place, before it is known whose site that is.

    rows, units  of the values; sums: by evidence; unsound: 0, or NaN where the values had some
    """

    rows: int
    units: int
    sums: dict[OfActivations, Sums]
    unsound: Tensor | None

    @classmethod
    def of(cls, evidence: Iterable[OfActivations], values: Tensor, axis: int, switch: Switch) -> Early:
        """Look at a tensor that is new."""
        keep = switch.arena.keep
        if switch.real is not None:
            values, axis = without_padding(values, axis, switch.real)
        rows, units, sums = rows_of(values, axis), values.shape[axis], {}
        for each in evidence if rows else ():
            own = each.init(units, values)
            each.update(own, values, axis)
            sums[each] = {key: keep(value) for key, value in own.items()}
        return cls(rows, units, sums, keep(unsound(values)) if switch.level == CHECK else None)


def unsound(values: Tensor) -> Tensor:
    """0, or NaN where there is a NaN or Inf; read at the end: no synchronisation per batch."""
    return values.detach().sum(dtype=torch.float64).mul_(0)


def of_all_parts(values: Tensor, axis: int, parts: int) -> Tensor:
    """One entry for every unit of a layer whose equal parts share them."""
    return values if parts == 1 else torch.cat([values.detach()] * parts, axis)


class Sink:
    """All that is counted of one layer."""

    def __init__(self, name: str, evidence: Iterable[OfActivations], switch: Switch) -> None:
        self.name = name
        self._evidence = tuple(evidence)
        self._switch = switch
        self._units = -1
        self._unsound: Tensor | None = None
        self._made: dict[OfActivations, Accumulator] = {
            each: each.accumulator(switch.scratch if each.sees == "output" else Scratch()) for each in self._evidence
        }
        self._prepare()

    def _prepare(self) -> None:
        self.outputs = [self._made[each] for each in self._evidence if each.sees == "output"]
        self.inputs = [(each, self._made[each]) for each in self._evidence if each.sees == "input"]
        self._first = self.outputs[0].add if len(self.outputs) == 1 else self._every

    def suits(self, site: Site, *, output: bool) -> None:
        """Leave out what says nothing at this site. Called before anything was counted."""
        suited = tuple(each for each in self._evidence if each.counted_at(site, output=output))
        if self._units == -1 and len(suited) < len(self._evidence):
            self._evidence = suited
            self._prepare()

    def take(self, early: Early) -> None:
        """Count what a traced forward has summed of the layer's activation."""
        self._check_units(early.units, early.units)
        for each in self._evidence:
            if each.sees == "output":
                self.take_of(each, early)

    def take_of(self, evidence: OfActivations, early: Early) -> None:
        """Count what a traced forward has summed of one kind of evidence."""
        if not early.rows:
            raise ObservationError(f"{self.name} received a batch of 0 examples; leave empty batches out of the data")
        self._note(early.unsound)
        self._made[evidence].take(early.sums[evidence])

    def output(self, values: Tensor, axis: int) -> None:
        """Count activations, units at ``axis``."""
        if self._switch.real is not None:
            values, axis = without_padding(values, axis, self._switch.real)
        if values.shape[axis] != self._units:
            self._check_units(values.shape[axis], tuple(values.shape))
        if self._switch.level == CHECK:
            self._check(values, axis)
        self._first(values, axis)

    def input(self, layer: nn.Module, values: Tensor, axis: int) -> None:
        """Count a layer's inputs, units at ``axis``."""
        real = self._switch.real
        self._check(*((values, axis) if real is None else without_padding(values, axis, real)))
        for each, accumulator in self.inputs:
            rows = each.rows(layer, values, axis)
            accumulator.add(*(rows if real is None else without_padding(*rows, real)))

    def flush(self) -> Sums:
        """All sums since the last flush. Entries that several kinds share (``rows``) are the same in each."""
        sums: Sums = {}
        for each in (*self.outputs, *(accumulator for _, accumulator in self.inputs)):
            for key, value in each.flush().items():
                assert key not in sums or key in SHARED
                sums[key] = value
        return sums

    def sound(self) -> bool:
        """False when a NaN or Inf was seen."""
        return self._unsound is None or not bool(self._unsound.isnan())

    def _every(self, values: Tensor, axis: int) -> None:
        for each in self.outputs:
            each.add(values, axis)

    def _check(self, values: Tensor, axis: int) -> None:
        if rows_of(values, axis) == 0:
            raise ObservationError(f"{self.name} received a batch of 0 examples; leave empty batches out of the data")
        self._note(unsound(values))

    def _note(self, finite: Tensor | None) -> None:
        if finite is not None:
            self._unsound = finite if self._unsound is None else self._unsound + finite.to(self._unsound.device)

    def _check_units(self, units: int, found: object) -> None:
        if self._units not in (-1, units):
            raise ObservationError(
                f"{self.name} has {self._units} neurons, but its site now gives {found}; the model takes another path "
                "than in its first forward: skip this layer, or observe it by modules (nn.ReLU)"
            )
        self._units = units


class SiteHooks:
    """Hooks on the sites of a graph; ``calls`` tells how often each module was called in one forward (None: unknown).

    rarely: put the hooks on for each counted forward only. An idle hook costs more than one thinks, because a module
    without any takes a shorter way through ``nn.Module.__call__``.
    """

    def __init__(
        self,
        root: nn.Module,
        graph: Graph,
        calls: Mapping[str, int] | None,
        sinks: Mapping[str, Sink],
        switch: Switch,
        *,
        rarely: bool,
    ) -> None:
        self._switch = switch
        self._numbered: list[_Numbered] = []
        self._mode: _FunctionSites | None = None
        self._handles: list[Any] = []
        self._outputs: list[tuple[nn.Module, Hook]] = []
        self._inputs: list[tuple[nn.Module, Hook]] = []
        self._rarely = rarely
        modules = dict(own_modules(root))
        wanted = [site for site in graph.every_site() if site.layer in sinks and sinks[site.layer].outputs]
        for where, sites in _grouped(wanted, "module").items():
            hook = self._module_hook(sites, None if calls is None else calls.get(where, 1), sinks)
            self._outputs.append((modules[where], hook))
        functions = _grouped(wanted, "function")
        if functions:
            self._mode = _FunctionSites({key: _table(sites, sinks) for key, sites in functions.items()})
        for name, found in named_layers(root).items():
            if name in sinks and sinks[name].inputs:
                for _, layer in found:
                    self._inputs.append((layer, _Input(sinks[name], unit_axis(layer), switch)))
        if not rarely:
            self._put_on()

    def begin(self, level: int) -> None:
        """A forward starts that is to be counted."""
        self._switch.level = level
        if self._rarely:
            self._put_on()
        for hook in self._numbered:
            hook.call = 0
        if self._mode is not None:
            self._mode.start()

    def end(self) -> None:
        """It is over, or has failed."""
        self._switch.level = OFF
        if self._rarely:
            self._take_off()
        if self._mode is not None:
            self._mode.stop()

    def remove(self) -> None:
        """Take all hooks off."""
        self.end()
        self._take_off()

    def _put_on(self) -> None:
        self._handles += [module.register_forward_hook(hook) for module, hook in self._outputs]
        self._handles += [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer, hook in self._inputs]

    def _take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _module_hook(self, sites: list[Site], calls: int | None, sinks: Mapping[str, Sink]) -> Hook:
        first = sites[0]
        if len(sites) == calls and all(site.layer == first.layer for site in sites):
            return _Every(_adder(first, sinks), first.axis, self._switch)
        numbered = _Numbered(_table(sites, sinks), self._switch)
        self._numbered.append(numbered)
        return numbered


Add = Callable[[Tensor, int], None]
Table = dict[int, list[tuple[Add, int]]]


def _adder(site: Site, sinks: Mapping[str, Sink]) -> Add:
    output, parts = sinks[site.layer].output, site.parts
    return output if parts == 1 else lambda values, axis: output(of_all_parts(values, axis, parts), axis)


def _grouped(sites: Iterable[Site], kind: str) -> dict[str, list[Site]]:
    groups: dict[str, list[Site]] = {}
    for site in sites:
        if site.kind == kind:
            groups.setdefault(site.where, []).append(site)
    return groups


def _table(sites: Iterable[Site], sinks: Mapping[str, Sink]) -> Table:
    """Which call counts for which layers (a residual sum ends the way of several)."""
    table: Table = {}
    for site in sites:
        table.setdefault(site.call, []).append((_adder(site, sinks), site.axis))
    return table


class _Every(Hook):
    """Counts whatever the module returns."""

    def __init__(self, add: Add, axis: int, switch: Switch) -> None:
        self._add, self._axis, self._switch = add, axis, switch

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self._switch.level and not torch.compiler.is_dynamo_compiling():
            self._add(output, self._axis)


class _Numbered(Hook):
    """Counts the calls of a shared module (one nn.ReLU for several layers) each for its own layer."""

    def __init__(self, table: Table, switch: Switch) -> None:
        self.call = 0
        self._table, self._switch = table, switch

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self._switch.level and not torch.compiler.is_dynamo_compiling():
            for add, axis in self._table.get(self.call, ()):
                add(output, axis)
            self.call += 1


class _Input(Hook):
    """Counts what goes into a layer."""

    def __init__(self, sink: Sink, axis: int, switch: Switch) -> None:
        self._sink, self._axis, self._switch = sink, axis, switch

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._switch.level and not torch.compiler.is_dynamo_compiling():
            self._sink.input(module, args[0] if args else kwargs["input"], self._axis)


class _FunctionSites(TorchFunctionMode):
    """Counts what the n-th call of a function returns (F.relu, x.relu_(), ...)."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        super().__init__()
        self._tables = tables
        self._calls: dict[str, int] = {}
        self._active = False

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``; count if it is one of ours."""
        out = func(*args, **(kwargs or {}))
        key = op_of(func).key
        table = self._tables.get(key)
        if table is not None:
            call = self._calls.get(key, 0)
            self._calls[key] = call + 1
            for add, axis in table.get(call, ()):
                add(out, axis)
        return out

    def start(self) -> None:
        """Watch from now on, calls numbered from 0."""
        self._calls.clear()
        if not self._active:
            super().__enter__()  # type: ignore[no-untyped-call]
        self._active = True

    def stop(self) -> None:
        """Watch no longer."""
        if self._active:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._active = False
