"""A watched forward pass, for the tests of the observer."""

from actprune.evidence import Firing
from actprune.graph import prunable_layers
from actprune.pruner.collector import Collector
from actprune.state import PruneState


def collector(model, *evidence, skip=(), sums=None):
    state = PruneState() if sums is None else PruneState(sums=sums)
    return Collector(model, prunable_layers(model, skip), evidence or (Firing(),), state)


def fired(watch, name):
    return watch.flush()[name]["fired"].tolist(), watch.flush()[name]["rows"].item()


def observe(watch, model, *batches):
    with watch.observing():
        for batch in batches:
            model(batch)


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
