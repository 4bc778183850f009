"""Which programs are a chain of fully connected layers, and what the chain computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.compact import compact
from actprune.program import chain, export
from support.compaction import dead_rows
from support.nets import NETS, mlp


def run(layers, x):
    """The definition in the docstring of ``Dense``."""
    x = x.flatten(1)
    for layer in layers:
        x = x if layer.columns is None else x[:, layer.columns]
        x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        x = F.relu(x) if layer.activation == "relu" else x
    return x


class Reshaped(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.fc1, self.fc2 = how, nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(self.how(x))))


CHAINS = {
    "article": (NETS["article"].make(), (1, 28, 28), ["relu"] * 4 + ["none"]),
    "no bias": (mlp(12, 5, 2, bias=False), (12,), ["relu", "none"]),
    "one layer": (nn.Linear(12, 3), (12,), ["none"]),
    "relu at the end": (nn.Sequential(nn.Linear(12, 3), nn.ReLU()), (12,), ["relu"]),
    "linear after linear": (nn.Sequential(nn.Linear(12, 3), nn.Linear(3, 2)), (12,), ["none", "none"]),
    "view": (Reshaped(lambda x: x.view(-1, 12)), (3, 4), ["relu", "none"]),
    "view of the batch": (Reshaped(lambda x: x.view(x.size(0), -1)), (3, 4), ["relu", "none"]),
    "reshape": (Reshaped(lambda x: x.reshape(len(x), 12)), (3, 4), ["relu", "none"]),
    "dropout": (nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 3), nn.ReLU(), nn.Dropout(0.2), nn.Linear(3, 2)), (12,),
                ["relu", "none"]),
    "in place": (nn.Sequential(nn.Linear(12, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), (12,), ["relu", "none"]),
}  # fmt: skip


@pytest.mark.parametrize(("model", "shape", "activations"), CHAINS.values(), ids=CHAINS)
def test_chains(model, shape, activations):
    program = export(model, torch.randn(3, *shape))
    layers = chain(program)
    assert len(chain(program, shape)) == len(layers)
    assert [layer.activation for layer in layers] == activations
    x = torch.randn(5, *shape)
    torch.testing.assert_close(run(layers, x), model.eval()(x))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert [layer.name for layer in layers] == [name or "weight" for name in names]


def test_a_chain_that_leaves_inputs_out():
    model = NETS["article"].make()
    masks = dead_rows(model, {"fc1.weight": range(50)})
    masks["fc1.weight"][:, ::3] = False
    program = compact(model, masks, example=NETS["article"].inputs(), form="graph")
    for one in (program, export(compact(model, masks, example=NETS["article"].inputs()), NETS["article"].inputs())):
        layers = chain(one)
        assert layers[0].columns.dtype == torch.int64
        assert layers[0].weight.shape == (250, len(layers[0].columns))
        assert layers[1].columns is None
        assert chain(one, (1, 28, 28)) is not None
        assert chain(one, (20,)) is not None  # a wrong example is an error of whoever gives it, who says so
        x = NETS["article"].inputs(5)[0]
        torch.testing.assert_close(run(layers, x), program(x))


class Odd(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.fc1, self.fc2 = how, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.how(self, x)


NO_CHAINS = {
    "residual": lambda m, x: m.fc2(torch.relu(m.fc1(x))) + x,
    "other activation": lambda m, x: m.fc2(torch.tanh(m.fc1(x))),
    "two outputs": lambda m, x: (m.fc1(x), m.fc2(x)),
    "softmax at the end": lambda m, x: m.fc2(x).softmax(-1),
    "relu first": lambda m, x: m.fc1(torch.relu(x)),
    "relu twice": lambda m, x: m.fc2(torch.relu(torch.relu(m.fc1(x)))),
    "dictionary": lambda m, x: {"out": m.fc1(x)},
    "flatten of part": lambda m, x: m.fc1(x.reshape(-1, 2, 2).flatten(2).reshape(-1, 4)),
    "gather along the batch": lambda m, x: m.fc1(x.index_select(0, torch.tensor([0, 1]))),
}


@pytest.mark.parametrize("how", NO_CHAINS.values(), ids=NO_CHAINS)
def test_what_is_no_chain(how):
    assert chain(export(Odd(how), torch.randn(3, 4))) is None


@pytest.mark.parametrize("name", ["lenet-5", "two inputs", "gated", "normed mlp", "shared"])
def test_networks_that_are_no_chain(name):
    found = chain(export(NETS[name].make(), NETS[name].inputs()))
    assert (found is None) == (name != "shared")


def test_a_view_that_mixes_examples_is_no_chain():
    """``view(-1, 6)`` of 12 features makes two rows of every example."""
    model = nn.Sequential(nn.Unflatten(1, (2, 6)), nn.Flatten(0, 1), nn.Linear(6, 3))
    assert chain(export(model, torch.randn(3, 12))) is None

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x.view(-1, 6))

    program = export(Rows(), torch.randn(3, 12))
    assert chain(program, (12,)) is None
    assert len(chain(program, (6,))) == 1
    assert len(chain(program, (2, 3))) == 1


def test_layers_on_sequences_are_no_chain():
    """A Linear on (N, T, C) without a flatten is applied at every position."""
    program = export(nn.Linear(4, 2), torch.randn(3, 5, 4))
    assert chain(program, (5, 4)) is None
    assert len(chain(program, (4,))) == 1
