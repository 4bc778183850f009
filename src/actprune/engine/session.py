"""One stretch of counting: the first forward is traced, then hooks count at the sites that were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actprune.engine.sink import CHECK, COUNT, Sink, Switch
from actprune.engine.sites import SiteHooks
from actprune.errors import ObservationError
from actprune.graph import Graph, Hook, Tracer, tensors_in, unit_axis
from actprune.types import Statistic, Sums

CHECK_EVERY = 64
"""Live counting looks for NaN and Inf on every 64th counted batch: once there, they stay."""


class Session:
    """Counts into ``sinks``, one per layer.

    due       whether to count a forward that is about to start
    thorough  look for NaN, Inf and empty batches in every batch, and trace on until every layer was reached
    rarely    most forwards are not due: keep as few hooks as possible on the model in between
    traced    called after each traced forward
    """

    def __init__(
        self,
        root: nn.Module,
        layers: Mapping[str, str],
        statistics: tuple[Statistic, ...],
        *,
        due: Callable[[nn.Module], bool],
        thorough: bool,
        rarely: bool = False,
        traced: Callable[[], None],
    ) -> None:
        self.batches = 0
        self.graph: Graph | None = None
        self.positions: dict[str, int] = {}
        self.example: Any = None
        self._root, self._due, self._thorough, self._traced = root, due, thorough, traced
        self._rarely = rarely
        self._switch = Switch()
        self.sinks = {name: Sink(name, statistics, self._switch) for name in layers}
        self._tracer = Tracer(root, layers, when=lambda _: self._counting, finished=self._learn)
        self._hooks: SiteHooks | None = None
        self.failed = self._was_failed = False
        self._counting = False
        self._inputs: Any = ()
        self._handles: list[Any] = []

    def open(self) -> None:
        """Put the hooks on."""
        self._handles.append(self._root.register_forward_pre_hook(Hook(self._before), with_kwargs=True))
        self._tracer.__enter__()
        if self._thorough:
            self._handles.append(self._root.register_forward_hook(Hook(self._completed)))
        self._handles.append(self._root.register_forward_hook(Hook(self._after), always_call=True))

    def close(self) -> None:
        """Take all hooks off."""
        self._counting = False
        self._tracer.close()
        if self._hooks is not None:
            self._hooks.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def flush(self) -> dict[str, Sums]:
        """All sums since the last flush, of the layers that have some."""
        found = {name: sink.flush() for name, sink in self.sinks.items()}
        return {name: sums for name, sums in found.items() if sums}

    def unreached(self) -> list[str]:
        """Layers that no traced forward has called."""
        return [name for name in self.sinks if self.graph is None or name not in self.graph.sites]

    def unsound(self) -> list[str]:
        """Layers whose values were NaN or Inf, in execution order."""
        order = list(self.sinks) if self.graph is None else list(self.graph.sites)
        return [name for name in order if not self.sinks[name].sound()]

    def _before(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        self._counting = self._due(root)
        if not self._counting:
            return
        if self.batches == 0:
            self.example = two_examples((args, kwargs))
        if self._thorough and examples_in((args, kwargs)) == 0:
            raise ObservationError(
                "a batch of 0 examples was sent through the model; leave empty batches out of the data"
            )
        self._was_failed, self.failed = self.failed, self._thorough
        check = self._thorough or self.batches % CHECK_EVERY == 0
        self._switch.level = CHECK if check else COUNT
        self._inputs = (args, kwargs) if self._hooks is None else ()
        if self._hooks is not None:
            self._hooks.begin(self._switch.level)

    def _completed(self, *_: Any) -> None:
        """Called only when the forward did not raise: its batch is counted whole."""
        self.failed = self._was_failed

    def _after(self, root: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._counting or torch.compiler.is_dynamo_compiling():
            return
        self._counting = False
        self._inputs = ()
        self.batches += 1
        if self._hooks is not None:
            self._hooks.end()

    def _learn(self) -> None:
        """A forward was traced: count its values, and put hooks on the sites it has shown."""
        graph = self._tracer.graph()
        self.graph = graph if self.graph is None else self.graph.joined(graph)
        self.positions = {**_positions(self._tracer, examples_in(self._inputs)), **self.positions}
        for name in self.graph.outputs:
            if name in self.sinks and not self.graph.sites[name].exact_zero:
                self.sinks[name].forget_firing()
        self._count_traced()
        self._traced()
        if self._thorough and self.unreached():
            self._tracer.again()  # a model that takes different paths: the next forward may reach the others
            return
        self._hooks = SiteHooks(
            self._root, self.graph, self._tracer.calls, self.sinks, self._switch, rarely=self._rarely
        )
        self._tracer.close()
        self._tracer.again()

    def _count_traced(self) -> None:
        for path in self._tracer.paths():
            name, layer = path.call.layer, path.call.module
            assert name is not None
            if self.sinks[name].outputs:
                self.sinks[name].output(path.site.tensor, unit_axis(layer))
            if self.sinks[name].inputs and path.call.inputs:
                self.sinks[name].input(path.call.inputs[0].tensor, unit_axis(layer))


def examples_in(inputs: Any) -> int | None:
    """Length of the first axis of the first tensor that has one; None when there is no such tensor."""
    return next((tensor.shape[0] for tensor in tensors_in(inputs) if tensor.dim() > 0), None)


def _positions(tracer: Tracer, examples: int | None) -> dict[str, int]:
    """Output positions per example of every Linear and conv that was called, all calls of one forward together."""
    calls = [(name, call) for name, found in tracer.traced().calls().items() for call in found if call.outputs]
    unbatched = any(len(call.outputs[0].shape) == -unit_axis(call.module) for _, call in calls)
    found: dict[str, int] = {}
    for name, call in calls:
        shape = call.outputs[0].shape
        axis = len(shape) + unit_axis(call.module)
        rows = call.outputs[0].tensor.numel() // max(shape[axis], 1)
        batch = 1 if unbatched else examples
        if not batch or rows % batch:
            batch = shape[0] if axis > 0 else 1
        found[name] = found.get(name, 0) + rows // max(batch, 1)
    return found


def two_examples(inputs: Any) -> Any:
    """``inputs`` with every tensor cut to its first two examples and copied; None when that cannot be done.

    It can when all tensors have the same first axis and everything else is a plain number, string, bool or None.
    """
    examples = examples_in(inputs)
    try:
        return None if examples is None else _cut(inputs, examples)
    except _CannotCutError:
        return None


class _CannotCutError(Exception):
    pass


def _cut(item: Any, examples: int) -> Any:
    if isinstance(item, Tensor):
        if item.dim() == 0 or item.shape[0] != examples:
            raise _CannotCutError
        with torch.inference_mode(False):
            return item[:2].detach().clone()
    if type(item) in (tuple, list):
        return type(item)(_cut(inner, examples) for inner in item)
    if type(item) is dict:
        return {key: _cut(inner, examples) for key, inner in item.items()}
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    raise _CannotCutError
