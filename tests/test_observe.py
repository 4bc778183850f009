"""The Observer: exact counts at the right place, the model left as it was, and errors instead of silence."""

import contextlib
import copy
import io
import itertools
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune.engine.observe import Observer
from actprune.errors import ObservationError, RecipeError
from actprune.graph import prunable_layers
from actprune.stats import Firing, InputMoments, MeanAbs, OutputMoments


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


# ---- what is counted, and where ----


def test_a_hand_computed_net():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    watch = observer(model)
    with watch.observing():
        model(torch.tensor([[1.0, 1.0], [2.0, 0.0], [-1.0, -3.0]]))
        model(torch.tensor([[5.0, -1.0]]))
    assert fired(watch, "0.weight") == ([3, 2], 4)
    assert watch.sums["0.weight"]["fired"].dtype == torch.int64
    assert watch.positions == {"0.weight": 1, "2.weight": 1}
    assert watch.graph.outputs == ("2.weight",)
    assert "2.weight" not in watch.sums  # an output neuron always fires


@pytest.mark.parametrize("function", [F.relu, torch.relu, lambda x: x.relu_(), lambda x: F.relu(x, inplace=True)])
def test_modules_and_functions_count_the_same(function):
    source, batches = mlp(), [torch.randn(n, 4) for n in (7, 3, 5)]
    functional = Functional(source, function)
    one, two = observer(source), observer(functional)
    for watch, model in ((one, source), (two, functional)):
        with watch.observing():
            for batch in batches:
                model(batch)
    assert fired(one, "0.weight") == fired(two, "a.weight")
    assert fired(one, "2.weight") == fired(two, "b.weight")
    hidden = source[:2](torch.cat(batches))
    assert fired(one, "0.weight") == ((hidden != 0).sum(0).tolist(), 15)


@pytest.mark.parametrize("inplace", [False, True])
def test_conv_bn_relu_pool_is_counted_after_relu_and_before_pool(inplace):
    model = ConvNet(inplace)
    watch = observer(model, Firing(), MeanAbs(), OutputMoments(), InputMoments())
    images = torch.randn(6, 1, 6, 6)
    with watch.observing():
        model(images[:4])
        model(images[4:])
    model.eval()
    seen = F.relu(model.bn(model.conv(images))).detach()
    assert fired(watch, "conv.weight") == ((seen != 0).sum((0, 2, 3)).tolist(), 6 * 16)
    sums = watch.sums["conv.weight"]
    assert torch.allclose(sums["out_abs"], seen.double().sum((0, 2, 3)))
    assert torch.allclose(sums["out_square"], seen.double().square().sum((0, 2, 3)))
    assert torch.allclose(sums["in_square"], images.double().square().sum().reshape(1))
    assert sums["in_rows"].item() == 6 * 36
    pooled = F.max_pool2d(seen, 2).flatten(1).double()
    assert torch.allclose(watch.sums["fc.weight"]["in_sum"], pooled.sum(0))
    assert watch.positions == {"conv.weight": 16, "fc.weight": 1}


def test_inputs_are_seen_as_they_were_before_in_place_operations():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            out = self.a(x)
            x.mul_(100)
            return self.b(F.relu(out))

    model, x = Net(), torch.randn(4, 3)
    watch = observer(model, InputMoments())
    expected = x.double().sum(0)
    with watch.observing():
        model(x.clone())
        model(x.clone())
    assert torch.allclose(watch.sums["a.weight"]["in_sum"], 2 * expected)


def test_a_residual_block_is_counted_after_the_sum():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out, self.relu = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 2),
                nn.ReLU(inplace=True),
            )

        def forward(self, x):
            h = self.b(self.relu(self.a(x)))
            h += x
            return self.out(self.relu(h))

    model, x = Block(), torch.randn(9, 4)
    watch = observer(model)
    with watch.observing():
        model(x[:5])
        model(x[5:])
    first = F.relu(model.a(x))
    assert fired(watch, "a.weight") == ((first != 0).sum(0).tolist(), 9)
    assert fired(watch, "b.weight") == ((F.relu(model.b(first) + x) != 0).sum(0).tolist(), 9)


