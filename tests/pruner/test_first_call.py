"""`activation(0.5)` at the first call, without arguments, on networks of today: how each layer is judged."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actprune
from actprune import Pruner
from actprune.criteria import Counter
from actprune.errors import ObservationError, RecipeError


class Glu(nn.Module):
    def __init__(self, act=F.silu):
        super().__init__()
        self.gate, self.up, self.down, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.act = act

    def forward(self, x):
        return self.head(x + self.down(self.act(self.gate(x)) * self.up(x)))


class GluSwapped(Glu):
    def forward(self, x):
        return self.head(x + self.down(self.up(x) * self.act(self.gate(x))))


class Squeeze(nn.Module):
    """EfficientNet's block: depthwise, squeeze-and-excite, linear bottleneck, residual sum."""

    def __init__(self, gate=torch.sigmoid):
        super().__init__()
        self.expand, self.mix = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm, self.reduce, self.excite = nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.project, self.project_norm, self.head = nn.Conv2d(8, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Linear(3, 4)
        self.gate = gate

    def forward(self, x):
        y = F.silu(self.norm(self.mix(F.silu(self.expand(x)))))
        y = y * self.gate(self.excite(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project_norm(self.project(y))).mean((2, 3)))


class Film(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x) * self.scale(x)))


class Highway(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.open, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        t = torch.sigmoid(self.open(x))
        return self.head(t * torch.tanh(self.body(x)) + (1 - t) * x)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Packed(nn.Module):
    """Gate and value in one layer, as in Phi-3 and EVA-02."""

    def __init__(self, halves=lambda x: x.chunk(2, -1)):
        super().__init__()
        self.both, self.down, self.head = nn.Linear(6, 16), nn.Linear(8, 6), nn.Linear(6, 3)
        self.halves = halves

    def forward(self, x):
        gate, up = self.halves(self.both(x))
        return self.head(x + self.down(F.silu(gate) * up))


class ReluHalves(nn.Module):
    def forward(self, x):
        return F.relu(x[..., :2]) * x[..., 2:]


class OwnRmsNorm(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(wide))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class LlamaBlock(Glu):
    """The sum is read by a norm of one's own, which says nothing of what the projections before it do."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = OwnRmsNorm(6), OwnRmsNorm(6)
        self.o = nn.Linear(6, 6)

    def forward(self, x):
        x = x + self.o(x)
        h = self.norm(x)
        return self.head(self.last(x + self.down(F.silu(self.gate(h)) * self.up(h))))


class PoolFirst(nn.Module):
    """Pooling before the non-linearity, as in PyTorch's own example of MNIST."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(32, 3)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.one(x), 2))
        return self.head(F.gelu(self.two(x)).flatten(1))


class Sine(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.sin(self.two(torch.sin(30 * self.one(x)))))


class ChannelsLast(nn.Module):
    """ConvNeXt's LayerNorm over channels: they lie elsewhere inside."""

    def __init__(self, wide):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(wide))

    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), self.scale.shape, self.scale).permute(0, 3, 1, 2)


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Rounding(nn.Module):
    def forward(self, x):
        return Round.apply(x)


def bert():
    return nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)


