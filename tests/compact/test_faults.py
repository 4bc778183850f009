"""What users met: types that changed, tied weights, hooks, optimizers, data that went along, models that are none."""

import copy
import io
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actprune
from actprune import compact, compaction
from actprune.errors import CompactionError, ModelError
from support.compaction import masked_copy


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def rows(model, **dead):
    """Masks under which these rows of layers have no weight."""
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    for name, gone in dead.items():
        masks[f"{name}.weight"][gone] = False
    return masks


def masks_of(model):
    return rows(model, **{"0": [1, 2, 3], "2": [0, 5]})


X = torch.randn(6, 8)


# ---- types ----------------------------------------------------------------------------------------------------------


class Buffers(nn.Module):
    def __init__(self, dtype=torch.float32, persistent=False):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("scale", torch.rand(8, dtype=dtype), persistent=persistent)
        self.register_buffer("order", torch.randperm(8), persistent=False)
        self.register_buffer("use", torch.rand(8) > 0.3, persistent=False)
        self.constant = torch.rand(8)  # neither parameter nor buffer

    def forward(self, x):
        x = x[:, self.order] * self.scale.to(x.dtype) * self.use + self.constant.to(x.dtype)
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("buffer", [torch.float32, torch.float16, torch.float64])
def test_every_tensor_keeps_its_type(buffer, persistent, form):
    model = Buffers(buffer, persistent)
    masks = rows(model, a=[0, 3, 7])
    small = compact(model, masks, example=X, form=form)
    assert small(X).dtype == torch.float32
    torch.testing.assert_close(small(X), masked_copy(model, masks)(X), atol=1e-4, rtol=1e-4)
    if form == "module":
        before, after = dict(model.named_buffers()), dict(small.named_buffers())
        assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
        assert small.constant.dtype == torch.float32
        assert small.a.out_features == 13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_types_run_as_they_are(dtype):
    model = Buffers().to(dtype)
    masks = rows(model, a=[0, 3, 7])
    small = compact(model, masks, example=X.to(dtype))
    assert small(X.to(dtype)).dtype == dtype
    assert {p.dtype for p in small.parameters()} == {dtype}


# ---- tied weights ---------------------------------------------------------------------------------------------------


class Language(nn.Module):
    def __init__(self, tie):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 20, bias=False)
        if tie == "embedding":
            self.head.weight = self.embed.weight
        elif tie == "bare":
            self.table = self.head.weight

    def forward(self, x):
        return self.head(self.down(torch.relu(self.up(self.embed(x)))))


@pytest.mark.parametrize("tie", ["embedding", "bare", "none"])
@pytest.mark.parametrize("name", ["embed.weight", "head.weight", None])
def test_a_head_tied_to_an_embedding(tie, name):
    model, tokens = Language(tie), torch.randint(0, 20, (3, 5))
    masks = rows(model, up=[1, 4, 9])
    masks = {key: mask for key, mask in masks.items() if key in ("up.weight", name)}
    if name in masks:
        masks[name] = torch.rand(20, 8) > 0.2
        if tie == "embedding":
            masks = {("embed.weight" if key == name else key): mask for key, mask in masks.items()}
    small = compact(model, masks, example=tokens)
    assert small.up.out_features == 13
    assert (small.head.weight is small.embed.weight) == (tie == "embedding")
    torch.testing.assert_close(small(tokens), masked_copy(model, masks)(tokens), atol=1e-4, rtol=1e-4)


# ---- hooks ----------------------------------------------------------------------------------------------------------


def looks(seen):
    return lambda module, inputs, out: seen.append(float(out.detach().mean())) and None


def collects(seen):
    return lambda module, inputs, out: seen.append(out.detach())


def branches(seen):
    def hook(module, inputs, out):
        if out.detach().sum() > 0:
            seen.append(1)

    return hook


@pytest.mark.parametrize("make", [looks, collects, branches])
@pytest.mark.parametrize("where", ["inside", "root", "everywhere"])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_hook_that_looks_is_no_control_flow_and_sees_real_tensors(make, where, form):
    model, seen = net(), []
    masks = masks_of(model)
    if where == "everywhere":
        handle = nn.modules.module.register_module_forward_hook(make(seen))
    else:
        handle = (model if where == "root" else model[2]).register_forward_hook(make(seen))
    try:
        small = compact(model, masks, example=X, form=form)
    finally:
        handle.remove()
    assert all(type(item) in (torch.Tensor, float, int) for item in seen)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(small(X), masked_copy(model, masks)(X), atol=1e-4, rtol=1e-4)


def test_pre_hooks_and_hooks_with_keywords_are_carried_along():
    model, seen = net(), []
    model[2].register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[0].shape), with_kwargs=True)
    model[2].register_forward_hook(lambda *_: seen.append("always"), always_call=True)
    small = compact(model, masks_of(model), example=X)
    seen.clear()
    small(X)
    assert len(seen) == 2