def test_token_axes_and_unbatched_convs():
    model = mlp()
    watch = observer(model)
    tokens = torch.randn(2, 3, 7, 4)
    with watch.observing():
        model(tokens)
    assert fired(watch, "0.weight") == ((model[:2](tokens) != 0).sum((0, 1, 2)).tolist(), 42)
    assert watch.positions["0.weight"] == 21
    conv = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Conv1d(3, 1, 1))
    watch, signal = observer(conv), torch.randn(2, 9)
    with watch.observing():
        conv(signal)
        conv(signal)
    assert fired(watch, "0.weight") == ((2 * (conv[:2](signal) != 0).sum(1)).tolist(), 16)
    assert watch.positions["0.weight"] == 8
    assert watch.probe is None or watch.probe[0][0].shape == (2, 9)


def test_flattened_tokens_still_have_their_positions():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(F.relu(self.a(x.reshape(-1, 4))))

    model = Flat()
    watch = observer(model)
    with watch.observing():
        model(torch.randn(5, 6, 4))
    assert watch.positions == {"a.weight": 6, "b.weight": 6}


def test_shared_modules_and_tied_weights_count_every_call():
    layer = nn.Linear(4, 4)
    twice = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    tied[0].weight, tied[2].weight = layer.weight, layer.weight
    tied[0].bias, tied[2].bias = layer.bias, layer.bias
    x = torch.randn(6, 4)
    first = F.relu(layer(x))
    expected = ((first != 0).sum(0) + (F.relu(layer(first)) != 0).sum(0)).tolist()
    for model in (twice, tied):
        watch = observer(model)
        with watch.observing():
            model(x[:2])
            model(x[2:])
        assert fired(watch, "0.weight") == (expected, 12)


def test_a_transformer_layer_does_not_slip_past_the_hooks():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    watch = observer(layer, skip=["self_attn.*", "linear2"])
    with watch.observing():
        for _ in range(2):
            layer(torch.randn(3, 5, 8))
    assert watch.sums["linear1.weight"]["rows"].item() == 30
    assert 0 < watch.sums["linear1.weight"]["fired"].sum() < 30 * 16


def test_models_that_take_different_paths():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(F.relu(self.a(x) if x[0, 0] > 0 else self.b(x)))

    model = Routed()
    plus, minus = torch.rand(4, 4), -torch.rand(3, 4)
    watch = observer(model)
    with watch.observing():
        model(plus)
        model(minus)
    assert fired(watch, "a.weight") == ((F.relu(model.a(plus)) != 0).sum(0).tolist(), 4)
    assert fired(watch, "b.weight") == ((F.relu(model.b(minus)) != 0).sum(0).tolist(), 3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=4), st.integers(0, 1000), st.booleans())
def test_splitting_batches_does_not_change_the_counts(cuts, seed, functional):
    model = Functional(mlp()) if functional else mlp()
    first = "a.weight" if functional else "0.weight"
    data = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
    bounds = sorted({0, 12, *cuts})
    whole, parts, blocks = observer(model), observer(model), observer(model)
    with whole.observing():
        model(data)
    with parts.observing():
        for start, stop in itertools.pairwise(bounds):
            model(data[start:stop])
    for start, stop in itertools.pairwise(bounds):
        with blocks.observing():
            model(data[start:stop])
    assert fired(whole, first) == fired(parts, first) == fired(blocks, first)


# ---- nothing is disturbed ----


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2))
    model.train()
    model[1].eval()
    model(torch.randn(3, 4)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    watch = observer(model)
    with watch.observing():
        for _ in range(3):
            out = model(torch.randn(6, 4))
            assert not out.requires_grad
            assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(old, p.grad) for old, p in zip(grads, model.parameters(), strict=True) if old is not None)
    assert hooks_on(model) == 0
    assert torch.is_grad_enabled()
    assert torch._C._len_torch_function_stack() == 0
    copied = copy.deepcopy(model)
    torch.save(copied, io.BytesIO())
    x = torch.randn(2, 4)
    assert torch.equal(copied.eval()(x), model.eval()(x))


