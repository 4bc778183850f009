"""Networks as lists of operations: the same outputs, in every net; they prune, train and copy like any module."""

import copy
import functools
import json
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.errors import ArtifactError, ModelError
from actprune.methods import activation, magnitude
from actprune.program import Program, export
from actprune.pruner.pruner import Pruner
from support.compaction import gap, shapes
from support.nets import NETS, Net, mlp

SMALL = Net(lambda: mlp(6, 5, 3), ((6,),))


@functools.cache
def exported(name):
    return export(NETS[name].make(), NETS[name].inputs())


@pytest.mark.parametrize("name", NETS)
def test_round_trip_through_json(name):
    net, program = NETS[name], exported(name)
    model = net.make()
    text = json.dumps(program.structure())
    again = Program.build(json.loads(text), {name: p.clone() for name, p in program.state_dict().items()})
    assert json.dumps(again.structure()) == text
    for inputs in (net.inputs(2, 3), net.inputs(5, 4)):
        with torch.no_grad():
            torch.testing.assert_close(program(*inputs), model(*inputs))
            assert torch.equal(again(*inputs), program(*inputs))
    own = dict(model.named_parameters())
    assert shapes(program) == shapes(model)
    assert all(torch.equal(p, own[name]) and p is not own[name] for name, p in program.named_parameters())
    assert {k for k in model.state_dict() if "num_batches" not in k} <= set(program.state_dict())


class Of(nn.Module):
    """Layers, and a function of them and the input."""

    def __init__(self, run, **layers):
        super().__init__()
        self.layers, self.run = nn.ModuleDict(layers), run

    def forward(self, x):
        return self.run(x, **self.layers)


def cells(x, cell):
    h = x.new_zeros(x.shape[0], 5)
    for step in x.unbind(1):
        h = cell(step, h)
    return h


WIDER = {
    "volumes": (Of(lambda x, a: F.adaptive_avg_pool3d(F.max_pool3d(a(x), 2), 1), a=nn.Conv3d(2, 3, 3)), (2, 8, 8, 8)),
    "transposed": (Of(lambda x, a, b: b(a(x)), a=nn.ConvTranspose2d(3, 4, 3, 2, 1, 1),
                      b=nn.ConvTranspose2d(4, 2, 2, groups=2)), (3, 5, 5)),
    "transposed 1d": (Of(lambda x, a: a(x), a=nn.ConvTranspose1d(3, 4, 3, 2)), (3, 7)),
    "lstm": (Of(lambda x, a, b: b(a(x)[0][:, -1]), a=nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True),
                b=nn.Linear(10, 2)), (6, 4)),
    "gru": (Of(lambda x, a: a(x)[1][0], a=nn.GRU(4, 5, batch_first=True)), (6, 4)),
    "rnn": (Of(lambda x, a, b: a(x)[0] + b(x)[0], a=nn.RNN(4, 5, batch_first=True),
               b=nn.RNN(4, 5, batch_first=True, nonlinearity="relu")), (6, 4)),
    "gru cell": (Of(cells, cell=nn.GRUCell(4, 5)), (6, 4)),
    "rnn cell": (Of(cells, cell=nn.RNNCell(4, 5)), (6, 4)),
    "weight norm": (Of(lambda x, a: a(x), a=nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))), (4,)),
    "masks": (Of(lambda x, a: torch.where((x > 0) & (x < 1) | (x < -1), a(x), 0.0), a=nn.Linear(4, 4)), (4,)),
    "gate": (Of(lambda x, a: torch.addcmul(x, F.glu(a(x)), x), a=nn.Linear(4, 8)), (4,)),
    "bicubic": (Of(lambda x, a: F.interpolate(a(x), scale_factor=2, mode="bicubic"), a=nn.Conv2d(2, 2, 1)), (2, 4, 4)),
    "patches": (Of(lambda x, a: a(F.unfold(x, 2).mT), a=nn.Linear(8, 3)), (2, 5, 5)),
    "scatter": (Of(lambda x, a: torch.zeros_like(x).index_add(1, torch.tensor([0, 2, 2, 1]), a(x)), a=nn.Linear(4, 4)),
                (4,)),
    "pairs": (Of(lambda x, a: a(x)[:, torch.triu_indices(4, 4)[0]], a=nn.Linear(4, 4)), (4,)),
    "alike": (Of(lambda x, a: F.cosine_similarity(a(x), x), a=nn.Linear(4, 4)), (4,)),
    "sorted": (Of(lambda x, a: a(x).sort(-1)[0].logsumexp(-1), a=nn.Linear(4, 4)), (4,)),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDER)
