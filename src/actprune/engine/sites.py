"""Hooks that count at known sites. They run in the user's training step, so every operation in here is paid for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actprune.engine.sink import OFF, Sink, Switch
from actprune.graph import Graph, Hook, Site, named_layers, op_of, own_modules, unit_axis


class SiteHooks:
    """Hooks on the sites of a graph; ``calls`` tells how often each module was called in one forward.

    rarely: put the hooks on for each counted forward only. An idle hook costs more than one thinks, because a module
    without any takes a shorter way through ``nn.Module.__call__``.
    """

    def __init__(
        self,
        root: nn.Module,
        graph: Graph,
        calls: Mapping[str, int],
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
            hook = self._module_hook(sites, calls.get(where, 1), sinks)
            self._outputs.append((modules[where], hook))
        functions = _grouped(wanted, "function")
        if functions:
            self._mode = _FunctionSites({key: _table(sites, sinks) for key, sites in functions.items()})
        for name, found in named_layers(root).items():
            if name in sinks and sinks[name].inputs:
                for _, layer in found:
                    self._inputs.append((layer, _Input(sinks[name].input, unit_axis(layer), switch)))
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

    def _module_hook(self, sites: list[Site], calls: int, sinks: Mapping[str, Sink]) -> Hook:
        first = sites[0]
        if len(sites) == calls and all(site.layer == first.layer for site in sites):
            return _Every(sinks[first.layer].output, first.axis, self._switch)
        numbered = _Numbered(_table(sites, sinks), self._switch)
        self._numbered.append(numbered)
        return numbered


Add = Callable[[Tensor, int], None]
Table = dict[int, list[tuple[Add, int]]]


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
        table.setdefault(site.call, []).append((sinks[site.layer].output, site.axis))
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

    def __init__(self, add: Add, axis: int, switch: Switch) -> None:
        self._add, self._axis, self._switch = add, axis, switch

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._switch.level and not torch.compiler.is_dynamo_compiling():
            self._add(args[0] if args else kwargs["input"], self._axis)


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
