"""What goes together, by hand: every kind of network that people have, in the small."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.structure import PINNED, Structure, squared


def bundles(model, *args, **kwargs):
    """Groups of every bundle, and how many indices of which axes each holds."""
    found = Structure(model.eval(), args, kwargs).bundles()
    return {
        bundle.name: (len(bundle), {(s.name, s.axis): len(s.index) // len(bundle) for s in bundle.slices})
        for bundle in found
    }


class Of(nn.Module):
    """Layers, and a function of them and the inputs."""

    def __init__(self, run, **layers):
        super().__init__()
        self._run = run
        for name, layer in layers.items():
            self.add_module(name, layer) if isinstance(layer, nn.Module) else self.register_parameter(name, layer)

    def forward(self, *args, **kwargs):
        return self._run(self, *args, **kwargs)


def test_a_chain_with_batchnorm_in_place_operations_and_flatten():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 5), nn.ReLU(inplace=True), nn.Linear(5, 2),
    )  # fmt: skip
    found = bundles(model, torch.randn(2, 3, 4, 4))
    assert found == {
        "0.weight": (4, {("0.weight", 0): 1, ("0.bias", 0): 1, ("1.weight", 0): 1, ("1.bias", 0): 1,
                         ("1.running_mean", 0): 1, ("1.running_var", 0): 1, ("5.weight", 1): 4}),
        "5.weight": (5, {("5.weight", 0): 1, ("5.bias", 0): 1, ("7.weight", 1): 1}),
    }  # fmt: skip


def test_channels_that_meet_in_a_sum_go_together():
    def run(self, x):
        x = self.stem(x)
        return self.head((x + self.b(F.relu(self.a(x)))).mean((2, 3)))

    model = Of(run, stem=nn.Conv2d(3, 6, 1), a=nn.Conv2d(6, 8, 1), b=nn.Conv2d(8, 6, 1), head=nn.Linear(6, 2))
    found = bundles(model, torch.randn(2, 3, 4, 4))
    assert {name: size for name, (size, _) in found.items()} == {"stem.weight": 6, "a.weight": 8}
    assert {("stem.weight", 0), ("b.weight", 0), ("a.weight", 1), ("head.weight", 1)} <= found["stem.weight"][1].keys()


def test_concatenated_channels_stay_apart():
    def run(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3))

    model = Of(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 5, 1), c=nn.Conv2d(9, 2, 1))
    found = bundles(model, torch.randn(2, 3, 4, 4))
    assert {name: size for name, (size, _) in found.items()} == {"a.weight": 4, "b.weight": 5}


def grouped(groups, width, out):
    return nn.Sequential(
        nn.Conv2d(3, groups * width, 1), nn.Conv2d(groups * width, out, 1, groups=groups), nn.Conv2d(out, 2, 1),
        nn.Flatten(),
    )  # fmt: skip


CASES = [  # groups, width, out, and how many units go for the input of the grouped convolution, and for its output
    (4, 1, 4, [4]), (4, 1, 8, [4]), (2, 4, 8, [4, 4]), (4, 2, 8, [2, 2]), (4, 2, 4, [4]), (8, 4, 16, [4, 2])
]  # fmt: skip


@pytest.mark.parametrize(("groups", "width", "out", "units"), CASES)
def test_grouped_convolutions_lose_the_same_channel_of_every_group(groups, width, out, units):
    found = bundles(grouped(groups, width, out), torch.randn(2, 3, 2, 2))
    assert [size for size, _ in found.values()] == units


@pytest.mark.parametrize(("groups", "width", "out"), [(4, 1, 4), (2, 4, 8), (4, 2, 8), (8, 4, 16)])
def test_grouped_convolutions_lose_whole_groups_where_asked(groups, width, out):
    model = grouped(groups, width, out).eval()
    (only,) = Structure(model, (torch.randn(2, 3, 2, 2),), {}, whole_groups=True).bundles()
    assert len(only) == groups


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (1, True)])
def test_hidden_units_of_recurrent_layers_are_coupled_over_gates_time_layers_and_directions(kind, layers, both):
    cell = getattr(nn, kind)(4, 6, layers, batch_first=True, bidirectional=both)
    model = Of(lambda self, x: self.head(self.cell(x)[0][:, -1]), cell=cell, head=nn.Linear(12 if both else 6, 2))
    ((name, (size, held)),) = bundles(model, torch.randn(2, 3, 4)).items()
    assert (name, size) == ("cell.weight_ih_l0", 6)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    assert held["cell.weight_ih_l0", 0] == held["cell.weight_hh_l0", 0] == gates
    assert held["cell.weight_hh_l0", 1] == 1
    assert held["head.weight", 1] == (2 if both else 1)
    assert ("cell.weight_ih_l1", 1) in held if layers == 2 else True


class Attention(nn.Module):
    def __init__(self, heads=4, shared=4, dim=3):
        super().__init__()
        self.sizes = heads, shared, dim
        self.q, self.k = nn.Linear(8, heads * dim), nn.Linear(8, shared * dim)
        self.v, self.o = nn.Linear(8, shared * dim), nn.Linear(heads * dim, 8)

    def forward(self, x):
        (heads, shared, dim), (batch, length, _) = self.sizes, x.shape
        q, k, v = (each(x).view(batch, length, -1, dim).transpose(1, 2) for each in (self.q, self.k, self.v))
        k, v = (each.repeat_interleave(heads // shared, 1) for each in (k, v))
        turn = torch.outer(torch.arange(length), torch.arange(dim)).cos()
        out = F.scaled_dot_product_attention(q * turn, k * turn, v)
        return self.o(out.transpose(1, 2).reshape(batch, length, heads * dim)).mean(1)


@pytest.mark.parametrize("shared", [4, 2, 1])
def test_a_head_is_one_group_with_the_keys_and_values_that_it_shares(shared):
    found = Structure(Attention(shared=shared).eval(), (torch.randn(2, 5, 8),), {}).bundles()
    heads = [bundle for bundle in found if bundle.kind == "head"]
    if shared == 1:
        assert not heads  # all heads or none
        return
    (bundle,) = heads
    assert len(bundle) == shared
    held = {(s.name, s.axis): len(s.index) // len(bundle) for s in bundle.slices}
    assert held["q.weight", 0] == held["o.weight", 1] == 3 * 4 // shared
    assert held["k.weight", 0] == held["v.bias", 0] == 3


def test_packed_attention():
    model = Of(
        lambda self, x: self.head(self.attend(x, x, x)[0].mean(1)),
        attend=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(8, 2),
    )  # fmt: skip
    found = Structure(model.eval(), (torch.randn(2, 5, 8),), {}).bundles()
    heads = [bundle for bundle in found if bundle.kind == "head"]
    assert [len(bundle) for bundle in heads] == [2]
    held = {(s.name, s.axis): len(s.index) // 2 for s in heads[0].slices}
    assert held == {
        ("attend.in_proj_weight", 0): 12, ("attend.in_proj_bias", 0): 12, ("attend.out_proj.weight", 1): 4,
    }  # fmt: skip


def test_gated_pairs_and_fused_experts():
    def gated(self, x):
        a, b = self.up(x).chunk(2, -1)
        return self.down(F.silu(a) * b)

    found = bundles(Of(gated, up=nn.Linear(4, 12), down=nn.Linear(6, 3)), torch.randn(2, 4))
    assert found["up.weight"] == (6, {("up.weight", 0): 2, ("up.bias", 0): 2, ("down.weight", 1): 1})

    def experts(self, x):
        hidden = F.relu(torch.einsum("bd,edh->ebh", x, self.up))
        return torch.einsum("ebh,ehd->bd", hidden, self.down)

    up, down = (nn.Parameter(torch.randn(*shape)) for shape in ((3, 4, 5), (3, 5, 2)))
    found = bundles(Of(experts, up=up, down=down), torch.randn(2, 4))
    assert found == {"up": (5, {("up", 2): 1, ("down", 1): 1})}


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8)])
def test_norms_over_channels_do_not_hold_them(norm):
    channels = isinstance(norm, nn.GroupNorm)

    def run(self, x):
        x = self.a(x)
        return self.b(self.norm(x[..., None])[..., 0] if channels else self.norm(x))

    structure = Structure(Of(run, a=nn.Linear(4, 8), norm=norm, b=nn.Linear(8, 2)).eval(), (torch.randn(2, 4),), {})
    assert [len(bundle) for bundle in structure.bundles()] == [4 if channels else 8]
    (mixing,) = structure.analysis().mixings
    assert mixing.module == "norm"


def test_what_has_no_rule_pins_what_it_touches_and_nothing_else():
    def run(self, x):
        return torch.linalg.svdvals(self.b(F.relu(self.a(x)))), self.d(F.relu(self.c(x)))

    model = Of(run, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(4, 7), d=nn.Linear(7, 2))
    structure = Structure(model.eval(), (torch.randn(3, 4),), {})
    assert {bundle.name: len(bundle) for bundle in structure.bundles()} == {"a.weight": 6, "c.weight": 7}
    found = structure.analysis()
    assert found.unknown == {"_linalg_svd": [""]}
    labels = found.axes["b.weight"][0]
    assert bool((squared(found).roots[labels] == PINNED).all())
    assert any("_linalg_svd in the model has no rule" in why for why in found.classes.reasons(labels))


@pytest.mark.parametrize(
    "returned",
    [lambda y: {"a": [y]}, lambda y: (y, None, 3), lambda y: torch.distributions.Normal(y, 1.0)],
)
def test_inputs_and_outputs_are_any_tree(returned):
    model = Of(
        lambda self, batch: returned(self.b(F.relu(self.a(batch["x"][0])))), a=nn.Linear(4, 6), b=nn.Linear(6, 3)
    )
    found = bundles(model, {"x": (torch.randn(2, 4), None), "n": 3})
    assert {name: size for name, (size, _) in found.items()} == {"a.weight": 6}


def test_axis_0_need_not_be_the_batch():
    def run(self, x, edges):
        hidden = F.relu(self.a(x))
        spread = torch.zeros_like(hidden).index_add(0, edges[1], hidden[edges[0]])
        wide = torch.zeros_like(hidden).scatter_add(0, edges[1][:, None].expand(-1, hidden.shape[1]), hidden[edges[0]])
        return self.b(torch.max(spread + wide, 0)[0])

    model = Of(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    found = bundles(model, torch.randn(9, 4), torch.randint(0, 9, (2, 20)))
    assert {name: size for name, (size, _) in found.items()} == {"a.weight": 6}


def test_recording_leaves_no_trace():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 2)).train()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    model.register_buffer("count", torch.zeros(()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    Structure(model, (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),), {})
    assert not seen
    assert model.training
    assert model[2].training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not [name for name in vars(model[0].weight) if "actprune" in name]


def test_a_buffer_that_the_forward_counts_in_is_put_back():
    def run(self, x):
        self.seen.add_(1)
        return self.a(x)

    model = Of(run, a=nn.Linear(4, 2))
    model.register_buffer("seen", torch.zeros(()))
    Structure(model.eval(), (torch.randn(2, 4),), {})
    assert float(model.seen) == 0


def test_a_large_table_costs_no_more_than_a_small_one():
    """Labels are per row and column, never per element."""
    model = nn.Sequential(nn.Embedding(50_000, 8), nn.Linear(8, 2))
    found = Structure(model.eval(), (torch.tensor([[1, 2]]),), {}).analysis()
    assert sum(len(labels) for axes in found.axes.values() for labels in axes if labels is not None) < 51_000
