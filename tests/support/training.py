"""A user's training loop in miniature, for the tests of the engine."""

from torch import nn

from actprune import Pruner, methods
from actprune.testing import observe, small_data, small_net


def train(model, optimizer, steps=3, before_step=None):
    inputs, labels = small_data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        if before_step:
            before_step()
        optimizer.step()


def pruned(recipe=None, **options):
    model = small_net()
    pruner = Pruner(model, recipe or methods.magnitude(0.5), **options)
    observe(pruner, model)
    pruner.prune()
    return model, pruner


def zeros_held(model, pruner):
    return all(not model.get_parameter(name)[~mask].any() for name, mask in pruner.masks.items())


def stepped(pruner, model, optimizer, inputs):
    optimizer.zero_grad()
    model(inputs).sum().backward()
    optimizer.step()
