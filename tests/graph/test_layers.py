"""Which layers are prunable, and what they are called."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from actprune.errors import ModelError
from actprune.graph import clean_path, named_layers, prunable_layers, unwrap


def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2))


def test_names_and_order():
    assert prunable_layers(net()) == {"0.weight": "0", "3.weight": "3", "4.weight": "4"}
    assert prunable_layers(nn.Linear(2, 1)) == {"weight": ""}
    assert list(prunable_layers(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.Bilinear(1, 1, 1)))) == [
        "0.weight"
    ]


@pytest.mark.parametrize("skip", [["3"], ["3.weight"], ("[3]*",), "3"])
def test_skip(skip):
    assert list(prunable_layers(net(), skip)) == ["0.weight", "4.weight"]


def test_a_pattern_that_matches_nothing_names_the_nearest():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(ModelError, match="did you mean 'encoder'"):
        prunable_layers(model, ["encodr"])


def test_frozen_layers_are_left_out_unless_wanted():
    model = net()
    model[3].weight.requires_grad_(False)
    assert list(prunable_layers(model)) == ["0.weight", "4.weight"]
    assert list(prunable_layers(model, include_frozen=True)) == ["0.weight", "3.weight", "4.weight"]
    prunable_layers(model, skip=["3"])  # skipping what is left out anyway is no error


def test_tied_weights_appear_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert prunable_layers(model) == {"0.weight": "0"}


def test_nothing_left_says_what_was_found():
    with pytest.raises(ModelError, match="only Conv3d"):
        prunable_layers(nn.Sequential(nn.Conv3d(1, 1, 1), nn.ReLU()))
    with pytest.raises(ModelError, match="modules without parameters"):
        prunable_layers(nn.ReLU())
    with pytest.raises(ModelError, match=r"0 \(skipped\), 3 \(skipped\), 4 \(skipped\)"):
        prunable_layers(net(), ["*"])


def test_weights_that_cannot_be_masked_are_named():
    model = net()
    parametrize.register_parametrization(model[3], "weight", nn.Identity())
    with pytest.raises(ModelError, match=r"layer '3' is computed.*skip=\['3'\]"):
        prunable_layers(model)
    assert list(prunable_layers(model, ["3"])) == ["0.weight", "4.weight"]
    with pytest.raises(ModelError, match="send one batch"):
        prunable_layers(nn.Sequential(nn.LazyLinear(2)))


def test_wrappers():
    model = net()
    wrapped = torch.optim.swa_utils.AveragedModel(torch.compile(model, backend="eager"))
    layers = prunable_layers(wrapped)
    assert list(layers) == ["0.weight", "3.weight", "4.weight"]
    assert all(isinstance(wrapped.get_submodule(path).weight, nn.Parameter) for path in layers.values())
    compiled = torch.compile(model, backend="eager")
    assert unwrap(compiled) is model
    model[0] = torch.compile(model[0], backend="eager")
    assert prunable_layers(model) == {"0.weight": "0._orig_mod", "3.weight": "3", "4.weight": "4"}
    assert clean_path("a._orig_mod.b") == "a.b"
    own = nn.ModuleDict({"module": nn.Linear(2, 2)})  # a user's own name, not a wrapper's
    assert prunable_layers(own) == {"module.weight": "module"}


def test_computed_weights_are_never_taken_for_one_another():
    """Each access makes a new tensor, often where the last one was."""
    wrap = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(*(wrap(nn.Linear(8, 8)) for _ in range(6)))
    for _ in range(20):
        assert len(named_layers(model)) == 6
