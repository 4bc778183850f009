"""Small models and a watched forward pass, for the tests of the observer."""

import torch
import torch.nn.functional as F
from torch import nn

from actprune.engine.observe import Observer
from actprune.graph import prunable_layers
from actprune.stats import Firing


def observer(model, *statistics, skip=(), sums=None):
    return Observer(model, prunable_layers(model, skip), statistics or (Firing(),), {} if sums is None else sums)


def fired(watch, name):
    return watch.sums[name]["fired"].tolist(), watch.sums[name]["rows"].item()


def mlp(activation=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3), activation(), nn.Linear(3, 2))


class Functional(nn.Module):
    """``mlp`` with functions, over the same weights."""

    def __init__(self, source, function=F.relu):
        super().__init__()
        self.a, self.b, self.c, self.function = source[0], source[2], source[4], function

    def forward(self, x):
        return self.c(self.function(self.b(self.function(self.a(x)))))


class ConvNet(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.bn, self.fc, self.inplace = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 2), inplace

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.bn(self.conv(x)), inplace=self.inplace), 2).flatten(1))


def observe(watch, model, *batches):
    with watch.observing():
        for batch in batches:
            model(batch)


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