@pytest.mark.parametrize("where", ["0", "1", "2", "4"])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_hook_that_changes_values_is_part_of_the_model(where, form):
    model = net()
    model.get_submodule(where).register_forward_hook(lambda module, inputs, out: 2 * out + 0.5)
    masks = masks_of(model)
    small = compact(model, masks, example=X, form=form)
    torch.testing.assert_close(small(X), masked_copy(model, masks)(X), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_hooks_of_torch_that_make_the_weight_act(norm):
    model = net()
    norm(model[4])
    model.eval()
    expected = model(X)
    try:
        small = compact(model, {}, example=X)
    except (CompactionError, ModelError) as error:  # either is right: done, or said
        assert "remove_weight_norm" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(small(X), expected, atol=1e-4, rtol=1e-4)


# ---- optimizers -----------------------------------------------------------------------------------------------------


def trained(model, make, steps=3):
    every = make(model)
    for _ in range(steps):
        model.zero_grad()
        model(X).square().mean().backward()
        for optimizer in every:
            optimizer.step()
    return every


GOOD = {
    "sgd": lambda m: [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9)],
    "adam": lambda m: [torch.optim.AdamW(m.parameters(), 0.01, amsgrad=True)],
    "adafactor": lambda m: [torch.optim.Adafactor(m.parameters(), 0.01)],
    "rprop": lambda m: [torch.optim.Rprop(m.parameters(), 0.01)],
    "one each": lambda m: [torch.optim.Adam([p], 0.01) for p in m.parameters()],
    "groups": lambda m: [torch.optim.Adam([{"params": m[0].parameters()}, {"params": m[2:].parameters(), "lr": 0.1}])],
}


@pytest.mark.parametrize("name", GOOD)
def test_the_state_of_elementwise_and_factored_optimizers_is_cut_along(name):
    model = net()
    every = trained(model, GOOD[name])
    masks = masks_of(model)
    small = compact(model, masks, example=X, optimizer=every if len(every) > 1 else every[0])
    own = {id(p): n for n, p in small.named_parameters()}
    assert {own[id(p)] for o in every for g in o.param_groups for p in g["params"]} == set(own.values())
    kept = [row for row in range(16) if row not in (1, 2, 3)]
    for optimizer in every:
        for parameter, state in optimizer.state.items():
            assert id(parameter) in own
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.dim() == parameter.dim() and value.numel() > 1:
                    assert all(v in (1, p) for v, p in zip(value.shape, parameter.shape, strict=True))
    if name == "adafactor":
        again = net()
        other = trained(again, GOOD[name])[0]
        row = other.state[again[0].weight]["row_var"]
        assert torch.equal(every[0].state[small[0].weight]["row_var"], row[kept])
    before = small(X).square().mean().item()
    for _ in range(30):
        small.zero_grad()
        small(X).square().mean().backward()
        for optimizer in every:
            optimizer.step()
    assert small(X).square().mean().item() < before


def test_a_weight_that_a_schedule_free_optimizer_keeps_takes_the_folded_constant():
    schedulefree = pytest.importorskip("schedulefree")
    model = net()
    with torch.no_grad():
        model[0].bias.fill_(1.0)  # dead neurons send something
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.01)
    optimizer.train()
    masks = masks_of(model)
    small = compact(model, masks, example=X, optimizer=optimizer)
    small.zero_grad()
    small(X).square().mean().backward()
    optimizer.step()
    trained_on = small(X).detach()
    optimizer.eval()
    assert (small(X) - trained_on).abs().max() < 0.2 * trained_on.abs().max()
    moved = small[2].bias.detach() - masked_copy(model, masks)[2].bias[[i for i in range(12) if i not in (0, 5)]]
    assert moved.abs().max() > 1e-3  # the constant is still there after the switch