def test_operations_of_many_kinds_of_networks(name):
    torch.manual_seed(0)
    model, shape = WIDER[name]
    model = model.eval()
    program = export(model, torch.randn(2, *shape))
    structure = json.loads(json.dumps(program.structure()))
    again = Program.build(structure, {name: tensor.clone() for name, tensor in program.state_dict().items()})
    x = torch.randn(5, *shape)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))


class Cached(nn.Module):
    """Returns what its next call would start from as well."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        return {"logits": self.a(x), "past_key_values": DynamicCache(x)}


class DynamicCache:
    def __init__(self, x):
        self.keys = x


def test_caches_for_the_models_own_next_call_are_left_out():
    model = Cached().eval()
    program = export(model, torch.randn(2, 4))
    x = torch.randn(3, 4)
    found = program(x)
    assert list(found) == ["logits"]
    assert torch.equal(found["logits"], model(x)["logits"])
    assert not model._forward_hooks


def test_copies_states_and_dtypes():
    net, program = NETS["mobilenet"], exported("mobilenet")
    copied = copy.deepcopy(program)
    copied.load_state_dict(NETS["mobilenet"].make(seed=5).state_dict())
    assert gap(NETS["mobilenet"].make(seed=5), copied, net.inputs()) < 1e-6
    wide = copy.deepcopy(program).to(torch.float64)
    assert wide(*net.inputs(dtype=torch.float64)).dtype == torch.float64
    assert gap(net.make(), program, net.inputs(dtype=torch.float64)) < 1e-12
    assert export(program, None) is not program
    assert gap(export(program, None), program, net.inputs()) == 0


class Outputs(nn.Module):
    """In-place operations, a view that one of them changes, and nested outputs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x, y):
        hidden = self.fc(x)
        before = hidden * 1
        hidden.add_(y).relu_()
        part = hidden[:, :2]
        part.mul_(3)
        return {"all": hidden, "pair": (before, [part, x]), "count": 2}


def test_inplace_operations_and_nested_outputs():
    model = Outputs()
    x, y = torch.randn(3, 6), torch.randn(3, 4)
    program = export(model, (x, y))
    expected, got = model(x.clone(), y), program(x.clone(), y)
    torch.testing.assert_close(got["all"], expected["all"])
    torch.testing.assert_close(got["pair"][0], expected["pair"][0])
    torch.testing.assert_close(got["pair"][1][0], expected["pair"][1][0])
    assert got["count"] == 2
    assert type(got["pair"]) in (tuple, list)
    again = Program.build(json.loads(json.dumps(program.structure())), program.state_dict())
    torch.testing.assert_close(again(y=y, x=x)["all"], expected["all"])


def test_named_tuples_become_tuples_and_other_containers_are_refused():
    class Returns(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind = kind

        def forward(self, x):
            return self.kind(x * 2, x + 1)

    x = torch.randn(3, 2)
    program = export(Returns(namedtuple("Pair", "one other")), x)
    assert type(program(x)) is tuple
    torch.testing.assert_close(program(x)[1], x + 1)
    with pytest.raises(ModelError, match=r"cannot be turned into a graph|the model returns a"):
        export(Returns(Odd), x)


class Odd:
    def __init__(self, *items):
        self.items = items


def test_standard_layers_fire_hooks():
    program, calls = export(SMALL.make(), SMALL.inputs()), []
    for name, module in program.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, _i, out, name=name: calls.append((name, tuple(out.shape))))
    program(*SMALL.inputs(4))
    assert calls == [("fc1", (4, 5)), ("fc2", (4, 3))]


@pytest.mark.parametrize("name", ["article", "lenet-5", "resnet-20"])
def test_a_pruner_sees_what_it_sees_in_the_original(name):
    net = NETS[name]
    model, program = net.make(), copy.deepcopy(exported(name))
    masks = []
    for one in (model, program):
        pruner = Pruner(one, magnitude(0.7))
        with pruner.observe():
            one(*net.inputs(8))
        pruner.prune(0.7)
        masks.append(pruner.masks)
    assert list(masks[0]) == list(masks[1])
    assert all(torch.equal(masks[0][key], masks[1][key]) for key in masks[0])


