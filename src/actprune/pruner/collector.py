"""``Collector``: sums evidence of activations in a block or on live training batches, and notices when it is deaf."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actprune.errors import ObservationError, RecipeError
from actprune.evidence import SHARED, OfActivations, merge
from actprune.graph import Hook, Tracer, Value, tensors_in, unit_axis, unwrap
from actprune.nodes import Graph, Site
from actprune.program import example_args, on_its_example
from actprune.pruner.inputs import copied, examples_in, two_examples
from actprune.pruner.padding import DEFAULT, Mask, real_tokens
from actprune.pruner.quiet import quiet
from actprune.pruner.sites import CHECK, COUNT, Arena, Early, Sink, SiteHooks, Switch, of_all_parts
from actprune.state import PruneState
from actprune.types import Evidence, Sums

CHECK_EVERY = 64
"""Live counting looks for NaN and Inf on every 64th counted batch: once there, they stay."""


class Collector:
    """Sums ``evidence`` of ``layers`` (weight name -> module path) into ``state.sums``, by weight name.

    What it sees of the model goes into the state too: ``graph`` (what the last traced forward has shown), ``positions``
    (output positions per example of every Linear and conv that was reached), ``example`` (``(args, kwargs)`` of the
    first forward, cut to two examples), ``forwards``. keep_inputs: also ``inputs``, all that is sent through the model
    inside ``observing``, to collect on it again.

    Evidence of live batches is moved into the state by ``flush``, not at every step.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, str],
        evidence: Sequence[OfActivations],
        state: PruneState,
        *,
        keep_inputs: bool = False,
    ) -> None:
        self.root = unwrap(model)
        self.layers = dict(layers)
        self.evidence = tuple(dict.fromkeys(evidence))
        self.state = state
        self._model = model
        self._live: Session | None = None
        self._every = 1
        self._keep_inputs = keep_inputs
        check_distinct(self.evidence)

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def live_batches(self) -> int:
        """Training batches counted since ``start_live``. 0 after training: the hooks are deaf (a compiled model)."""
        return 0 if self._live is None else self._live.batches

    @property
    def live(self) -> bool:
        """Whether training batches are counted now."""
        return self._live is not None

    def flush(self) -> dict[str, Sums]:
        """Move what live batches have added into the state; all sums so far."""
        if self._live is not None:
            self._add(self._live.flush())
        return self.state.sums

    def forget_live(self) -> None:
        """Drop what live batches have added since the last ``flush``: another state is about to be loaded."""
        if self._live is not None:
            self._live.flush()

    def check(self, layers: Sequence[str] | None = None) -> None:
        """Raise ObservationError if what was collected cannot be used.

        Checked are NaN and Inf, layers that live batches never reached, and evidence that means nothing at its site.
        The last is not asked of output layers unless they are among ``layers``.
        """
        sums = self.flush()
        if self._live is not None:
            raise_unsound(self._live.unsound())
            unseen = set(self._missing(self._live))
            missing = [name for name in self.layers if name in unseen and name not in sums and self.evidence]
            if self._live.batches and missing:
                raise ObservationError(never_reached(missing, self._live.batches))
        raise_unsound([name for name, own in sums.items() if not all(bool(v.isfinite().all()) for v in own.values())])
        # A rank that was dealt zeros knows nothing of a site yet: "fired on all 0 rows" would mean "always fires".
        told = {name: own for name, own in sums.items() if any(bool(value.any()) for value in own.values())}
        self._check_sites(self.state.graph, told, layers)

    # ---- counting in a block ---------------------------------------------------------------------------------------

    @contextmanager
    def observing(self, gradients: bool = False, mask: Mask = DEFAULT) -> Iterator[None]:
        """Count on whatever is sent through the model inside the block; the model and the RNG are left as they were.

        gradients: enable them, for criteria that need them (``backward`` is the caller's). mask: how padding is told.
        Nothing is added to the state when the block fails. Raises ObservationError for no or empty batches, layers
        never reached, NaN or Inf, and evidence that means nothing at its site.
        """
        session = Session(
            self.root,
            self.layers,
            self.evidence,
            due=lambda _: True,
            thorough=True,
            traced=lambda: self._check_sites(session.graph),
            keep_inputs=self._keep_inputs,
        )
        session.mask = mask
        with quiet(self._model, gradients):
            try:
                session.open()
                yield
            finally:
                session.close()
        self._accept(session)

    def look(self, example: Any) -> None:
        """See the structure from one example (see ``program.example_args``); nothing is counted."""
        looker = Collector(self._model, self.layers, [], PruneState())
        args, kwargs = example_args(example)
        with looker.observing(), on_its_example(self.root, args, kwargs):
            self._model(*args, **kwargs)
        self.state.graph, self.state.example = looker.state.graph, looker.state.example or (args, kwargs)
        self.state.positions.update(looker.state.positions)

    def _missing(self, session: Session) -> list[str]:
        """Layers that no data has reached, of those that somebody wants to look at."""
        elsewhere = () if session.graph is None else session.graph.elsewhere
        all_must = any(each.everywhere for each in self.evidence)
        return [name for name in session.unreached() if all_must or name not in elsewhere]

    def _accept(self, session: Session) -> None:
        if session.batches == 0 or session.graph is None:
            raise ObservationError(DEAF)
        if session.failed:
            raise ObservationError(FAILED)
        if missing := self._missing(session):
            raise ObservationError(never_reached(missing, session.batches))
        raise_unsound(session.unsound())
        found = session.flush()
        self._take_structure(session)
        self._check_sites(session.graph, found)
        self._add(found)
        self.state.inputs += session.inputs

    # ---- counting while training -----------------------------------------------------------------------------------

    def start_live(self, every: int = 1, mask: Mask = DEFAULT) -> None:
        """Count on each ``every``-th training forward (model in training mode) from now on.

        Training results do not change by a bit. The first forward is traced. NaN and Inf are looked for on every 64th
        counted batch only. Raises RecipeError for ``every < 1``; the first forward raises ObservationError when
        evidence means nothing at its site.
        """
        if every < 1:
            raise RecipeError(f"count every {every!r} batches makes no sense; use 1 for each batch, 8 for each eighth")
        self.stop_live()
        self._every = every
        live = Session(
            self.root,
            self.layers,
            self.evidence,
            due=self._due,
            thorough=False,
            rarely=every > 1,
            traced=lambda: self._live_traced(live),
        )
        self._live, live.mask = live, mask
        live.open()

    def stop_live(self) -> None:
        """Take the hooks off; what they counted stays in the state."""
        if self._live is not None:
            self._live.close()
            self.flush()
            self._live = None

    def _due(self, root: nn.Module) -> bool:
        if not root.training:
            return False
        self.state.forwards += 1
        return (self.state.forwards - 1) % self._every == 0

    def _live_traced(self, session: Session) -> None:
        self._take_structure(session)
        self._check_sites(session.graph)

    # ---- shared ----------------------------------------------------------------------------------------------------

    def _add(self, found: Mapping[str, Sums]) -> None:
        with torch.no_grad():
            for name, sums in found.items():
                merge(self.state.sums.setdefault(name, {}), sums)

    def _take_structure(self, session: Session) -> None:
        self.state.graph = session.graph
        self.state.positions.update(session.positions)
        self.state.example = session.example if self.state.example is None else self.state.example

    def _check_sites(
        self, graph: Graph | None, sums: Mapping[str, Sums] | None = None, layers: Sequence[str] | None = None
    ) -> None:
        """Evidence that means nothing at its site. sums: None as early as the first forward."""
        for each, site in self._counted(graph, layers):
            problem = each.problem(site, None if sums is None else sums.get(site.layer, {}))
            if problem is not None:
                raise ObservationError(problem)

    def _counted(self, graph: Graph | None, layers: Sequence[str] | None) -> Iterator[tuple[OfActivations, Site]]:
        """All pairs of evidence and a site at which it is counted; output layers only if asked for by name."""
        for each in self.evidence if graph is not None else ():
            assert graph is not None
            for site in graph.every_site():
                wanted = site.layer in layers if layers is not None else site.layer not in graph.outputs
                if wanted and each.counted_at(site, output=site.layer in graph.outputs):
                    yield each, site