def test_gradients_when_wanted():
    model = mlp()
    watch = observer(model)
    with watch.observing(gradients=True):
        model(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert watch.sums["0.weight"]["rows"].item() == 3
    assert not watch.sums["0.weight"]["fired"].requires_grad


def test_inference_mode_inside_the_block():
    model = Functional(mlp())
    watch = observer(model, Firing(), MeanAbs())
    for _ in range(2):
        with watch.observing(), torch.inference_mode():
            model(torch.randn(3, 4))
            model(torch.randn(3, 4))
    assert watch.sums["a.weight"]["rows"].item() == 12
    assert not watch.sums["a.weight"]["out_abs"].is_inference()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_autocast(dtype):
    model, x = mlp(), torch.randn(300, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        model = model.to(torch.float32 if dtype is torch.bfloat16 else dtype)
        watch = observer(model)
        x = x.to(model[0].weight.dtype)
        with watch.observing():
            model(x)
            model(x)
        assert fired(watch, "0.weight") == ((2 * (model[:2](x) != 0).sum(0)).tolist(), 600)


@pytest.mark.parametrize("when", ["before", "after", "inside"])
def test_compiled_models(when):
    model, x = mlp(), torch.randn(6, 4)
    compiled = torch.compile(model, backend="eager")
    given_model = compiled if when == "before" else model
    if when == "before":
        compiled(x)  # compiled and run before there are hooks
    watch = observer(given_model)
    if when == "after":
        compiled = torch.compile(model, backend="eager")
        compiled(x)
    with watch.observing():
        (model if when == "inside" else compiled)(x)
        compiled(x)
    assert fired(watch, "0.weight") == ((2 * (model[:2](x) != 0).sum(0)).tolist(), 12)
    assert compiled(x).shape == (6, 2)


def test_models_compiled_in_parts():
    model, x = mlp(), torch.randn(6, 4)
    expected = ((2 * (model[:2](x) != 0).sum(0)).tolist(), 12)
    model[0] = torch.compile(model[0], backend="eager")
    model[1].compile(backend="eager")
    model(x)
    watch = observer(model)
    with watch.observing():
        model(x)
        model(x)
    assert fired(watch, "0.weight") == expected


# ---- errors instead of silence ----


def test_no_batch_is_an_error():
    model = mlp()
    watch = observer(model)
    with pytest.raises(ObservationError, match="loader was empty"), watch.observing():
        pass
    with pytest.raises(ObservationError, match="a part of it"), watch.observing():
        model[:2](torch.randn(2, 4))
    assert watch.sums == {}
    assert hooks_on(model) == 0


def test_an_empty_batch_is_an_error():
    model = mlp()
    watch = observer(model)
    with pytest.raises(ObservationError, match="0 examples"):
        observe(watch, model, torch.randn(3, 4), torch.randn(0, 4))
    with pytest.raises(ObservationError, match="0 examples"):
        observe(watch, model, torch.randn(2, 0, 4))
    assert watch.sums == {}


def test_an_unreached_layer_is_named():
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 3), relu=nn.ReLU(), b=nn.Linear(3, 2)))
    model.b.aside = nn.Linear(2, 2)
    watch = observer(model)
    with (
        pytest.raises(ObservationError, match=r"no data reached b\.aside\.weight.*skip=\['b\.aside'\]"),
        watch.observing(),
    ):
        model(torch.randn(3, 4))
    watch = observer(model, skip=["b.aside"])
    with watch.observing():
        model(torch.randn(3, 4))
    assert list(watch.sums) == ["a.weight"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("statistic", [Firing(), MeanAbs(), OutputMoments(), InputMoments()])
@pytest.mark.parametrize("functional", [False, True])
def test_nan_and_inf_are_named_and_not_counted(bad, statistic, functional):
    model = Functional(mlp()) if functional else mlp()
    watch = observer(model, statistic)
    with watch.observing():
        model(torch.randn(3, 4))
    before = copy.deepcopy(watch.sums)
    batch = torch.randn(3, 4)
    batch[1] = bad
    with pytest.raises(ObservationError, match="NaN or Inf"):
        observe(watch, model, torch.randn(2, 4), batch, torch.randn(2, 4))
    assert all(torch.equal(v, before[n][k]) for n, own in watch.sums.items() for k, v in own.items())


@pytest.mark.parametrize(
    ("activation", "function", "name"),
    [
        (nn.GELU, F.gelu, "gelu"),
        (nn.SiLU, F.silu, "silu"),
        (nn.Tanh, torch.tanh, "tanh"),
        (nn.Sigmoid, F.sigmoid, "sigmoid"),
    ],
)
def test_activations_that_are_never_zero(activation, function, name):
    source, x = mlp(activation), torch.randn(8, 4)
    for model, layer in ((source, "0.weight"), (Functional(source, function), "a.weight")):
        watch = observer(model)
        with (
            pytest.raises(ObservationError, match=rf"{layer}: its activation is {name}.*fires_above="),
            watch.observing(),
        ):
            model(x)
        assert watch.sums == {}
        assert hooks_on(model) == 0
        watch = observer(model, Firing(0.1))
        with watch.observing():
            model(x)
        assert fired(watch, layer) == ((function(source[0](x)) > 0.1).sum(0).tolist(), 8)


def test_a_hidden_layer_without_activation_is_named_but_an_output_layer_is_not():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    watch = observer(model)
    with pytest.raises(ObservationError, match=r"0\.weight: no non-linearity"), watch.observing():
        model(torch.randn(2, 4))
    watch = observer(model, skip=["0"])
    with watch.observing():
        model(torch.randn(2, 4))
    assert watch.sums == {}


class OwnActivation(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


def test_an_unknown_activation_is_judged_by_its_zeros():
    silent, zeros = (nn.Sequential(nn.Linear(4, 3), OwnActivation(slope), nn.Linear(3, 2)) for slope in (0.1, 0.0))
    x = torch.randn(20, 4)
    watch = observer(silent)
    with pytest.raises(ObservationError, match="its activation is OwnActivation"), watch.observing():
        silent(x)
    watch = observer(zeros)
    with watch.observing():
        zeros(x)
    assert fired(watch, "0.weight") == ((zeros[0](x) > 0).sum(0).tolist(), 20)


def test_a_failed_block_is_not_half_counted():
    model = mlp()
    watch = observer(model)
    with watch.observing():
        model(torch.randn(3, 4))
    before = fired(watch, "0.weight")
    flags = model.training
    batch = torch.randn(3, 4)
    state = torch.get_rng_state()

    def random_then_model(batch):
        torch.rand(5)
        model(batch)

    with pytest.raises(TypeError):
        observe(watch, random_then_model, batch, "not a tensor")
    assert fired(watch, "0.weight") == before
    assert (model.training, hooks_on(model), torch.is_grad_enabled()) == (flags, 0, True)
    assert torch.equal(torch.get_rng_state(), state)

    def forgiving(batch):
        with contextlib.suppress(RuntimeError):
            model(batch)

    with pytest.raises(ObservationError, match="forward pass failed"):
        observe(watch, forgiving, torch.randn(3, 4), torch.randn(3, 5), torch.randn(3, 4))
    assert fired(watch, "0.weight") == before
    with pytest.raises(RuntimeError, match="shapes"), watch.observing():
        model(torch.randn(3, 5))  # while tracing
    assert torch._C._len_torch_function_stack() == 0
    with watch.observing():
        model(torch.randn(3, 4))
    assert watch.sums["0.weight"]["rows"].item() == 6


def test_statistics_that_would_write_the_same_sums():
    with pytest.raises(RecipeError, match="both sum 'fired'"):
        observer(mlp(), Firing(), Firing(0.5))
    model = mlp()
    watch = observer(model, Firing(), Firing(), MeanAbs())
    with watch.observing():
        model(torch.randn(3, 4))
    assert watch.sums["0.weight"]["rows"].item() == 3  # rows of two statistics are the same rows


# ---- structure ----


def test_the_probe_is_the_first_two_examples():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x, *, more, scale=1.0, table=None):
            return self.b(F.relu(self.a(x + more["y"]))) * scale

    model, x, y = Named(), torch.randn(5, 4), torch.randn(5, 4)
    watch = observer(model)
    with watch.observing():
        model(x, more={"y": y}, scale=2.0)
        model(y, more={"y": x})
    args, kwargs = watch.probe
    assert torch.equal(args[0], x[:2])
    assert torch.equal(kwargs["more"]["y"], y[:2])
    assert kwargs["scale"] == 2.0
    assert args[0].untyped_storage().nbytes() == 2 * 4 * 4
    watch = observer(model)
    with watch.observing():
        model(x, more={"y": y}, table=torch.zeros(7, 7))
    assert watch.probe is None


def test_without_statistics_only_the_structure_is_seen():
    model = ConvNet()
    watch = Observer(model, prunable_layers(model), [], {})
    with watch.observing():
        model(torch.randn(2, 1, 6, 6))
    assert watch.sums == {}
    assert list(watch.graph.sites) == ["conv.weight", "fc.weight"]
    assert watch.positions["conv.weight"] == 16


# ---- live counting ----


@pytest.mark.parametrize("functional", [False, True])
def test_live_counts_equal_observed_counts_on_the_same_weights(functional):
    model = Functional(mlp()) if functional else mlp()
    first = "a.weight" if functional else "0.weight"
    live, block = observer(model), observer(model)
    batches = [torch.randn(n, 4) for n in (5, 5, 2, 7)]
    model.train()
    live.start_live()
    for batch in batches:
        model(batch).sum().backward()
        model.eval()
        model(batch)  # not a training batch
        model.train()
    with block.observing():
        for batch in batches:
            model(batch)
    assert live.live_batches == 4
    assert fired(live, first) == fired(block, first)
    assert live.graph == block.graph
    live.check()
    live.stop_live()
    assert hooks_on(model) == 0
    model(batches[0])
    assert fired(live, first) == fired(block, first)


def test_live_counting_every_kth_batch():
    model = mlp()
    watch = observer(model)
    watch.start_live(every=3)
    batches = [torch.randn(n, 4) for n in range(1, 9)]
    for batch in batches:
        model(batch)
    assert watch.live_batches == 3
    assert watch.sums["0.weight"]["rows"].item() == 1 + 4 + 7
    with pytest.raises(RecipeError, match="every 0 batches"):
        watch.start_live(every=0)


def trained(count, activation=F.relu, steps=4):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten())
    model = nn.Sequential(
        model,
        Functional(nn.Sequential(nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)), activation),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    watch = observer(model)
    if count:
        watch.start_live()
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 6, 6)).square().sum().backward()
        optimizer.step()
    return model.state_dict(), watch


