"""Figures of the whole network: every parameter and FLOP counted by other means, and found in every place alike."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import actprune
from actprune import Budget, Pruner, methods
from actprune.errors import ModelError


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(64, 16), nn.Linear(16, 64)

    def forward(self, x):
        return self.decode(torch.relu(self.encode(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(40, 12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.down(torch.relu(self.up(self.embed(x)))))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.cell = kind(10, 12, batch_first=True)
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        return self.last(self.cell(torch.relu(self.first(x)))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(torch.relu(self.out(mixed)).mean(1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last((x + self.norm(self.point(self.depthwise(x)))).mean((2, 3)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.last = nn.Linear(7, 7), nn.Linear(7, 2)

    def forward(self, x):
        return self.last(torch.relu(self.inside(torch.relu(self.inside(x)))))


def transposed():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 36, 3),
    )  # fmt: skip


def volumes():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 27, 20), nn.ReLU(), nn.Linear(20, 3)
    )


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)), torch.randn(4, 30)),
    "autoencoder": (Autoencoder, torch.randn(4, 64)),
    "tied": (Tied, torch.randint(0, 40, (4, 7))),
    "lstm": (lambda: Recurrent(nn.LSTM), torch.randn(4, 5, 6)),
    "gru": (lambda: Recurrent(nn.GRU), torch.randn(4, 5, 6)),
    "attention": (Attention, torch.randn(4, 9, 16)),
    "residual": (Residual, torch.randn(4, 3, 12, 12)),
    "transposed": (transposed, torch.randn(4, 1, 8, 8)),
    "conv3d": (volumes, torch.randn(4, 1, 5, 5, 5)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)),
               torch.randn(4, 2, 8)),
    "twice": (Twice, torch.randn(4, 7)),
    "tokens": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), torch.randn(4, 5, 8)),
}  # fmt: skip


def counted_flop(model, x):
    """Of one example, by PyTorch's counter, recurrent layers as matrix products."""
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.eval()(x)
    finally:
        torch._C._set_mkldnn_enabled(True)
    return counter.get_total_flops() // len(x)