class Shampoo(torch.optim.Optimizer):
    """A preconditioner per axis."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("preconditioners", [torch.eye(size) for size in p.shape])
                p.sub_(0.01 * p.grad)


class Flat(Shampoo):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["gram"] = torch.eye(p.numel())
                p.sub_(0.01 * p.grad)


class Remembers(Shampoo):
    def __init__(self, params):
        super().__init__(params)
        self.every = list(self.param_groups[0]["params"])


REFUSED = {
    "lbfgs": (lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS keeps the parameters in its attribute _params"),
    "shampoo": (lambda m: Shampoo(m.parameters()), "Shampoo keeps 'preconditioners' .list. for 0.weight"),
    "flat": (lambda m: Flat(m.parameters()), r"Flat keeps 'gram' \(\(128, 128\)\) for 0.weight of shape \(16, 8\)"),
    "remembers": (lambda m: Remembers(m.parameters()), "Remembers keeps the parameters in its attribute every"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_cannot_be_cut_is_refused_before_anything_is_changed(name):
    make, words = REFUSED[name]
    model = net()
    optimizer = make(model)
    if name != "lbfgs":
        model(X).square().mean().backward()
        optimizer.step()
    before, state = copy.deepcopy(model.state_dict()), len(optimizer.state)
    with pytest.raises(CompactionError, match=f"{words}.*make a new optimizer"):
        compact(model, masks_of(model), example=X, optimizer=optimizer, inplace=True)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert len(optimizer.state) == state
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}


def test_an_optimizer_in_backward_is_refused():
    model = net()
    every = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: every[p].step())
    with pytest.raises(CompactionError, match=r"0\.weight has a gradient hook"):
        compact(model, masks_of(model), example=X, optimizer=list(every.values()))
    with pytest.raises(CompactionError, match="give torch optimizers"):
        compact(model, masks_of(model), example=X, optimizer=["sgd"])


# ---- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["module", "graph"])
def test_no_data_goes_along(form):
    model, secret = net(), torch.full((50_000, 8), 1234.5)
    secret[1] = 77.25
    result = compaction(model, masks_of(model), example=secret, form=form)
    whole = [vars(copy.deepcopy(result.model)), result.model.state_dict()]
    if form == "module":  # a program is stored by save(), not by pickle
        whole += [result.model, copy.deepcopy(result.model)]
    for item in whole:
        stored = _bytes(item)
        assert len(stored) < 64_000
        assert torch.tensor([1234.5]).numpy().tobytes() not in stored
        assert torch.tensor([77.25]).numpy().tobytes() not in stored
    assert set(result.model.state_dict()) == set(model.state_dict())


def _bytes(item):
    buffer = io.BytesIO()
    if isinstance(item, dict):
        torch.save({key: value for key, value in item.items() if isinstance(value, (torch.Tensor, tuple))}, buffer)
    else:
        pickle.dump(item, buffer)
        torch.save(item, buffer)
    return buffer.getvalue()


def test_save_follows_the_outline_of_the_example(tmp_path):
    model = net()
    small = compact(model, masks_of(model), example=X)
    actprune.save(small, tmp_path / "net.actprune")
    torch.testing.assert_close(actprune.load(tmp_path / "net.actprune")(X), small(X), atol=1e-4, rtol=1e-4)
    again = compact(small)
    torch.testing.assert_close(again(X), small(X), atol=1e-4, rtol=1e-4)


# ---- models that are none -------------------------------------------------------------------------------------------


def locked():
    model = net()
    model[1].guard = threading.Lock()
    return model


def generating():
    model = net()
    model[3].source = (i for i in range(3))
    return model


def computed():
    model = net()
    model.last = model[0].weight * 2
    return model


def quantised():
    return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})


def static():
    model = nn.Sequential(
        torch.ao.quantization.QuantStub(), nn.Linear(8, 4), torch.ao.quantization.DeQuantStub()
    ).eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    ready = torch.ao.quantization.prepare(model)
    ready(X)
    return torch.ao.quantization.convert(ready)


ODD = {
    "lock": (locked, r"its attribute 1\.guard \(a lock\) cannot.*__deepcopy__"),
    "generator": (generating, r"its attribute 3\.source \(a generator\) cannot"),
    "non-leaf": (computed, r"its attribute last \(a Tensor\) cannot"),
    "int8": (quantised, r"0 is quantised.*compact the float model, then quantise"),
    "static int8": (static, r"is quantised.*compact the float model"),
    "scripted": (lambda: torch.jit.script(net()), "compact the module that it was made from"),
    "meta": (lambda: net().to("meta"), r"0\.weight is on the meta device"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ODD)
def test_a_model_that_cannot_be_compacted_is_one_clear_error(name):
    make, words = ODD[name]
    with pytest.raises(CompactionError, match=words):
        compact(make(), example=X)


@pytest.mark.parametrize("example", [X.double(), torch.randn(2, 9), torch.randn(2, 8, device="meta")])
def test_an_example_that_the_model_does_not_take(example):
    with pytest.raises(ModelError, match=r"fails on the example itself, of shape .* on (cpu|meta)"):
        compact(net(), example=example)


def test_functional_models_that_read_a_bare_parameter():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.table = nn.Linear(8, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x):
            return F.linear(torch.relu(self.first(x)), self.table)

    model = Bare()
    masks = {"first.weight": rows(model, first=[2, 3])["first.weight"]}
    small = compact(model, masks, example=X)
    torch.testing.assert_close(small(X), masked_copy(model, masks)(X), atol=1e-4, rtol=1e-4)
