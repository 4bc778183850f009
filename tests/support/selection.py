"""``select`` on plain matrices."""

from dataclasses import dataclass

from actprune.core import LayerFacts, select
from actprune.types import Budget, Recipe, Signals


@dataclass(frozen=True)
class Given:
    """A criterion that returns the weight itself as score."""

    needs = ()

    def score(self, signals):
        return signals.weight


def recipe(sparsity=0.5, **slots):
    slots = {"budget": Budget.sparsity(sparsity), "schedule": None, "recovery": None, **slots}
    return Recipe(name="test", criterion=slots.pop("criterion", Given()), **slots)


def chosen(rec, weights, fraction, masks=None, positions=None, **options):
    facts = [
        LayerFacts(name, tuple(weight.shape), (positions or {}).get(name, 1), (masks or {}).get(name))
        for name, weight in weights.items()
    ]
    return select(rec, facts, lambda name: Signals(name, weights[name], {}), fraction, **options).masks


def rows(mask):
    return mask.int().tolist()
