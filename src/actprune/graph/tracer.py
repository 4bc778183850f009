"""``Tracer``: hooks around one forward of a model, and the graph that this forward shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from actprune.errors import ModelError
from actprune.graph.consumers import consumers_of, output_layers
from actprune.graph.follow import Path, path_of, site_of
from actprune.graph.hooks import Hook
from actprune.graph.layers import named_layers, own_modules, unwrap
from actprune.graph.record import Entered, Record, tensors_in
from actprune.graph.trace import Born, Recorder
from actprune.nodes import Graph


class Tracer:
    """Traces the first whole forward of ``model`` inside the ``with`` block; ``graph()`` tells what was found.

    layers    weight name -> module path, as from ``prunable_layers``: the layers the graph is about. Other Linear and
              conv layers only appear as consumers and outputs
    when      whether to trace a forward that is about to start (it is given the root module)
    finished  called when a traced forward is over
    born      called with every new value that may be a site, and its tensor
    called    called with a layer's name, the layer and what it was given, when it has returned
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, str],
        when: Callable[[nn.Module], bool] = lambda _: True,
        finished: Callable[[], None] = lambda: None,
        *,
        born: Born | None = None,
        called: Callable[[str, nn.Module, Any], None] = lambda *_: None,
    ) -> None:
        self.root = unwrap(model)
        self.layers = dict(layers)
        self.record: Record | None = None
        self.calls: dict[str, int] = {}
        self._when, self._finished, self._born, self._called = when, finished, born, called
        self._recorder: Recorder | None = None
        self._stack: list[Entered] = []
        self._handles: list[Any] = []
        self._names = {id(module): name for name, found in named_layers(self.root).items() for _, module in found}

    def __enter__(self) -> Self:
        """Put the hooks on. The root's first one goes first, so that it starts the recording."""
        add, root = self._handles.append, self.root
        add(root.register_forward_pre_hook(Hook(self._start), with_kwargs=True))
        for path, module in own_modules(root):
            entering, leaving = Hook(partial(self._entering, path)), Hook(self._leaving)
            add(module.register_forward_pre_hook(entering, with_kwargs=True))
            add(module.register_forward_hook(leaving))
        add(root.register_forward_hook(Hook(self._complete)))
        add(root.register_forward_hook(Hook(self._stop), always_call=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the hooks off; what was recorded can still be read."""
        self.close()

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stop()

    def again(self) -> None:
        """Forget the record, and trace the next forward."""
        self.record = None

    def traced(self) -> Record:
        """The record. Raises ModelError when no whole forward was seen."""
        if self.record is None:
            raise ModelError(
                "no forward pass was traced; call the model itself (not one of its parts, not a compiled version) "
                "inside the block"
            )
        return self.record

    def paths(self) -> Iterator[Path]:
        """The way of every call of every layer to its site, in execution order of the layers' first calls."""
        for name, calls in self.traced().calls().items():
            if name in self.layers:
                yield from (path_of(self.traced(), call) for call in calls if call.outputs)

    def graph(self) -> Graph:
        """What the traced forward has shown. Raises ModelError when no whole forward was seen."""
        paths = list(self.paths())
        consumers = {path.call.layer or "": consumers_of(self.traced(), path) for path in paths}
        read = self.traced().parameters
        every = named_layers(self.root)
        elsewhere = tuple(name for name in self.layers if id(every[name][0][1].weight) in read)
        return Graph.of([site_of(path) for path in paths], consumers, output_layers(self.traced()), elsewhere)

    def _start(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling() or self.record is not None or not self._when(root):
            return
        self._stop()
        recorder = Recorder(_constants(root), self.layers, self._born)
        self._stack.clear()
        self.calls.clear()
        for tensor in tensors_in((args, kwargs)):
            recorder.source(tensor)
        recorder.start()
        self._recorder = recorder

    def _complete(self, root: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorder = self._recorder
        if recorder is not None and not torch.compiler.is_dynamo_compiling():
            self._stop()
            recorder.finished(output)
            self.record = recorder.record
            self._finished()

    def _stop(self, *_: Any) -> None:
        """Also after an exception: a mode left behind would watch everything that follows."""
        if self._recorder is not None and not torch.compiler.is_dynamo_compiling():
            self._recorder.stop()
            self._recorder = None

    def _entering(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder = self._recorder
        if recorder is None or torch.compiler.is_dynamo_compiling():
            return
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        self._stack.append(Entered(module, path, call, len(recorder.record.nodes), (args, kwargs)))
        recorder.inside += id(module) in self._names

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorder = self._recorder
        if recorder is None or torch.compiler.is_dynamo_compiling():
            return
        entered = self._left(module, recorder)
        with recorder.paused():
            if id(module) in self._names:
                recorder.layer_called(self._names[id(module)], module, entered.inputs, output)
                self._called(self._names[id(module)], module, entered.inputs)
            recorder.module_called(entered, output)

    def _left(self, module: nn.Module, recorder: Recorder) -> Entered:
        """What was noted when ``module`` was entered; modules that an exception left since are dropped."""
        while True:
            entered = self._stack.pop()
            recorder.inside -= id(entered.module) in self._names
            if entered.module is module:
                return entered


_OWN = frozenset({"_modules", "_parameters", "_buffers"})


def _constants(root: nn.Module) -> Iterable[Tensor]:
    """Tensors the model owns: reading one of them is no sign of a path that was missed."""
    yield from root.parameters()
    yield from root.buffers()
    for module in root.modules():
        yield from tensors_in([item for key, item in vars(module).items() if key not in _OWN and "hooks" not in key])
