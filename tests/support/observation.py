"""A watched forward pass, for the tests of the observer."""

from actprune.engine.observe import Observer
from actprune.graph import prunable_layers
from actprune.stats import Firing


def observer(model, *statistics, skip=(), sums=None):
    return Observer(model, prunable_layers(model, skip), statistics or (Firing(),), {} if sums is None else sums)


def fired(watch, name):
    return watch.sums[name]["fired"].tolist(), watch.sums[name]["rows"].item()


def observe(watch, model, *batches):
    with watch.observing():
        for batch in batches:
            model(batch)


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
