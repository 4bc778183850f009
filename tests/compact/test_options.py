"""Options of compaction, what it leaves alone, and what goes along: optimizers, pruning states, hooks."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.compact import compact, compaction
from actprune.compact.compaction import _single
from actprune.methods import magnitude, wanda
from actprune.program import Program
from actprune.pruner.pruner import Pruner
from support.compaction import assert_same, dead_rows, gap, masked_copy, random_masks, shapes, size
from support.nets import NETS, Net, mlp

SMALL = Net(lambda: mlp(12, 20, 16, 4), ((12,),))


def frozen(model):
    return {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}


def test_the_model_is_not_touched():
    model = NETS["resnet-20"].make().train()
    model.bn.eval()
    model.note, calls = "mine", []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    model.conv.weight.requires_grad_(False)
    before, flags = frozen(model), [module.training for module in model.modules()]
    masks = random_masks(model, 0.5, "rows")
    small = compact(model, masks, example=NETS["resnet-20"].inputs())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert flags == [module.training for module in model.modules()] == [module.training for module in small.modules()]
    assert (small.note, type(small)) == ("mine", type(model))
    assert not small.conv.weight.requires_grad
    assert small.fc.weight.requires_grad
    assert not hasattr(model, "actprune_example")
    calls.clear()
    small(*NETS["resnet-20"].inputs())
    assert calls == [1]


def test_inplace_changes_the_model_itself_and_carries_the_optimizer():
    model = SMALL.make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks = dead_rows(model, {"fc1.weight": range(8)})
    masked = masked_copy(model, masks)
    small = compact(model, masks, example=SMALL.inputs(), inplace=True, optimizer=optimizer)
    assert small is model
    assert shapes(model)["fc1.weight"] == (12, 12)
    assert_same(masked, model, SMALL)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("form", ["module", "graph"])
def test_compacting_again_changes_nothing(form):
    for name in ("article", "lenet-5", "mobilenet", "transformer"):
        model = NETS[name].make()
        masks = random_masks(model, 0.95, "weights" if name == "article" else "rows")
        small = compact(model, masks, example=NETS[name].inputs(), form=form)
        again = compact(small, form=form)
        if name == "transformer":  # of an attention that is left with one head, single dimensions can go then
            small, again = again, compact(again, form=form)
        assert shapes(again) == shapes(small)
        assert gap(small, again, NETS[name].inputs()) == 0


def test_a_program_can_be_compacted():
    model = SMALL.make()
    whole = compact(model, example=SMALL.inputs(), form="graph")
    masks = dead_rows(model, {"fc1.weight": range(8)})
    masks["fc1.weight"][:, 3] = False
    small = compact(whole, masks)
    assert isinstance(small, Program)
    assert_same(masked_copy(model, masks), small, SMALL)
    rebuilt = Program.build(json.loads(json.dumps(small.structure())), small.tensors())
    assert_same(small, rebuilt, SMALL)


@pytest.mark.parametrize(("multiple", "widths"), [(1, (13, 3)), (4, (16, 4)), (8, (16, 8)), (64, (20, 16))])
def test_widths_are_rounded_up(multiple, widths):
    model = SMALL.make()
    masks = dead_rows(model, {"fc1.weight": range(7), "fc2.weight": range(13)})
    result = compaction(model, masks, example=SMALL.inputs(), round_to=multiple)
    assert_same(masked_copy(model, masks), result.model, SMALL)
    assert (len(result.model.fc1.weight), len(result.model.fc2.weight)) == widths
    if multiple > 1:
        assert "because widths are rounded up" in str(result.report)


def trained(model, optimizer, masks, steps, data):
    """Losses of ``steps`` steps, the masked weights held at zero."""
    losses = []
    for inputs, targets in data[:steps]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(name).mul_(mask)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_training_goes_on_as_if_nothing_had_happened(kind, form):
    model = SMALL.make().train()
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(32, 12, generator=generator), torch.randint(4, (32,), generator=generator)) for _ in range(12)]
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "lr": 0.05}, {"params": model.fc1.bias}]
    groups.append({"params": [model.fc2.bias, model.fc3.bias]})
    options = {"lr": 0.01, "weight_decay": 0.01}
    optimizer = (
        torch.optim.SGD(groups, momentum=0.9, **options) if kind == "sgd" else torch.optim.AdamW(groups, **options)
    )
    masks = random_masks(model, 0.6, "weights")
    dead = dead_rows(model, {"fc1.weight": range(9), "fc2.weight": [0, 5]})
    masks |= {name: masks[name] & mask for name, mask in dead.items()}
    with (
        torch.no_grad()
    ):  # neurons that send nothing, in both networks: their biases would go on training in the big one
        model.fc1.bias[:9] = -10
        model.fc2.bias[[0, 5]] = -10
    trained(model, optimizer, masks, 3, data)
    result_optimizer = copy.deepcopy(optimizer.state_dict())
    small_model = copy.deepcopy(model)
    names = [["fc1.weight", "fc2.weight", "fc3.weight"], ["fc1.bias"], ["fc2.bias", "fc3.bias"]]
    small_optimizer = type(optimizer)(
        [{"params": [small_model.get_parameter(name) for name in group]} for group in names], lr=0.1
    )
    small_optimizer.load_state_dict(result_optimizer)
    result = compaction(small_model, masks, example=(data[0][0],), form=form, optimizer=small_optimizer)
    assert size(result.model) < size(model)
    small_masks = {name: result.model.get_parameter(name).detach() != 0 for name in masks}
    big = trained(model, optimizer, masks, 9, data[3:])
    small = trained(result.model.train(), small_optimizer, small_masks, 9, data[3:])
    assert small == pytest.approx(big, abs=1e-4)
    assert big[0] != pytest.approx(big[-1], abs=1e-3)


def test_a_made_bias_is_trained_with_its_weight():
    model = Net(lambda: mlp(6, 5, 3, bias=False), ((6,),)).make()
    model.fc1 = nn.Linear(6, 5)
    with torch.no_grad():
        model.fc1.weight[0], model.fc1.bias[0] = 0, 1
    optimizer = torch.optim.SGD(
        [{"params": model.fc1.parameters()}, {"params": model.fc2.parameters(), "lr": 0.5}], 0.1
    )
    small = compact(model, example=torch.randn(3, 6), optimizer=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert optimizer.param_groups[1]["params"][1] is small.fc2.bias


def test_unused_parameters_leave_the_optimizer_of_a_graph():
    model = SMALL.make()
    model.fc1.spare = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    small = compact(model, example=SMALL.inputs(), form="graph", optimizer=optimizer)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in small.parameters()}


def batches():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(16, 12, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("method", [magnitude, wanda])
def test_the_pruner_goes_on_with_the_small_model(form, method):
    model = Net(lambda: mlp(12, 16, 16, 4), ((12,),)).make()
    pruner = Pruner(model, method(0.5))
    with pruner.observe():
        for batch in batches():
            model(batch)
    pruner.prune(0.5)
    with torch.no_grad():
        for name in ("fc1.weight", "fc2.weight"):
            pruner.masks[name][:6] = False
        pruner.masks["fc1.weight"][:, 2] = False
    pruner.enforce()
    result = compaction(model, pruner.state, form=form)
    assert size(result.model) < size(model)
    again = Pruner(result.model, method(0.7))
    again.load_state_dict(result.state.state_dict())
    assert {name: tuple(mask.shape) for name, mask in again.masks.items()} == {
        name: shape for name, shape in shapes(result.model).items() if name.endswith("weight")
    }
    optimizer = torch.optim.SGD(result.model.parameters(), 0.1)
    again.attach(optimizer)
    result.model(batches()[0]).square().sum().backward()
    optimizer.step()
    for name, mask in again.masks.items():
        assert torch.count_nonzero(result.model.get_parameter(name)[~mask]) == 0
    with again.observe():
        for batch in batches():
            result.model(batch)
    again.prune(0.7)
    assert again.sparsity == pytest.approx(0.7, abs=0.01)
    assert torch.count_nonzero(result.model.fc2.weight[~again.masks["fc2.weight"]]) == 0


def test_sums_are_cut_by_what_they_count():
    """In a square layer, input statistics and output statistics are equally long."""
    model = Net(lambda: mlp(12, 8, 8, 4), ((12,),)).make()
    pruner = Pruner(model, wanda(0.5))
    with pruner.observe():
        for batch in batches():
            model(batch)
    masks = dead_rows(model, {"fc1.weight": [0, 1], "fc2.weight": [6, 7, 5]})
    pruner.state.masks |= masks
    before = pruner.state.sums["fc2.weight"]["in_square"].clone()
    result = compaction(model, pruner.state)
    assert torch.equal(result.state.sums["fc2.weight"]["in_square"], before[2:])
    assert torch.equal(pruner.state.sums["fc2.weight"]["in_square"], before)


def test_the_example_is_remembered_and_keywords_are_taken():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x, *, scale):
            return self.fc2(F.relu(self.fc1(x)) * scale)

    model = Keywords()
    example = ((torch.randn(3, 4),), {"scale": torch.rand(3, 6)})
    masks = dead_rows(model, {"fc1.weight": [1]})
    for form in ("module", "graph"):
        small = compact(model, masks, example=example, form=form)
        (x,), named = small.actprune_example  # how inputs look, not what they hold
        assert (x.shape, x.dtype, named["scale"].shape) == ((2, 4), torch.float32, (2, 6))
        assert not x.any()
        masked = masked_copy(model, masks)
        torch.testing.assert_close(small(*example[0], **example[1]), masked(*example[0], **example[1]))


def test_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(F.relu(self.b(torch.tanh(self.a(x.float())))))

    net = Net(Tied, ((8,),))
    model = net.make()
    masks = dead_rows(model, {"a.weight": [1, 2], "c.weight": []})
    for given in (masks, {**masks, "b.weight": masks["a.weight"]}):
        for form in ("module", "graph"):
            small = compact(model, given, example=net.inputs(), form=form)
            assert gap(masked_copy(model, masks), small, net.inputs(5, 7)) < 1e-6
    small = compact(model, masks, example=net.inputs())
    assert small.a.weight is small.b.weight
    assert small.a.weight is not model.a.weight


def test_float16_and_bfloat16_models():
    for dtype in (torch.bfloat16, torch.float16):
        model = SMALL.make().to(dtype)
        masks = dead_rows(model, {"fc1.weight": range(8)})
        small = compact(model, masks, example=SMALL.inputs(dtype=dtype))
        assert {p.dtype for p in small.parameters()} == {dtype}
        assert gap(masked_copy(model, masks), small, SMALL.inputs(dtype=torch.float64)) < 0.03


def test_one_example_is_enough():
    model = SMALL.make()
    small = compact(model, dead_rows(model, {"fc1.weight": [0]}), example=SMALL.inputs(1), form="graph")
    assert small(*SMALL.inputs(6)).shape == (6, 4)


def test_the_report_is_plain_and_readable():
    model = SMALL.make()
    result = compaction(model, dead_rows(model, {"fc1.weight": range(8)}), example=SMALL.inputs())
    assert json.loads(json.dumps(result.report.to_dict()))["layers"][0]["after"] == [12, 12]
    assert "fc1  20 x 12 -> 12 x 12" in str(result.report)
    assert f"parameters {size(model):,} -> {size(result.model):,}" in str(result.report)
    assert result.state is None


def test_float64_is_for_two_steps_of_a_sequence_and_one_example_of_a_batch():
    """A step of an LSTM alone says nothing of the weights that read the step before."""
    pair = ((torch.zeros(2, 3, 4),), {})
    assert _single(nn.Sequential(nn.LSTM(4, 4)), pair) is None
    (one,), _ = _single(nn.Sequential(nn.Linear(4, 4)), pair)
    assert one.shape == (1, 3, 4)
    assert _single(nn.Sequential(nn.Linear(4, 4)), ((torch.zeros(1, 4),), {})) is None
