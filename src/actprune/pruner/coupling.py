"""The structure of a live model as a unit that spans layers is shown it: what may go, what it costs, what stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from actprune.errors import ModelError, ObservationError, few
from actprune.graph import SKIPPED, clean_path
from actprune.pruner.distributed import local
from actprune.pruner.inputs import examples_in
from actprune.pruner.model import PrunableModel
from actprune.state import PruneState
from actprune.structure import Bundle, Costs, Structure


@dataclass(eq=False)
class LiveCoupling:
    """Bundles of a model, found by one forward on the two examples that were kept."""

    model: PrunableModel
    state: PruneState
    whole_groups: bool = False
    _aside: list[str] = field(default_factory=list)  # bundles that were left alone, and why

    @cached_property
    def _structure(self) -> Structure:
        if self.state.example is None:
            raise ObservationError(
                "a unit that spans layers has to see the model at work once; give Pruner(example=...), or run observe()"
            )
        args, kwargs = self.state.example
        try:
            with self.model.gathered():
                found = Structure(self.model.root, args, kwargs, whole_groups=self.whole_groups)
                _ = found.whole  # while the parameters are there
            return found
        except Exception as error:
            raise ModelError(
                f"{type(self.model.root).__name__} cannot be followed: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def bundles(self) -> list[Bundle]:
        """Those that may be pruned: none that holds outputs of a layer that is left alone. Buffers have no masks."""
        parameters = {clean_path(name) for name, _ in self.model.root.named_parameters()}
        kept = []
        for bundle in self._structure.bundles():
            clean = replace(
                bundle,
                name=clean_path(bundle.name),
                slices=tuple(
                    replace(each, name=clean_path(each.name))
                    for each in bundle.slices
                    if clean_path(each.name) in parameters
                ),
            )
            why = self._spared(clean)
            if why is None:
                kept.append(clean)
            else:
                self._aside.append(why)
        return kept

    def _spared(self, bundle: Bundle) -> str | None:
        """Why it is left alone: outputs of a layer that is skipped, or frozen. Norms behind ``only`` layers may go."""
        for each in bundle.slices:
            if each.reads:
                continue
            why = self._left_alone(each.name)
            if why is not None and (why == SKIPPED or self._tensors[each.name].dim() > 1):
                return f"{each.name} and what goes with it stay: {why}"
        return None

    def _left_alone(self, name: str) -> str | None:
        known = self.model.why.get(name, "")
        asked = self.model.choice.left_alone(name.rpartition(".")[0], name)
        return known if known.startswith("frozen") else asked

    @cached_property
    def notes(self) -> list[str]:
        """What stays, and why."""
        _ = self.bundles  # in the course of which some are left alone
        lines = list(self._aside)
        if out := self._structure.unreached:
            lines.append(
                f"{few(map(clean_path, out))}: neither the example nor other values of it reach this; it stays, "
                "and compact() will not fit it to what gets narrower around it"
            )
        for op, modules in self._structure.whole[0].unknown.items():
            places = ", ".join(dict.fromkeys(path or "the model" for path in modules))
            lines.append(f"the operation {op} (in {places}) has no rule, so the channels that it touches stay")
        return lines

    @cached_property
    def costs(self) -> Costs:
        """Sizes of the network without some of them."""
        found, solved = self._structure.whole
        names = frozenset(name for name, _ in self.model.root.named_parameters())
        assert self.state.example is not None
        examples = examples_in(self.state.example) or 1
        return Costs(found, solved, self._structure.tensors, names, examples)

    def blank(self, name: str) -> Tensor:
        """A mask of a parameter, all True."""
        tensor = self._tensors[name]
        return torch.ones(tensor.shape, dtype=torch.bool, device=local(tensor).device)

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        return self.model.tensors()
