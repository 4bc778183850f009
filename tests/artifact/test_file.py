"""Whole files: saved, loaded without the class and into it, inspected, as small as they should be."""

import errno
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from actprune.artifact import bound, build, from_bytes, inspect, load, read_document, save, to_bytes
from actprune.artifact.save import described
from actprune.errors import ArtifactError
from actprune.program import Program, Ref, Step, export
from support.artifact_files import program
from support.nets import drawn_mlp

pytest.importorskip("constriction")
ABOUT = {"method": "activation", "recipe": {"sparsity": 0.9}, "accuracy": {"target": 0.98, "actual": 0.981}}


class Conv(nn.Module):
    """A convolutional network with BatchNorm, depthwise and grouped layers."""

    def __init__(self, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.norm = nn.GroupNorm(2, 2 * width)
        self.fc = nn.Linear(2 * width, 3)

    def forward(self, x):
        x = torch.relu(self.depthwise(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.relu(self.norm(self.conv2(x))).mean((2, 3)))


def scrambled(model):
    torch.manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.1)
    return model.eval()


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.sampled_from([(5, 3), (30, 20, 4), (40, 30, 30, 2)]), st.integers(0, 99)
)
def test_fp32_files_compute_exactly_the_same(density, sizes, seed):
    model = program(density, sizes, seed)
    found = build(from_bytes(to_bytes(described(model, "fp32"))))
    x = torch.randn(4, sizes[0])
    assert torch.equal(found(x), model(x))
    assert list(found.state_dict()) == list(model.state_dict())


def test_save_and_load_without_the_class(tmp_path):
    model = scrambled(Conv())
    path = save(model, tmp_path / "conv.actprune", example=torch.rand(2, 1, 9, 9), about=ABOUT)
    found = load(path)
    x = torch.rand(5, 1, 9, 9)
    assert type(found) is Program
    assert not found.training
    torch.testing.assert_close(found(x), model(x))
    assert set(found.state_dict()) == set(model.state_dict())


def test_the_example_may_be_an_attribute_of_the_model(tmp_path):
    model = drawn_mlp()
    with pytest.raises(ArtifactError, match="pass example="):
        save(model, tmp_path / "model")
    model.actprune_example = torch.zeros(2, 24)
    assert save(model, tmp_path / "model").exists()


@pytest.mark.parametrize("width", [8, 5])
def test_load_into_the_original_class_changes_widths(tmp_path, width):
    small = scrambled(Conv(width))
    path = save(small, tmp_path / "conv", example=torch.rand(2, 1, 9, 9))
    model = Conv(12)
    found = load(path, into=model)
    x = torch.rand(3, 1, 9, 9)
    assert found is model
    torch.testing.assert_close(found(x), small(x))
    assert found.depthwise.groups == width
    assert found.bn1.num_features == width
    assert (found.conv2.in_channels, found.conv2.out_channels, found.fc.in_features) == (width, 2 * width, 2 * width)


def gathered():
    """A program that reads inputs 1, 4 and 5 of six."""
    tensors = {"0.weight": torch.randn(4, 3), "0.bias": torch.randn(4), "0.columns": torch.tensor([1, 4, 5])}
    steps = [
        Step("index_select", "index_select", (Ref("x"), -1, Ref("0.columns"))),
        Step("linear", "linear", (Ref("index_select"), Ref("0.weight"), Ref("0.bias"))),
    ]
    return Program(["x"], steps, Ref("linear"), tensors)


def test_inputs_that_were_left_out_come_back_with_zero_weights(tmp_path):
    path = save(gathered(), tmp_path / "model")
    found = load(path, into=nn.Sequential(nn.Linear(6, 9)))
    x = torch.randn(5, 6)
    torch.testing.assert_close(found(x), load(path)(x))
    assert found[0].weight.shape == (4, 6)


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4), nn.Linear(4, 4)), "no tensor '3.weight'"),
        (nn.Sequential(nn.Linear(24, 16)), "has no tensor '2.weight'"),
        (nn.Sequential(nn.Conv2d(24, 16, 1), nn.ReLU(), nn.Linear(16, 4)), "'0.weight' is .16, 24, 1, 1."),
    ],
)
def test_loading_into_another_class_names_the_first_mismatch_and_changes_nothing(tmp_path, into, message):
    path = save(program(), tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in into.state_dict().items()}
    with pytest.raises(ArtifactError, match=message):
        load(path, into=into)
    assert all(torch.equal(tensor, before[name]) for name, tensor in into.state_dict().items())


def test_large_dense_tensors_are_ordinary_safetensors_entries(tmp_path):
    model = program(1.0, (60, 50, 4))
    path = save(model, tmp_path / "model", values={"0.weight": "fp16"})
    stored = load_file(path)
    assert torch.equal(stored["0.weight"], model.state_dict()["0.weight"].half())
    assert torch.equal(load(path).state_dict()["0.weight"], stored["0.weight"].float())