NETS = {
    "gelu": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), (4, 6)),
    "relu": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), (4, 6)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)), (4, 6)),
    "leaky": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, 3)), (4, 6)),
    "swish": (lambda: nn.Sequential(nn.Linear(6, 8), Swish(), nn.Linear(8, 3)), (4, 6)),
    "glu": (Glu, (4, 6)),
    "norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            ChannelsLast(8),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 4, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(16, 2),
        ),
        (4, 3, 6, 6),
    ),
    "own": (lambda: nn.Sequential(nn.Linear(6, 8), Rounding(), nn.Linear(8, 3)), (4, 6)),
    "packed": (Packed, (4, 6)),
    "glu-module": (lambda: nn.Sequential(nn.Linear(6, 16), nn.GLU(), nn.Linear(8, 3)), (4, 6)),
    "glu-conv": (
        lambda: nn.Sequential(nn.Conv1d(3, 16, 3), nn.GLU(1), nn.Flatten(), nn.Linear(32, 3)),
        (4, 3, 6),
    ),
    "llama": (LlamaBlock, (4, 6)),
    "pool-first": (PoolFirst, (4, 3, 6, 6)),
    "sine": (Sine, (4, 6)),
    "glu-swapped": (GluSwapped, (4, 6)),
    "geglu": (lambda: Glu(F.gelu), (4, 6)),
    "reglu": (lambda: Glu(F.relu), (4, 6)),
    "squeeze": (Squeeze, (4, 3, 6, 6)),
    "hard-squeeze": (lambda: Squeeze(F.hardsigmoid), (4, 3, 6, 6)),
    "film": (Film, (4, 6)),
    "highway": (Highway, (4, 6)),
    "encoder": (lambda: nn.Sequential(bert(), bert(), nn.Linear(8, 3)), (4, 5, 8)),
    "decoder": (lambda: nn.Transformer(8, 2, 1, 1, 16, activation="gelu", batch_first=True), (4, 5, 8)),
}
TREATED = {
    "relu": "firing counted at 0, 2",
    "gelu": "mean |activation| at 0, 2",
    "linear": "always firing: 0, 1",
    "swish": "mean |activation| at 0",
    "norm": "mean |activation| at 3; always firing: 0",
    "own": "firing counted if ever zero, else mean |activation|, behind modules of your own or torch.where at 0",
    "packed": "mean |activation| at both; always firing: down",
    "glu-module": "mean |activation| at 0",
    "glu-conv": "mean |activation| at 0",
    "llama": "mean |activation| at gate, up; always firing: o, down",
    "pool-first": "firing counted at one; mean |activation| at two",
    "sine": "mean |activation| at one, two",
    "glu": "mean |activation| at gate, up; always firing: down",
    "glu-swapped": "mean |activation| at up, gate; always firing: down",
    "reglu": "firing counted at gate, up; always firing: down",
    "film": "firing counted at body, scale",
    "highway": "mean |activation| at open, body",
    "squeeze": "mean |activation| at expand, mix, reduce, excite; always firing: project",
}


# raw counts of one position per example against 36 empty the squeeze, and that is an error
CASES = [(n, a) for n in NETS for a in ("layer_mean", "rate", "count") if a != "count" or "squeeze" not in n]


@pytest.mark.parametrize(("name", "across"), CASES)
@pytest.mark.parametrize("how", ["observe", "train"])
def test_the_first_call_works_without_arguments(name, across, how):
    torch.manual_seed(0)
    make, shape = NETS[name]
    model, x = make(), torch.randn(shape)
    inputs = (x, x) if name == "decoder" else (x,)
    pruner = Pruner(model, actprune.activation(0.5, across=across, count_on=how))
    if how == "observe":
        with pruner.observe():
            model(*inputs)
    else:
        pruner.attach(torch.optim.SGD(model.parameters(), lr=0.01))
        model(*inputs)
    report = pruner.prune()
    assert report.actual == pytest.approx(0.5, abs=0.06)  # dead weights go as well, and nets are small
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    if name in TREATED:
        assert report.notes == (TREATED[name],)
        assert TREATED[name] in str(report)
    restored = Pruner(model, actprune.activation(0.5, across=across, count_on=how))
    restored.load_state_dict(pruner.state_dict())


@pytest.mark.parametrize("net", [Glu, GluSwapped])
@pytest.mark.parametrize("act", [F.silu, F.gelu, F.relu])
def test_the_loudest_neuron_of_a_glu_goes_last(net, act):
    """Its gate is often closed before the product; what the next layer reads is loud."""
    torch.manual_seed(0)
    model = net(act)
    with torch.no_grad():
        model.gate.weight.fill_(0.1)
        model.gate.bias.copy_(torch.linspace(0.5, 1.2, 8))  # the gate of neuron 0 opens least
        model.up.weight.fill_(0.1)
        model.up.bias.copy_(
            torch.tensor([80.0, 30.0, 20.0, 10.0, 5.0, 4.0, 2.0, 1.0])
        )  # and its value is by far the largest
    recipe = actprune.activation(
        0.5, score="neuron", count="mean_abs" if act is F.relu else "nonzero", remove_dead=False
    )
    pruner = Pruner(model, recipe, skip=["down"])
    with pruner.observe():
        model(0.1 * torch.randn(32, 6))
    sums = pruner.state.sums
    expected = (act(model.gate.bias) * model.up.bias).abs()
    for name in ("gate.weight", "up.weight"):
        assert int(sums[name]["out_abs"].argmax()) == 0 == int(expected.argmax())
    pruner.prune()
    for name in ("gate.weight", "up.weight"):
        alive = pruner.masks[name].any(1)
        assert alive[0]
        assert not alive[-1]


