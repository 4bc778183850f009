import sys

import pytest
import torch
from torch import nn

from actprune.errors import DataError, ModelError
from actprune.lab.data import Dataset, check_compatible
from actprune.lab.models import build, import_object, names
from actprune.lab.resnet import resnet20


def dataset(shape=(1, 28, 28), classes=10):
    pair = torch.zeros(3, *shape), torch.zeros(3, dtype=torch.int64)
    return Dataset("made", pair, pair, pair, classes, shape, "")


def weights(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")}


def test_article_network():
    model = build("article", dataset())
    assert weights(model) == {
        "fc1.weight": (300, 784),
        "fc2.weight": (200, 300),
        "fc3.weight": (100, 200),
        "fc4.weight": (50, 100),
        "fc5.weight": (10, 50),
    }
    assert sum(p.numel() for p in model.parameters()) == 321360
    assert [name for name, m in model.named_children() if isinstance(m, nn.ReLU)] == [
        "relu1",
        "relu2",
        "relu3",
        "relu4",
    ]


def test_lenets_have_the_published_sizes():
    small, caffe = build("lenet-300-100", dataset()), build("lenet-5-caffe", dataset())
    assert sum(p.numel() for p in small.parameters()) == 266610
    assert weights(caffe) == {
        "conv1.weight": (20, 1, 5, 5),
        "conv2.weight": (50, 20, 5, 5),
        "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }
    assert sum(p.numel() for p in caffe.parameters()) == 431080


def test_resnet20_has_the_published_layers_and_sizes():
    model = build("resnet-20", dataset((3, 32, 32)))
    shapes = weights(model)
    convolutions = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    assert len([shape for shape in convolutions.values() if shape[2:] == (3, 3)]) == 19
    assert [name for name, shape in convolutions.items() if shape[2:] == (1, 1)] == [
        "stage2_1.shortcut.conv.weight",
        "stage3_1.shortcut.conv.weight",
    ]
    assert shapes["fc.weight"] == (10, 64)
    # the paper's 269,722 with option A, and two 1x1 convolutions with their BatchNorm
    assert sum(p.numel() for p in model.parameters()) == 269_722 + 16 * 32 + 64 + 32 * 64 + 128
    inner = model.stage2_1.conv2.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    seen = []
    model(torch.zeros(2, 3, 32, 32))
    inner.remove()
    assert seen == [(2, 32, 16, 16)]


def test_resnet20_computes_its_residual_sums():
    model = resnet20((1, 8, 8), 3, width=2).eval()
    block, x = model.stage1_1, torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(inner + x))
    for shape, width in (((8, 8), 2), ((1, 8, 8), 0)):
        with pytest.raises(ModelError, match=r"expected a shape .C, H, W. and width >= 1"):
            resnet20(shape, 3, width)


@pytest.mark.parametrize("name", ["article", "lenet-300-100", "lenet-5-caffe", "resnet-20"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 17), (1, 16, 16)])
def test_models_follow_the_data(name, shape):
    data = dataset(shape, classes=7)
    model = build(name, data)
    check_compatible(data, model)
    assert model(data.train[0]).shape == (3, 7)


def test_mlp_of_any_sizes_on_features():
    model = build("mlp", dataset((13,), 2), hidden=(5, 4))
    assert list(weights(model).values()) == [(5, 13), (4, 5), (2, 4)]
    assert weights(build("article", dataset(), hidden=[8])) == {"fc1.weight": (8, 784), "fc2.weight": (10, 8)}


