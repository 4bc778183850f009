"""``Collector``: sums evidence of activations in a block or on live training batches, and notices when it is deaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from actprune.errors import ObservationError, RecipeError
from actprune.evidence import SHARED, OfActivations, merge
from actprune.graph import Hook, unwrap
from actprune.nodes import Graph, Site
from actprune.program import example_args, on_its_example
from actprune.pruner.padding import DEFAULT, Mask
from actprune.pruner.quiet import quiet
from actprune.pruner.session import Session
from actprune.state import PruneState
from actprune.types import Evidence, Sums


class Collector:
    """Sums ``evidence`` of ``layers`` (weight name -> module path) into ``state.sums``, by weight name.

    What it sees of the model goes into the state too: ``graph`` (what the last traced forward has shown), ``positions``
    (output positions per example of every Linear and conv that was reached), ``example`` (``(args, kwargs)`` of the
    first forward, cut to two examples), ``forwards``. keep_inputs: also ``inputs``, all that is sent through the model
    inside ``observing``, to collect on it again. lenient: layers that no data reaches are no error without evidence.

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
        lenient: bool = False,
    ) -> None:
        self.root = unwrap(model)
        self.layers = dict(layers)
        self.evidence = tuple(dict.fromkeys(evidence))
        self.state = state
        self._model = model
        self._live: Session | None = None
        self._every = 1
        self._keep_inputs, self._lenient = keep_inputs, lenient
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
        looker = Collector(self._model, self.layers, [], PruneState(), lenient=self._lenient)
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
        if (missing := self._missing(session)) and (self.evidence or not self._lenient):
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