def collected_again(
    model: nn.Module, layers: Mapping[str, str], evidence: Sequence[OfActivations], graph: Graph, inputs: Sequence[Any]
) -> dict[str, Sums]:
    """Evidence of ``layers`` on batches that were kept (``(args, kwargs)`` each), with the weights as they are now.

    Each forward ends behind the last layer asked for, where only inputs are looked at.
    """
    session = Session(
        unwrap(model), layers, tuple(evidence), due=lambda _: True, thorough=True, traced=lambda: None, graph=graph
    )
    last = list(layers)[-1]
    early = all(each.sees == "input" for each in evidence) and last not in graph.repeats and len(layers) == 1
    with quiet(model):
        try:
            session.open()
            with _ending_behind(model, layers[last] if early else None):
                for args, kwargs in inputs:
                    try:
                        model(*args, **kwargs)
                    except _EnoughError:
                        continue
        finally:
            session.close()
    raise_unsound(session.unsound())
    return session.flush()


class _EnoughError(Exception):
    """A forward has shown all that was wanted."""


@contextmanager
def _ending_behind(model: nn.Module, path: str | None) -> Iterator[None]:
    def end(*_: Any) -> None:
        raise _EnoughError

    handle = None if path is None else model.get_submodule(path).register_forward_hook(Hook(end))
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


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


DEAF = (
    "no batch was observed: the loader was empty, or the model itself was not called inside the block (hooks never "
    "fire for a part of it, a copy, or a version compiled inside the block); send at least one batch through the model "
    "that was given to the pruner"
)
FAILED = (
    "a forward pass failed inside the block, which left its batch half counted, so nothing was counted; leave out the "
    "batch that failed"
)


def check_distinct(evidence: Sequence[Evidence]) -> None:
    """Raise RecipeError: two kinds of evidence may not write the same sums (firing above two different thresholds)."""
    taken: dict[str, Evidence] = {}
    for each in evidence:
        for key in set(each.keys) - SHARED:
            if key in taken:
                raise RecipeError(f"{taken[key]} and {each} both sum {key!r}; ask for one of them")
            taken[key] = each


def raise_unsound(names: Sequence[str]) -> None:
    """Raise ObservationError if there are layers with NaN or Inf, the first in execution order by name."""
    if names:
        raise ObservationError(
            f"activations of {names[0]} are NaN or Inf"
            + (f" (and those of {len(names) - 1} more layers)" if len(names) > 1 else "")
            + "; nothing was counted: check the data for NaN, and whether training has diverged"
        )


def never_reached(names: Sequence[str], batches: int) -> str:
    """The message for layers that no batch went through."""
    paths = [name.removesuffix(".weight") for name in names]
    return (
        f"no data reached {', '.join(names)} in {batches} batches; send data that does through the model, do not "
        f"compile parts of it before counting, or leave the layer out: skip={paths}"
    )
