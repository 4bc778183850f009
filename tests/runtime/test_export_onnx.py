"""ONNX files: checked before they are written, any batch size, nothing lost when something fails."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from actprune.errors import ArtifactError, RuntimePathError
from actprune.program import export
from actprune.runtime.export_onnx import difference, export_onnx
from support.execution import exact, inputs, program_of
from support.nets import convnet, sparse_mlp

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path, *arrays):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {entry.name: x for entry, x in zip(session.get_inputs(), arrays, strict=True)})[0]


@pytest.mark.parametrize(
    "net", [sparse_mlp(12, 6, 3), sparse_mlp(5, 6, 3, columns=[0, 3, 4, 8, 11], bias=False)], ids=["plain", "gathered"]
)
def test_chains_are_short_graphs_that_take_any_batch(net, tmp_path):
    program = program_of(net, inputs(1, 3, 4))
    path = export_onnx(program, tmp_path / "net.onnx", inputs(1, 3, 4))
    ops = [node.op_type for node in onnx.load(path).graph.node]
    assert [op for op in ops if op != "Gather"] == ["Flatten", "Gemm", "Relu", "Gemm"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    for batch in (1, 13):
        x = inputs(batch, 3, 4)
        assert difference(run(path, x), exact(net, x)) < 1e-5


def test_other_networks_go_through_torch_onnx_in_silence(tmp_path, capfd):
    net = convnet()
    program = export(net, torch.zeros(2, 1, 8, 8)).train()
    path = export_onnx(program, str(tmp_path / "conv.onnx"), torch.zeros(1, 1, 8, 8))
    assert capfd.readouterr().out == ""
    assert program.training  # as it was
    x = inputs(5, 1, 8, 8)
    assert difference(run(path, x), exact(net, x)) < 1e-5


def test_two_inputs_and_tokens(tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 4)

        def forward(self, tokens, weights):
            return (self.table(tokens) * weights[:, :, None]).sum(1)

    example = torch.arange(6).reshape(2, 3), torch.rand(2, 3)
    net = Words()
    path = export_onnx(export(net, example), tmp_path / "words.onnx", example)
    tokens, weights = torch.randint(0, 7, (5, 3)), torch.rand(5, 3)
    assert difference(run(path, tokens.numpy(), weights.numpy()), net(tokens, weights).detach()) < 1e-5


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    room = sys.modules["actprune.runtime.export_onnx"]  # the function hides the module of the same name
    honest, x = room.onnx_bytes, inputs(2, 4)
    other = program_of(sparse_mlp(4, 3, seed=1), x)
    monkeypatch.setattr(room, "onnx_bytes", lambda _, *rest: honest(other, *rest))
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")
    with pytest.raises(RuntimePathError, match=r"wrong by .* at batch 1.*nothing was written"):
        export_onnx(program_of(sparse_mlp(4, 3), x), target, x)
    assert target.read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    x = inputs(2, 4)
    with pytest.raises(ArtifactError, match=r"net\.onnx cannot be written"):
        export_onnx(program_of(sparse_mlp(4, 3), x), tmp_path / "file" / "net.onnx", x)


@pytest.mark.parametrize("opset", [7, 99])
def test_opsets_that_do_not_exist_here(tmp_path, opset):
    x = inputs(2, 4)
    with pytest.raises(RuntimePathError, match=f"opset {opset} was asked"):
        export_onnx(program_of(sparse_mlp(4, 3), x), tmp_path / "net.onnx", x, opset=opset)


def test_examples_must_fit(tmp_path):
    x = inputs(2, 4)
    with pytest.raises(RuntimePathError, match="one tensor for each input"):
        export_onnx(program_of(sparse_mlp(4, 3), x), tmp_path / "net.onnx", (torch.zeros(2, 4), torch.zeros(2, 4)))


def test_difference_is_relative_to_the_scale_and_strict_about_what_is_not_finite():
    assert difference([2.0, 4.0], [2.0, 5.0]) == pytest.approx(0.2)
    assert difference([0.0], [0.0]) == 0
    assert difference([np.nan, 1.0], [np.nan, 1.0]) == 0
    assert difference([np.nan], [1.0]) == np.inf
    assert difference([1.0], [np.inf]) == np.inf
    assert difference([1.0, 2.0], [1.0]) == np.inf