@pytest.mark.parametrize(
    "halves",
    [lambda x: x.chunk(2, -1), lambda x: x.split(8, -1), lambda x: (x[..., :8], x[..., 8:])],
    ids=["chunk", "split", "slices"],
)
@pytest.mark.parametrize("how", ["observe", "train"])
def test_both_halves_of_a_packed_glu_are_judged_by_their_product(halves, how):
    torch.manual_seed(0)
    model, x = Packed(halves), torch.randn(3, 5, 6)
    pruner = Pruner(model, actprune.activation(0.5, count_on=how))
    if how == "train":
        pruner.attach(torch.optim.SGD(model.parameters(), 0.0))
        for part in x:
            model(part)
        pruner.state_dict()
    else:
        with pruner.observe():
            for part in x:
                model(part)
    gate, up = model.both(x).chunk(2, -1)
    product = (F.silu(gate) * up).detach().double().abs().sum((0, 1))
    sums = pruner.state.sums["both.weight"]
    assert torch.allclose(sums["out_abs"], torch.cat([product, product]), rtol=1e-6)
    assert int(sums["rows"]) == 15


def test_halves_are_counted_where_their_product_is_exactly_zero():
    model = nn.Sequential(nn.Linear(2, 4), ReluHalves(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([1.0, -1.0, 3.0, 3.0]))
    pruner = Pruner(model, actprune.activation(0.5))
    with pruner.observe():
        model(torch.randn(5, 2))
    assert pruner.state.sums["0.weight"]["fired"].tolist() == [5, 0, 5, 0]


@pytest.mark.parametrize("outliers", [0.0, 100.0])
def test_a_residual_stream_does_not_judge_the_projections_into_it(outliers):
    """Huge entries of the stream used to make a projection's neurons there the only ones that counted."""
    torch.manual_seed(0)
    model = LlamaBlock()
    x = torch.randn(16, 6)
    x[:, 0] += outliers
    pruner = Pruner(model, actprune.activation(0.5, scope="layer", remove_dead=False))
    with pruner.observe():
        model(x)
    pruner.prune()
    for name in ("o.weight", "down.weight"):
        smallest = pruner.parameters[name].numel() // 2
        kept = pruner.masks[name]
        assert int((~kept).sum()) == smallest
        dense = reference(LlamaBlock).get_parameter(name).detach().abs()
        assert dense[~kept].max() <= dense[kept].min()


def reference(make):
    torch.manual_seed(0)
    return make()


def test_mean_activation_is_summed_where_the_next_layer_reads_it():
    model, x = Glu(), torch.randn(16, 6)
    pruner = Pruner(model, actprune.activation(0.5))
    with pruner.observe():
        model(x[:8])
        model(x[8:])
    product = (F.silu(model.gate(x)) * model.up(x)).detach().double().abs().sum(0)
    for name in ("gate.weight", "up.weight"):
        assert torch.allclose(pruner.state.sums[name]["out_abs"], product, rtol=1e-6)
        assert int(pruner.state.sums[name]["rows"]) == 16
    assert "down.weight" not in pruner.state.sums  # always firing: nothing to count


def test_smooth_counted_and_linear_layers_compete_alike():
    """Equal weights and equal shares of activity: every layer loses about the same fraction of its weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.GELU(),
        nn.Linear(64, 64),
        nn.Linear(64, 64),
        nn.Linear(64, 4),
    )
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.randn_like(layer.weight))
    pruner = Pruner(model, actprune.activation(0.5))
    with pruner.observe():
        model(torch.randn(256, 16))
    kept = {layer.name: layer.kept / layer.total for layer in pruner.prune().layers}
    assert all(0.3 < share < 0.7 for share in kept.values()), kept


def test_a_threshold_counts_large_activations_of_either_sign():
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Tanh(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [-2.0], [0.1]]))
    pruner = Pruner(model, actprune.activation(0.3, fires_above=0.5))
    with pruner.observe():
        model(torch.tensor([[1.0], [1.0], [-1.0], [0.01]]))
    assert pruner.state.sums["0.weight"]["fired"].tolist() == [3, 3, 0]
    with pytest.raises(RecipeError, match="at least 0"):
        actprune.activation(0.5, fires_above=-0.1).criterion.needs  # noqa: B018


@pytest.mark.parametrize("recipe", [actprune.methods.activation_literal(0.5), actprune.activation(0.5, count="zero"),
                                    actprune.methods.apoz(0.5)])  # fmt: skip
def test_what_counts_zeros_still_refuses_layers_that_have_none(recipe):
    model = NETS["gelu"][0]()
    pruner = Pruner(model, recipe)
    with pytest.raises(ObservationError, match="never exactly zero"), pruner.observe():
        model(torch.randn(4, 6))


def test_unknown_words_are_refused():
    with pytest.raises(RecipeError, match="'mean_abs', 'refuse'"):
        Counter(smooth="mean")