def test_inspect_says_what_is_in_the_file(tmp_path):
    path = save(program(), tmp_path / "model", values="shared3", about=ABOUT)
    info = inspect(path)
    weight = info.tensors[0]
    assert info.bytes == path.stat().st_size
    assert info.about["method"] == "activation"
    assert {"actprune", "torch", "constriction"} <= set(info.about["versions"])
    assert (weight.name, weight.shape, weight.values) == ("0.weight", (16, 24), "shared3")
    assert weight.kept == int(program().state_dict()["0.weight"].count_nonzero())
    assert info.dense_bytes == 4 * (16 * 24 + 16 + 4 * 16 + 4)
    assert info.header_bytes + sum(item.bytes for item in info.tensors) == pytest.approx(info.bytes)


def test_the_header_of_a_small_net_is_small(tmp_path):
    fingerprint = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    about = {**ABOUT, "data": {"name": "mnist", "sha256": fingerprint}}
    path = save(program(0.02, (784, 300, 200, 100, 50, 10)), tmp_path / "model", values="shared4", about=about)
    assert inspect(path).header_bytes < 450


def test_coded_bytes_are_near_the_entropy_bound():
    doc = described(program(0.03, (300, 200, 50, 10)), "shared5")
    limit = bound(doc)
    assert len(to_bytes(doc)) < 1.1 * (limit.bytes + limit.tables) + 450


def test_the_bound_counts_positions_and_values():
    doc = described(program(1.0), "fp32")
    limit = bound(doc)
    assert limit.positions == 0
    assert limit.values == 4 * (16 * 24 + 16 + 4 * 16 + 4)
    half = bound(described(program(0.5), "fp16"))
    assert half.bytes == half.positions + half.values
    assert half.positions == pytest.approx(sum(item.positions for item in half.tensors))


def test_files_are_deterministic():
    assert to_bytes(described(program(), "shared3", ABOUT)) == to_bytes(described(program(), "shared3", ABOUT))


def test_buffers_are_never_coarser_than_fp16(tmp_path):
    model = scrambled(Conv())
    model.bn1.running_var.fill_(1e6)  # would overflow fp16
    info = inspect(save(model, tmp_path / "conv", example=torch.rand(2, 1, 9, 9), values="shared2"))
    found = {item.name: item.values for item in info.tensors}
    assert found["bn1.running_var"] == "fp32"
    assert found["bn1.running_mean"] == "fp16"
    assert found["conv1.weight"] == "shared2"


def test_precisions_by_name_are_checked(tmp_path):
    with pytest.raises(ArtifactError, match=r"no tensor 'fc9\.weight'"):
        save(program(), tmp_path / "model", values={"fc9.weight": "fp16"})


@pytest.mark.parametrize("about", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_about_must_be_json(tmp_path, about):
    with pytest.raises(ArtifactError, match="JSON values"):
        save(program(), tmp_path / "model", about=about)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = save(program(), tmp_path / "model")
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left on device.*Nothing was lost"):
        save(program(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_the_range_coder_files_are_larger_and_load(tmp_path, monkeypatch):
    from actprune.artifact import encoding

    coded = save(program(0.1, (200, 100, 4)), tmp_path / "coded", values="shared3")
    monkeypatch.setattr(encoding, "available", lambda: False)
    plain = save(program(0.1, (200, 100, 4)), tmp_path / "plain", values="shared3")
    assert {item.encoding for item in inspect(plain).tensors} <= {"bits", "gaps", "all", "plain"}
    assert coded.stat().st_size < plain.stat().st_size
    x = torch.randn(3, 200)
    assert torch.equal(load(coded)(x), load(plain)(x))


def test_a_missing_range_coder_is_named(tmp_path, monkeypatch):
    from actprune.artifact import entropy

    path = save(program(0.1, (200, 100, 4)), tmp_path / "coded", values="shared3")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(entropy.importlib, "import_module", missing)
    with pytest.raises(ArtifactError, match="pip install constriction"):
        load(path)


def test_read_document_returns_the_length(tmp_path):
    path = save(program(), tmp_path / "model")
    doc, length = read_document(path)
    assert length == path.stat().st_size
    assert [spec.name for spec in doc.header.specs] == list(program().state_dict())


def test_a_missing_file_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="check the path"):
        load(tmp_path / "nothing")


def test_programs_with_two_outputs_are_kept(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            return {"y": y, "z": [y + 1, y * 2]}

    model = Two().eval()
    found = load(save(export(model, torch.zeros(2, 4)), tmp_path / "two"))
    x = torch.randn(3, 4)
    torch.testing.assert_close(found(x), model(x))


def test_coarser_values_of_a_float64_model_are_refused_and_not_ignored(tmp_path):
    model = torch.nn.Linear(3, 2).double()
    x = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ArtifactError, match=r"float64.*model\.float\(\)"):
        save(model, tmp_path / "net.actprune", example=x, values="int8")
    assert not (tmp_path / "net.actprune").exists()
    save(model, tmp_path / "net.actprune", example=x)
    assert torch.equal(load(tmp_path / "net.actprune")(x), model(x))
