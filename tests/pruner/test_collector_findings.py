"""Observing says so when it cannot be trusted."""

import contextlib
import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.errors import ObservationError, RecipeError
from actprune.evidence import Firing, InputMoments, MeanAbs, OutputMoments
from support.architectures import Functional
from support.nets import tiny_mlp
from support.observation import collector, fired, hooks_on, observe


def test_no_batch_is_an_error():
    model = tiny_mlp()
    watch = collector(model)
    with pytest.raises(ObservationError, match="loader was empty"), watch.observing():
        pass
    with pytest.raises(ObservationError, match="a part of it"), watch.observing():
        model[:2](torch.randn(2, 4))
    assert watch.flush() == {}
    assert hooks_on(model) == 0


def test_an_empty_batch_is_an_error():
    model = tiny_mlp()
    watch = collector(model)
    with pytest.raises(ObservationError, match="0 examples"):
        observe(watch, model, torch.randn(3, 4), torch.randn(0, 4))
    with pytest.raises(ObservationError, match="0 examples"):
        observe(watch, model, torch.randn(2, 0, 4))
    assert watch.flush() == {}


def test_an_unreached_layer_is_named():
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 3), relu=nn.ReLU(), b=nn.Linear(3, 2)))
    model.b.aside = nn.Linear(2, 2)
    watch = collector(model)
    with (
        pytest.raises(ObservationError, match=r"no data reached b\.aside\.weight.*skip=\['b\.aside'\]"),
        watch.observing(),
    ):
        model(torch.randn(3, 4))
    watch = collector(model, skip=["b.aside"])
    with watch.observing():
        model(torch.randn(3, 4))
    assert list(watch.flush()) == ["a.weight"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("statistic", [Firing(), MeanAbs(), OutputMoments(), InputMoments()])
@pytest.mark.parametrize("functional", [False, True])
def test_nan_and_inf_are_named_and_not_counted(bad, statistic, functional):
    model = Functional(tiny_mlp()) if functional else tiny_mlp()
    watch = collector(model, statistic)
    with watch.observing():
        model(torch.randn(3, 4))
    before = copy.deepcopy(watch.flush())
    batch = torch.randn(3, 4)
    batch[1] = bad
    with pytest.raises(ObservationError, match="NaN or Inf"):
        observe(watch, model, torch.randn(2, 4), batch, torch.randn(2, 4))
    assert all(torch.equal(v, before[n][k]) for n, own in watch.flush().items() for k, v in own.items())


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
    source, x = tiny_mlp(activation), torch.randn(8, 4)
    for model, layer in ((source, "0.weight"), (Functional(source, function), "a.weight")):
        watch = collector(model)
        with (
            pytest.raises(ObservationError, match=rf"{layer}: its activation is {name}.*fires_above="),
            watch.observing(),
        ):
            model(x)
        assert watch.flush() == {}
        assert hooks_on(model) == 0
        watch = collector(model, Firing(0.1))
        with watch.observing():
            model(x)
        assert fired(watch, layer) == ((function(source[0](x)).abs() > 0.1).sum(0).tolist(), 8)


def test_a_hidden_layer_without_activation_is_named_but_an_output_layer_is_not():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    watch = collector(model)
    with pytest.raises(ObservationError, match=r"0\.weight: no non-linearity"), watch.observing():
        model(torch.randn(2, 4))
    watch = collector(model, skip=["0"])
    with watch.observing():
        model(torch.randn(2, 4))
    assert watch.flush() == {}


class OwnActivation(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


def test_an_unknown_activation_is_judged_by_its_zeros():
    silent, zeros = (nn.Sequential(nn.Linear(4, 3), OwnActivation(slope), nn.Linear(3, 2)) for slope in (0.1, 0.0))
    x = torch.randn(20, 4)
    watch = collector(silent)
    with pytest.raises(ObservationError, match="its activation is OwnActivation"), watch.observing():
        silent(x)
    watch = collector(zeros)
    with watch.observing():
        zeros(x)
    assert fired(watch, "0.weight") == ((zeros[0](x) > 0).sum(0).tolist(), 20)


def test_a_failed_block_is_not_half_counted():
    model = tiny_mlp()
    watch = collector(model)
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
    assert watch.flush()["0.weight"]["rows"].item() == 6


def test_statistics_that_would_write_the_same_sums():
    with pytest.raises(RecipeError, match="both sum 'fired'"):
        collector(tiny_mlp(), Firing(), Firing(0.5))
    model = tiny_mlp()
    watch = collector(model, Firing(), Firing(), MeanAbs())
    with watch.observing():
        model(torch.randn(3, 4))
    assert watch.flush()["0.weight"]["rows"].item() == 3  # rows of two statistics are the same rows
