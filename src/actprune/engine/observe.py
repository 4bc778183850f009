"""``Observer``: counts activations in a block or on live training batches, and notices when it is deaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from actprune.engine.findings import DEAF, FAILED, check_distinct, never_reached, never_zero, raise_unsound
from actprune.engine.quiet import quiet
from actprune.engine.session import Session
from actprune.errors import ObservationError, RecipeError
from actprune.graph import Graph, Site, is_known, unwrap
from actprune.stats import Firing, merge
from actprune.types import Statistic, Sums


class Observer:
    """Sums ``statistics`` of ``layers`` (weight name -> module path) into ``sums``, by weight name.

    graph      what the last traced forward has shown, or None
    positions  output positions per example of every Linear and conv that was reached
    example    ``(args, kwargs)`` of the first forward, cut to two examples; None if they cannot be cut

    Non-zero firing is not counted at output layers without a non-linearity, where every neuron would always fire.
    Counts of live batches are moved into ``sums`` when ``observer.sums`` is read (or by ``flush``), not at every step.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, str], statistics: Sequence[Statistic], sums: dict[str, Sums]
    ) -> None:
        self.root = unwrap(model)
        self.layers = dict(layers)
        self.statistics = tuple(dict.fromkeys(statistics))
        self.graph: Graph | None = None
        self.positions: dict[str, int] = {}
        self.example: Any = None
        self._model = model
        self._sums = sums
        self._live: Session | None = None
        self._every = 1
        self.forwards = 0  # training forwards since counting began; a resumed run continues the count
        check_distinct(self.statistics)

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def sums(self) -> dict[str, Sums]:
        """All sums so far, by weight name, those of live batches included."""
        self.flush()
        return self._sums

    @sums.setter
    def sums(self, sums: dict[str, Sums]) -> None:
        """Take over other sums (of a checkpoint); live counts that were not flushed are forgotten."""
        if self._live is not None:
            self._live.flush()
        self._sums = sums

    @property
    def live_batches(self) -> int:
        """Training batches counted since ``start_live``. 0 after training: the hooks are deaf (a compiled model)."""
        return 0 if self._live is None else self._live.batches

    def flush(self) -> None:
        """Move the counts of live batches into ``sums``."""
        if self._live is not None:
            self._add(self._live.flush())

    def check(self, layers: Sequence[str] | None = None) -> None:
        """Raise ObservationError if what was counted cannot be used.

        Checked are NaN and Inf, layers that live batches never reached, and activations that are never exactly zero.
        The last is not asked of output layers unless they are among ``layers``.
        """
        sums = self.sums
        if self._live is not None:
            raise_unsound(self._live.unsound())
            unseen = set(self._live.unreached())
            missing = [name for name in self.layers if name in unseen and name not in sums and self.statistics]
            if self._live.batches and missing:
                raise ObservationError(never_reached(missing, self._live.batches))
        raise_unsound([name for name, own in sums.items() if not all(bool(v.isfinite().all()) for v in own.values())])
        self._check_zeros(sums, layers)

    # ---- counting in a block ---------------------------------------------------------------------------------------

    @contextmanager
    def observing(self, gradients: bool = False) -> Iterator[None]:
        """Count on whatever is sent through the model inside the block; the model and the RNG are left as they were.

        gradients: enable them, for criteria that need them (``backward`` is the caller's).
        Nothing is added to ``sums`` when the block fails. Raises ObservationError for no or empty batches, layers never
        reached, NaN or Inf, and activations that are never exactly zero.
        """
        session = Session(
            self.root,
            self.layers,
            self.statistics,
            due=lambda _: True,
            thorough=True,
            traced=lambda: self._check_sites(session.graph),
        )
        with quiet(self._model, gradients):
            try:
                session.open()
                yield
            finally:
                session.close()
        self._accept(session)

    def _accept(self, session: Session) -> None:
        if session.batches == 0 or session.graph is None:
            raise ObservationError(DEAF)
        if session.failed:
            raise ObservationError(FAILED)
        if missing := session.unreached():
            raise ObservationError(never_reached(missing, session.batches))
        raise_unsound(session.unsound())
        found = session.flush()
        self._take_structure(session)
        self._check_zeros(found, None)
        self._add(found)

    # ---- counting while training -----------------------------------------------------------------------------------

    def start_live(self, every: int = 1) -> None:
        """Count on each ``every``-th training forward (model in training mode) from now on.

        Training results do not change by a bit. The first forward is traced. NaN and Inf are looked for on every 64th
        counted batch only. Raises RecipeError for ``every < 1``; the first forward raises ObservationError when an
        activation is never exactly zero.
        """
        if every < 1:
            raise RecipeError(f"count every {every!r} batches makes no sense; use 1 for each batch, 8 for each eighth")
        self.stop_live()
        self._every = every
        live = Session(
            self.root,
            self.layers,
            self.statistics,
            due=self._due,
            thorough=False,
            rarely=every > 1,
            traced=lambda: self._live_traced(live),
        )
        self._live = live
        live.open()

    def stop_live(self) -> None:
        """Take the hooks off; what they counted stays in ``sums``."""
        if self._live is not None:
            self._live.close()
            self.flush()
            self._live = None

    def _due(self, root: nn.Module) -> bool:
        if not root.training:
            return False
        self.forwards += 1
        return (self.forwards - 1) % self._every == 0

    def _live_traced(self, session: Session) -> None:
        self._take_structure(session)
        self._check_sites(session.graph)

    # ---- shared ----------------------------------------------------------------------------------------------------

    def _add(self, found: Mapping[str, Sums]) -> None:
        with torch.no_grad():
            for name, sums in found.items():
                merge(self._sums.setdefault(name, {}), sums)

    def _take_structure(self, session: Session) -> None:
        self.graph = session.graph
        self.positions.update(session.positions)
        if self.example is None:
            self.example = session.example

    def _check_sites(self, graph: Graph | None) -> None:
        """As early as the first forward: operations that are known to be never exactly zero."""
        for site in self._hidden_sites(graph, None):
            if not site.exact_zero and is_known(site.operation):
                raise ObservationError(never_zero(site))

    def _check_zeros(self, sums: Mapping[str, Sums], layers: Sequence[str] | None) -> None:
        for site in self._hidden_sites(self.graph, layers):
            own = sums.get(site.layer, {})
            if site.exact_zero or "fired" not in own:
                continue
            if is_known(site.operation) or bool((own["fired"] == own["rows"]).all()):
                raise ObservationError(never_zero(site))

    def _hidden_sites(self, graph: Graph | None, layers: Sequence[str] | None) -> Iterator[Site]:
        """Sites at which ``value != 0`` is counted; output layers are left out unless asked for by name."""
        if graph is not None and Firing(None) in self.statistics:
            for site in graph.every_site():
                if site.layer in layers if layers is not None else site.layer not in graph.outputs:
                    yield site


def look(observer: Observer, model: nn.Module, example: Any) -> None:
    """Let ``observer`` see the structure from one example; what is counted on it is forgotten."""
    looker = Observer(model, observer.layers, [], {})
    with looker.observing():
        model(*example) if isinstance(example, (tuple, list)) else model(example)
    observer.graph, observer.example = looker.graph, looker.example
    observer.positions.update(looker.positions)