def test_live_counting_changes_no_bit_of_training():
    plain, _ = trained(False)
    counted, watch = trained(True)
    assert watch.live_batches == 4
    assert all(torch.equal(plain[key], value) for key, value in counted.items())
    assert watch.sums["0.0.weight"]["rows"].item() == 4 * 8 * 16


def test_live_never_zero_is_an_error_at_the_first_batch():
    with pytest.raises(ObservationError, match="gelu"):
        trained(True, F.gelu)


def test_live_nan_is_found():
    model = mlp()
    watch = observer(model)
    watch.start_live()
    model(torch.full((2, 4), float("nan")))
    with pytest.raises(ObservationError, match=r"0\.weight are NaN"):
        watch.check()


def test_live_unreached_layers_are_found():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].aside = nn.Linear(2, 2)
    watch = observer(model)
    watch.start_live()
    model(torch.randn(2, 4))
    with pytest.raises(ObservationError, match=r"2\.aside\.weight"):
        watch.check()


@pytest.mark.parametrize("fullgraph", [False, True])
def test_live_through_a_compiled_model_is_deaf_and_says_so(fullgraph):
    model = mlp()
    watch = observer(model)
    watch.start_live()
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    for _ in range(2):
        compiled(torch.randn(3, 4)).sum().backward()
    assert watch.live_batches == 0
    assert watch.sums == {}
    with watch.observing():
        compiled(torch.randn(3, 4))
    assert watch.sums["0.weight"]["rows"].item() == 3