def outputs_of_layers(model, x):
    """Output positions of one example by layer, from hooks."""
    found = {}

    def look(name):
        return lambda module, _, out: found.update(
            {name: found.get(name, 0) + out.numel() // module.weight.shape[0] // len(x)}
        )

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    handles = [m.register_forward_hook(look(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", [methods.magnitude(0.5), actprune.activation(0.5)])
def test_every_parameter_and_flop_is_in_the_report(name, method):
    torch.manual_seed(0)
    make, x = NETS[name]
    model = make()
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    biases = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    dense, positions = counted_flop(model, x), outputs_of_layers(model, x)
    pruner = Pruner(model, method)
    with pruner.observe():
        model(x)
    report = pruner.prune()
    removed = {path: int((model.get_submodule(path).weight == 0).sum()) for path in positions}
    gone = sum(removed.values())
    left = dense - sum(2 * count * positions[path] for path, count in removed.items())

    network = report.network
    assert (network.weights, network.kept, network.biases) == (weights, weights - gone, biases)
    assert (network.flop, network.flop_kept) == (dense, left)
    assert report.sparsity == pruner.sparsity == pytest.approx(gone / weights)
    assert report.compression == pytest.approx(weights / (weights - gone))
    assert report.flop_kept == pytest.approx(left / dense)
    assert network.prunable == sum(layer.total for layer in report.layers)
    assert report.actual == pytest.approx(1 - network.prunable_kept / network.prunable)
    plain = json.loads(json.dumps(report.to_dict()))
    assert (plain["network"]["weights"], plain["network"]["flop_left"]) == (weights, left)
    assert f"weights {weights:,} -> {weights - gone:,}" in str(report)
    assert f"FLOP {dense:,} -> {left:,} ({left / dense:.2%} kept)" in str(report)
    pruned = {layer.name for layer in report.layers}
    alone = {part.name: part.why for part in network.left_alone}
    assert pruned | set(alone) == {part.name for part in network.parts}
    assert all(alone.values())


def test_an_autoencoder_that_keeps_half_of_its_weights_says_so():
    model = Autoencoder()
    pruner = Pruner(model, methods.magnitude(0.9, skip_output=True), example=torch.randn(2, 64))
    report = pruner.prune()
    assert report.actual == pytest.approx(0.9, abs=1e-3)
    assert report.sparsity == pytest.approx(0.45, abs=1e-3)
    assert report.compression == pytest.approx(1.82, abs=0.01)
    assert report.flop_kept == pytest.approx(0.55, abs=1e-3)
    assert "50.00% of the weights could be pruned" in str(report)
    assert "decode.weight  64x16  50.00% of the weights: an output layer" in str(report)


def test_what_is_left_alone_is_named_with_its_share_and_reason():
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "tied": Tied(), "cell": Recurrent(nn.LSTM), "mix": nn.MultiheadAttention(8, 2), "volume": nn.Conv3d(1, 2, 3),
        "up": nn.ConvTranspose1d(2, 3, 3), "skip": nn.Linear(5, 5), "cold": nn.Linear(4, 4),
    })  # fmt: skip
    model["cold"].requires_grad_(False)
    model["mix"].bare = nn.Parameter(torch.randn(3, 3))
    pruner = Pruner(model, methods.magnitude(0.5), skip=["skip"])
    why = {part.name: part.why for part in pruner.account().left_alone}
    assert why == {
        "tied.head.weight": "tied to tied.embed.weight of Embedding; include_tied=True prunes both",
        "cell.cell.weight_ih_l0": "LSTM is of no kind that is pruned",
        "cell.cell.weight_hh_l0": "LSTM is of no kind that is pruned",
        "mix.in_proj_weight": "MultiheadAttention is of no kind that is pruned",
        "mix.bare": "MultiheadAttention is of no kind that is pruned",
        "volume.weight": "Conv3d is of no kind that is pruned",
        "up.weight": "ConvTranspose1d is of no kind that is pruned",
        "skip.weight": "skipped",
        "cold.weight": "frozen; include_frozen=True prunes it",
    }
    alone = [part.total for part in pruner.account().left_alone]
    assert alone == sorted(alone, reverse=True)
    assert "and 4 more tensors with" in str(pruner.account())


def test_a_head_tied_to_an_embedding_is_pruned_only_when_asked_for():
    x = torch.randint(0, 40, (4, 7))
    model = Tied()
    whole = model.embed.weight.detach().clone()
    Pruner(model, methods.magnitude(0.5), example=x).prune()
    assert torch.equal(model.embed.weight, whole)
    pruner = Pruner(model, methods.magnitude(0.5), example=x, include_tied=True)
    assert "head.weight" in {layer.name for layer in pruner.prune().layers}
    assert torch.equal(model.embed.weight == 0, ~pruner.masks["head.weight"])
    with pytest.raises(ModelError, match=r"head \(tied to embed.weight of Embedding; include_tied=True"):
        Pruner(nn.ModuleDict({"embed": model.embed, "head": model.head}), methods.magnitude(0.5))


@pytest.mark.parametrize("name", NETS)
def test_a_budget_of_all_counts_the_whole_network(name):
    torch.manual_seed(0)
    make, x = NETS[name]
    model = make()
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    recipe = actprune.Ranked(
        name="of all", criterion=actprune.criteria.Magnitude(), budget=Budget.sparsity(0.05, of="all"),
        schedule=actprune.schedules.OneShot(),
    )  # fmt: skip
    report = Pruner(model, recipe, example=x).prune()
    gone = sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)
    assert gone == round(0.05 * weights)
    assert report.actual == report.sparsity == pytest.approx(gone / weights)


@pytest.mark.parametrize("name", ["attention", "residual", "transposed"])
def test_a_flop_budget_of_all_counts_every_matrix_product(name):
    torch.manual_seed(0)
    make, x = NETS[name]
    recipe = actprune.Ranked(
        name="of all", criterion=actprune.criteria.Magnitude(), budget=Budget.flop(0.9, of="all"),
        schedule=actprune.schedules.OneShot(),
    )  # fmt: skip
    report = Pruner(make(), recipe, example=x).prune()
    assert report.flop_kept == pytest.approx(1 - report.actual) == pytest.approx(0.9, abs=0.02)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_layer_without_weights_is_left_alone(shape):
    model = nn.ModuleDict({"empty": nn.Linear(shape[1], shape[0]), "full": nn.Linear(4, 4)})
    report = Pruner(model, methods.magnitude(0.5)).prune()
    assert [layer.name for layer in report.layers] == ["full.weight"]
    assert {part.name: part.why for part in report.network.left_alone} == {"empty.weight": "it has no weights"}


def test_flop_are_unknown_rather_than_guessed():
    report = Pruner(nn.Sequential(nn.Conv2d(1, 2, 3)), methods.magnitude(0.5)).prune()
    assert report.flop_kept is None
    assert "FLOP unknown (no forward pass was seen" in str(report)


@pytest.mark.parametrize("kind", ["looks", "collects", "scales", "reshapes"])
def test_counting_flop_shows_the_users_hooks_nothing(kind):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    seen = []
    hooks = {
        "looks": lambda m, i, o: float(o.mean().detach()) and None,
        "collects": lambda m, i, o: seen.append(o),
        "scales": lambda m, i, o: seen.append(o) or 2 * o,
        "reshapes": lambda m, i, o: o[..., :8],
    }
    model[2].register_forward_hook(hooks[kind])
    pruner = Pruner(model, methods.magnitude(0.5))
    with pruner.observe():
        model(torch.randn(4, 6))
    before = len(seen)
    assert pruner.prune().network.flop == 2 * (48 + 64 + 24)
    assert len(seen) == before
    assert len(model[2]._forward_hooks) == 1