def test_firing_is_counted_in_a_program():
    net, found = NETS["article"], []
    for one in (net.make(), copy.deepcopy(exported("article"))):
        pruner = Pruner(one, activation(0.5))
        with pruner.observe():
            one(*net.inputs(16))
        pruner.prune(0.5)
        found.append({name: sums["fired"] for name, sums in pruner.state.sums.items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_training_moves_weights_and_statistics():
    model = NETS["normed mlp"].make().train()
    program = export(model, NETS["normed mlp"].inputs()).train()
    x, target = torch.randn(16, 20), torch.randn(16, 4)
    losses = []
    for one in (model, program):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.mse_loss(one(x), target)
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert not torch.equal(program.get_parameter("0.weight"), NETS["normed mlp"].make()[0].weight)
    assert not torch.equal(program.get_buffer("1.running_mean"), NETS["normed mlp"].make()[1].running_mean)


def test_frozen_parameters_and_buffers_stay_what_they_are():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.value, self.unused = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2)
            self.register_buffer("scale", torch.rand(4))
            self.register_buffer("index", torch.tensor([2, 0, 1]))

        def forward(self, x):
            return self.value(self.fc((x * self.scale).float())[:, self.index])

    model = Scaled()
    model.fc.weight.requires_grad_(False)
    program = export(model, torch.randn(3, 4))
    again = Program.build(json.loads(json.dumps(program.structure())), program.tensors())
    for one in (program, again):
        assert not one.get_parameter("fc.weight").requires_grad
        assert one.get_parameter("value.weight").requires_grad
        assert set(dict(one.named_buffers())) == {"scale", "index"}
        x = torch.randn(5, 4)
        torch.testing.assert_close(one(x), model(x))
    assert program.to(torch.float64)(torch.randn(2, 4).double()).dtype == torch.float64


def test_layers_inside_layers():
    class Adapted(nn.Linear):
        """The inner layers are called first."""

        def __init__(self):
            super().__init__(4, 3)
            self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 3)

        def forward(self, x):
            return self.up(self.down(x)) + super().forward(x)

    model = nn.Sequential(Adapted(), nn.ReLU(), nn.Linear(3, 2))
    program = export(model, torch.randn(3, 4))
    x = torch.randn(5, 4)
    torch.testing.assert_close(program(x), model(x))
    assert isinstance(program.get_submodule("0.down"), nn.Linear)


def test_names_that_a_program_needs_itself():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.Linear(3, 2)

        def forward(self, x):
            return self.steps(x)

    with pytest.raises(ArtifactError, match="'steps' is the name of something that every program has itself; rename"):
        export(Steps(), torch.randn(3, 3))


def test_batches():
    free, one = export(SMALL.make(), SMALL.inputs(3)), export(SMALL.make(), SMALL.inputs(1))
    for program in (free, one):
        assert program.batch is None
        assert program(*SMALL.inputs(7)).shape == (7, 3)
        assert program(*SMALL.inputs(1)).shape == (1, 3)

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(4, 3, 2).sum(1) + x.new_ones(4, 2)

    fixed = export(Fixed(), torch.randn(4, 6))
    assert fixed.batch == 4
    with pytest.raises(ModelError, match=r"this program was exported for batches of 4; found \[5\]"):
        fixed(torch.randn(5, 6))
    assert Program.build(fixed.structure(), fixed.tensors()).batch == 4


def test_arguments():
    program = export(NETS["two inputs"].make(), NETS["two inputs"].inputs())
    image, features = NETS["two inputs"].inputs(4)
    torch.testing.assert_close(program(features=features, image=image), program(image, features))
    for args, kwargs in (((image,), {}), ((image, features, image), {}), ((image,), {"feature": features})):
        with pytest.raises(ModelError, match="this program takes image, features; it was called with"):
            program(*args, **kwargs)


def test_export_restores_training_flags_even_when_it_fails():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

        def forward(self, x):
            assert not self.training
            return self.inner(x) if x.max() > 0 else x

    model = Fails().train()
    model.inner.eval()
    model.inner[1].train()
    before = [module.training for module in model.modules()]
    with pytest.raises(ModelError, match="Fails cannot be turned into a graph"):
        export(model, torch.randn(3, 3))
    assert [module.training for module in model.modules()] == before == [True, False, False, True]