def test_live_survives_failed_forwards_and_observing_in_between():
    model = Functional(mlp())
    watch = observer(model)
    watch.start_live()
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(3, 5))  # while tracing
    model(torch.randn(3, 4))
    with watch.observing():
        model(torch.randn(10, 4))
    model(torch.randn(4, 4))
    assert watch.sums["a.weight"]["rows"].item() == 17
    assert torch._C._len_torch_function_stack() == 0


def test_copies_and_pickles_of_a_model_under_live_counting_count_nothing():
    model = mlp()
    watch = observer(model)
    watch.start_live()
    early = copy.deepcopy(model)
    model(torch.randn(3, 4))
    late = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (early, late, loaded):
        other.train()
        other(torch.randn(50, 4))
    model(torch.randn(2, 4))
    assert watch.sums["0.weight"]["rows"].item() == 5


def test_activation_checkpointing_does_not_count_twice():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = mlp()[:4], nn.Linear(3, 2)

        def forward(self, x):
            return self.out(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))

    model = Checkpointed()
    watch = observer(model)
    watch.start_live()
    for _ in range(3):
        model(torch.randn(4, 4)).sum().backward()
    assert watch.sums["body.0.weight"]["rows"].item() == 12


def test_other_sums_can_take_over():
    model = mlp()
    watch = observer(model)
    watch.start_live()
    model(torch.randn(3, 4))
    stored = copy.deepcopy(watch.sums)
    model(torch.randn(9, 4))
    watch.sums = stored
    model(torch.randn(2, 4))
    assert stored["0.weight"]["rows"].item() == 3
    assert watch.sums["0.weight"]["rows"].item() == 5
    assert watch.sums is stored


def test_no_warnings_are_left_behind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ConvNet()
        watch = observer(model)
        with watch.observing():
            model(torch.randn(2, 1, 6, 6))
