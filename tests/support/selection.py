"""A pruning step of a standard recipe on plain matrices."""

from dataclasses import dataclass

from actprune.edit import Quota, View, pruning_step
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.types import Budget, Layer, Progress


@dataclass(frozen=True)
class Given:
    """A criterion that returns the weight itself as score."""

    needs = ()

    def score(self, layer):
        return layer.weight


@dataclass(frozen=True)
class Close:
    """Stands for removal of what is dead: when the first weight of a row goes, the whole row does."""

    in_budget: bool = True

    def closes(self, graph, masks):
        return {name: mask & mask[:, :1] for name, mask in masks.items()}

    def repair(self, view, edit):
        return edit._replace(masks=self.closes(view.graph, edit.masks))


def recipe(sparsity=0.5, **slots):
    """Nothing is spared, so that a mask is what the scores say."""
    slots = {"budget": Budget.sparsity(sparsity), "schedule": OneShot(), "keep_at_least": 0, **slots}
    return Ranked(name="test", criterion=slots.pop("criterion", Given()), **slots)


def chosen(rec, weights, fraction, masks=None, positions=None, pruning_step=0, **known):
    progress = Progress(pruning_step=pruning_step)
    layers = [Layer(name, weight, mask=(masks or {}).get(name)) for name, weight in weights.items()]
    view = View.of(layers, positions, progress=progress, **known)
    return step(rec, view, Quota(fraction, rec.budget)).masks


step = pruning_step


def rows(mask):
    return mask.int().tolist()
