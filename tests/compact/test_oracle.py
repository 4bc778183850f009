"""Coupled channels as an independent library finds them, against those of the structure."""

import pytest
from torch import nn

from actprune.structure import Structure
from support.nets import NETS

LAYERS = (nn.Conv2d, nn.Linear)


def oracle_groups(model, net):
    """For every channel of every layer: all (layer, channel) of outputs that go with it."""
    pruning = pytest.importorskip("torch_pruning")
    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=net.inputs()[0])
    names = {module: name for name, module in model.named_modules()}
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and name != "fc":
            for channel in range(len(module.weight)):
                group = graph.get_pruning_group(
                    module, graph.get_pruner_of_module(module).prune_out_channels, [channel]
                )
                members = {
                    (names[dep.target.module], int(index))
                    for dep, indices in group
                    for index in indices
                    if isinstance(dep.target.module, LAYERS) and dep.handler.__name__ == "prune_out_channels"
                }
                found.add(frozenset(members))
    return found


def own_groups(model, net):
    found = {}
    layers = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, LAYERS)}
    for number, bundle in enumerate(Structure(model, net.inputs(), {}).bundles()):
        for slices in bundle.slices:
            if slices.axis == 0 and slices.name in layers:
                for index, group in zip(slices.index.tolist(), slices.group.tolist(), strict=True):
                    found.setdefault((number, group), set()).add((slices.name.removesuffix(".weight"), index))
    return {frozenset(members) for members in found.values()}


@pytest.mark.parametrize("name", ["resnet-20", "mobilenet", "densenet"])
@pytest.mark.filterwarnings("ignore")
def test_coupled_channels_agree(name):
    net = NETS[name]
    model = net.make()
    own = own_groups(model, net)
    assert own == oracle_groups(model, net)
    channels = [member for group in own for member in group]
    assert len(channels) == len(set(channels))
