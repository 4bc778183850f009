"""Observing leaves the model, the RNG and the gradients as they were."""

import copy
import io

import pytest
import torch
from torch import nn

from actprune.evidence import Firing, MeanAbs
from support.architectures import Functional
from support.nets import tiny_mlp
from support.observation import collector, fired, hooks_on


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2))
    model.train()
    model[1].eval()
    model(torch.randn(3, 4)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    watch = collector(model)
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
    model = tiny_mlp()
    watch = collector(model)
    with watch.observing(gradients=True):
        model(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert watch.flush()["0.weight"]["rows"].item() == 3
    assert not watch.flush()["0.weight"]["fired"].requires_grad


def test_inference_mode_inside_the_block():
    model = Functional(tiny_mlp())
    watch = collector(model, Firing(), MeanAbs())
    for _ in range(2):
        with watch.observing(), torch.inference_mode():
            model(torch.randn(3, 4))
            model(torch.randn(3, 4))
    assert watch.flush()["a.weight"]["rows"].item() == 12
    assert not watch.flush()["a.weight"]["out_abs"].is_inference()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_autocast(dtype):
    model, x = tiny_mlp(), torch.randn(300, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        model = model.to(torch.float32 if dtype is torch.bfloat16 else dtype)
        watch = collector(model)
        x = x.to(model[0].weight.dtype)
        with watch.observing():
            model(x)
            model(x)
        assert fired(watch, "0.weight") == ((2 * (model[:2](x) != 0).sum(0)).tolist(), 600)


@pytest.mark.parametrize("when", ["before", "after", "inside"])
def test_compiled_models(when):
    model, x = tiny_mlp(), torch.randn(6, 4)
    compiled = torch.compile(model, backend="eager")
    given_model = compiled if when == "before" else model
    if when == "before":
        compiled(x)  # compiled and run before there are hooks
    watch = collector(given_model)
    if when == "after":
        compiled = torch.compile(model, backend="eager")
        compiled(x)
    with watch.observing():
        (model if when == "inside" else compiled)(x)
        compiled(x)
    assert fired(watch, "0.weight") == ((2 * (model[:2](x) != 0).sum(0)).tolist(), 12)
    assert compiled(x).shape == (6, 2)


def test_models_compiled_in_parts():
    model, x = tiny_mlp(), torch.randn(6, 4)
    expected = ((2 * (model[:2](x) != 0).sum(0)).tolist(), 12)
    model[0] = torch.compile(model[0], backend="eager")
    model[1].compile(backend="eager")
    model(x)
    watch = collector(model)
    with watch.observing():
        model(x)
        model(x)
    assert fired(watch, "0.weight") == expected