def test_every_hidden_activation_has_exact_zeros_and_a_module_of_its_own():
    model, seen = build("lenet-5-caffe", dataset()), []
    for name, module in model.named_children():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.append((name, bool((out == 0).any()))))
    model(torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert seen == [("relu1", True), ("relu2", True), ("relu3", True)]


def test_glorot_bounds_and_zero_biases():
    for name in ("article", "lenet-5-caffe", "resnet-20"):
        model = build(name, dataset(), seed=3)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                out, inputs, *kernel = module.weight.shape
                area = torch.Size(kernel).numel() if kernel else 1
                bound = (6 / (area * (inputs + out))) ** 0.5
                assert 0.97 * bound < module.weight.abs().max() <= bound
                assert module.bias is None or torch.count_nonzero(module.bias) == 0
    assert torch.count_nonzero(build("article", dataset(), init="torch").fc1.bias) == 300


def test_seeds_decide_and_the_global_generator_does_not_notice():
    before = torch.get_rng_state()
    one, same, other = build("article", dataset()), build("article", dataset()), build("article", dataset(), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    moved = build("article", dataset())
    for p, q, r, s in zip(*(m.parameters() for m in (one, same, moved, other)), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)
        assert p.ndim == 1 or not torch.equal(p, s)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("artcle", {}, ModelError, "unknown model 'artcle'; did you mean 'article'.*or package.module:factory"),
        ("mlp", {}, ModelError, "'mlp' with hidden sizes .*expected at least one positive size"),
        ("mlp", {"hidden": (5, 0)}, ModelError, "hidden sizes .5, 0."),
        ("lenet-5-caffe", {"hidden": (5,)}, ModelError, "cannot change 'lenet-5-caffe'; use 'mlp'"),
        ("resnet-20", {"hidden": (5,)}, ModelError, "cannot change 'resnet-20'; use 'mlp'"),
        ("a.b:c", {"hidden": (5,)}, ModelError, "cannot be passed to 'a.b:c'"),
    ],
)
def test_senseless_requests(name, options, error, message):
    with pytest.raises(error, match=message):
        build(name, dataset(), **options)


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (1, 28, 15)])
def test_lenet5_needs_large_enough_images(shape):
    with pytest.raises(DataError, match=r"at least 16x16 pixels; made has examples of shape"):
        build("lenet-5-caffe", dataset(shape))


def test_resnet20_needs_images():
    with pytest.raises(DataError, match=r"'resnet-20' needs images .C, H, W.; made has examples of shape .64,."):
        build("resnet-20", dataset((64,)))


SOURCE = """
import torch
from torch import nn
class Net(nn.Linear):
    def __init__(self): super().__init__(784, 10)
def fitted(shape, classes): return nn.Linear(shape[-1], classes)
def defaults(shape=(1, 1, 5), classes=3): return nn.Linear(shape[-1], classes)
def own(width=6, depth=2): return nn.Linear(width, depth)
def keywords(*, shape, width): return nn.Linear(1, 1)
def one(width): return nn.Linear(width, 1)
def crash(): raise RuntimeError("no luck")
def text(): return "net"
ready = nn.Linear(2, 2)
class inner:
    make = Net
"""


@pytest.fixture
def mynet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    (tmp_path / "mynet.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    yield
    for name in ("mynet", "broken", "wrong"):
        sys.modules.pop(name, None)


def test_factories(mynet):
    data = dataset((1, 28, 28), 4)
    assert build("mynet:Net", data).weight.shape == (10, 784)
    assert build("mynet:inner.make", data).weight.shape == (10, 784)
    assert build("mynet:fitted", data).weight.shape == (4, 28)
    assert build("mynet:defaults", data).weight.shape == (4, 28)
    assert build("mynet:own", data).weight.shape == (2, 6)
    before = torch.get_rng_state()
    one, same, other = (build("mynet:Net", data, seed=seed).weight for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mynet:one", "requires width; it must require none, or .shape, classes."),
        ("mynet:crash", "called with .. failed: RuntimeError: no luck"),
        ("mynet:text", "returned a str; expected a torch.nn.Module"),
        ("mynet:ready", "is a Linear; expected a function or class that builds"),
        ("mynet:keywords", "called with .*failed: TypeError"),
        ("mynet:fited", "unknown attribute of mynet 'fited'; did you mean 'fitted'"),
        ("mynett:Net", "no module named 'mynett'; looked in the current directory"),
        ("mynet.sub:Net", "no module named 'mynet.sub'"),
        ("broken:Net", "importing 'broken' .*failed: No module named 'not_installed_anywhere'"),
        ("wrong:Net", "importing 'wrong' .*failed: ZeroDivisionError"),
    ],
)
def test_factories_that_cannot_be_used(mynet, name, message):
    with pytest.raises(ModelError, match=message):
        build(name, dataset())


def test_import_object_finds_any_attribute_and_refuses_other_texts():
    assert import_object("torch.nn:Linear") is nn.Linear
    for text in ("torch.nn", "torch.nn:", ":Linear", "torch nn:Linear", "torch.nn:Linear()"):
        with pytest.raises(ModelError, match="not an import string"):
            import_object(text)
    with pytest.raises(DataError, match="not an import string"):
        import_object("x", DataError)


def test_names():
    assert names() == ("article", "lenet-300-100", "lenet-5-caffe", "resnet-20", "autoencoder", "mlp")
