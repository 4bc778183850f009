"""``Session``: counts the forwards that are due into sinks, one per layer, and traces until all layers are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actprune.errors import ObservationError
from actprune.evidence import OfActivations
from actprune.graph import Hook, Tracer, Value, tensors_in, unit_axis
from actprune.nodes import Graph
from actprune.pruner.inputs import copied, examples_in, two_examples
from actprune.pruner.padding import DEFAULT, Mask, real_tokens
from actprune.pruner.sites import CHECK, COUNT, Arena, Early, Sink, SiteHooks, Switch, of_all_parts
from actprune.types import Sums

CHECK_EVERY = 64
"""Live counting looks for NaN and Inf on every 64th counted batch: once there, they stay."""


class Session:
    """Counts into ``sinks``, one per layer.

    due       whether to count a forward that is about to start
    thorough  look for NaN, Inf and empty batches in every batch, and trace on until every layer was reached
    rarely    most forwards are not due: keep as few hooks as possible on the model in between
    traced    called after each traced forward
    graph     what is known of the model already: nothing is traced then
    """

    def __init__(
        self,
        root: nn.Module,
        layers: Mapping[str, str],
        evidence: tuple[OfActivations, ...],
        *,
        due: Callable[[nn.Module], bool],
        thorough: bool,
        rarely: bool = False,
        traced: Callable[[], None],
        keep_inputs: bool = False,
        graph: Graph | None = None,
    ) -> None:
        self.batches = 0
        self.graph: Graph | None = graph
        self.positions: dict[str, int] = {}
        self.example: Any = None
        self.inputs: list[Any] = []
        self.mask: Mask = DEFAULT
        self._keep_inputs = keep_inputs
        self._root, self._due, self._thorough, self._traced = root, due, thorough, traced
        self._rarely = rarely
        self._switch = Switch()
        self.sinks = {name: Sink(name, evidence, self._switch) for name in layers}
        self._evidence = evidence
        self._received: list[tuple[str, dict[OfActivations, Early]]] = []
        wanted = any(each.sees == "output" for each in evidence)
        self._tracer = Tracer(
            root,
            layers,
            when=lambda _: self._counting,
            finished=self._learn,
            born=self._born if wanted else None,
            called=self._called,
        )
        self._hooks: SiteHooks | None = None
        self.failed = self._was_failed = False
        self._counting = False
        self._inputs: Any = ()
        self._handles: list[Any] = []
        if graph is not None:
            self._know(graph, None)

    def open(self) -> None:
        """Put the hooks on."""
        self._handles.append(self._root.register_forward_pre_hook(Hook(self._before), with_kwargs=True))
        if self._hooks is None:
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
        return [name for name in order if name in self.sinks and not self.sinks[name].sound()]

    def _before(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        self._counting = self._due(root)
        if not self._counting:
            return
        if self.batches == 0:
            self.example = two_examples((args, kwargs))
        self._switch.real = real_tokens(self.mask, root, args, kwargs)
        if self._thorough and examples_in((args, kwargs)) == 0:
            raise ObservationError(
                "a batch of 0 examples was sent through the model; leave empty batches out of the data"
            )
        if self._keep_inputs:
            self.inputs.append(copied((args, kwargs)))
        self._was_failed, self.failed = self.failed, self._thorough
        self._switch.level = CHECK if self._thorough or self.batches % CHECK_EVERY == 0 else COUNT
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
        self._switch.real = None
        self.batches += 1
        if self._hooks is not None:
            self._hooks.end()

    def _learn(self) -> None:
        """A forward was traced: count its values, and put hooks on the sites it has shown."""
        graph = self._tracer.graph()
        self.graph = graph if self.graph is None else self.graph.joined(graph)
        self.positions = {**_positions(self._tracer, examples_in(self._inputs)), **self.positions}
        self._fit_sinks(self.graph)
        self._count_traced()
        self._traced()
        if self._thorough and self.unreached():
            self._tracer.again()  # a model that takes different paths: the next forward may reach the others
            return
        self._know(self.graph, self._tracer.calls)
        self._tracer.close()
        self._tracer.again()

    def _know(self, graph: Graph, calls: Mapping[str, int] | None) -> None:
        """Count at the sites of this graph from now on."""
        self._fit_sinks(graph)
        self._hooks = SiteHooks(self._root, graph, calls, self.sinks, self._switch, rarely=self._rarely)

    def _fit_sinks(self, graph: Graph) -> None:
        for name, sink in self.sinks.items():
            if name in graph.sites:
                sink.suits(graph.sites[name], output=name in graph.outputs)

    def _born(self, value: Value, tensor: Tensor) -> None:
        """A value that may be a site, while it is there: whose it is will be known when the forward is over."""
        outputs = [each for each in self._evidence if each.sees == "output"]
        for place in value.places - value.early.keys():
            value.early[place] = Early.of(outputs, of_all_parts(tensor, *place), place.axis, self._switch)

    def _called(self, name: str, layer: nn.Module, inputs: Any) -> None:
        """A layer of a traced forward: what it has received."""
        kinds = [each for each in self._evidence if each.sees == "input"]
        if name not in self.sinks or not kinds:
            return
        given = next(tensors_in(inputs))
        found = {each: Early.of([each], *each.rows(layer, given, unit_axis(layer)), self._switch) for each in kinds}
        self._received.append((name, found))

    def _count_traced(self) -> None:
        for path in self._tracer.paths():
            sink = self.sinks[path.call.layer or ""]
            if sink.outputs:
                sink.take(path.site.early[path.place])
        for name, found in self._received:
            for each, _ in self.sinks[name].inputs:
                self.sinks[name].take_of(each, found[each])
        self._received.clear()
        self._switch.arena = Arena()


def _positions(tracer: Tracer, examples: int | None) -> dict[str, int]:
    """Output positions per example of every Linear and conv that was called, all calls of one forward together."""
    calls = [(name, call) for name, found in tracer.traced().calls().items() for call in found if call.outputs]
    unbatched = any(len(call.outputs[0].shape) == -unit_axis(call.module) for _, call in calls)
    found: dict[str, int] = {}
    for name, call in calls:
        shape = call.outputs[0].shape
        axis = len(shape) + unit_axis(call.module)
        rows = math.prod(shape) // max(shape[axis], 1)
        batch = 1 if unbatched else examples
        if not batch or rows % batch:
            batch = shape[0] if axis > 0 else 1
        found[name] = found.get(name, 0) + rows // max(batch, 1)
    return found
