"""From a run's folder to what is shipped: compact, pack, inspect, bench, predict, export, on the command line."""

import csv
import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import actprune
from actprune.lab import RunConfig, run, shipped
from actprune.lab.cli.main import app
from actprune.lab.evaluate import evaluate

CONFIG = RunConfig(
    model="mlp", hidden=(32, 16), lr=0.1, batch_size=32, max_epochs=15, pruning_steps=2, start_at=0.5, retrain_to=0.95,
    sparsity=0.8, threads=1, schedule="cubic", cubic_epochs=6, stop_at=1.0,
)  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160", "TERM": "dumb"})


def plain(text):
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─┃━┏┓┗┛┡┩├┤└┘┬┴┼╇]", " ", text).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run on digits, compacted and packed by the commands."""
    folder = tmp_path_factory.mktemp("ship") / "run"
    run(CONFIG, folder, plots=False)
    compacted = call("compact", folder)
    packed = call("pack", folder, "--max-loss", "1", "--epochs", "2")
    assert compacted.exit_code == 0, compacted.output
    assert packed.exit_code == 0, packed.output
    return folder, compacted.output, packed.output


def test_compact_writes_a_smaller_file_that_computes_the_same(finished):
    folder, output, _ = finished
    found, small = shipped.read(folder), actprune.load(folder / "model.actprune")
    x, y = found.dataset.test
    with torch.no_grad():
        assert torch.allclose(small(x), found.model(x), rtol=0, atol=1e-4)
    assert evaluate(small, (x, y)).accuracy == found.summary["test_accuracy"]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in found.model.parameters())
    assert (folder / "model.actprune").stat().st_size < 0.5 * (folder / "model.safetensors").stat().st_size
    text = plain(output)
    assert f"fc1 32 x 64 {small.get_parameter('fc1.weight').shape[0]} x" in text
    assert "largest difference from the masked network" in text


def test_pack_says_how_good_the_network_was_that_its_sizes_are_compared_with(finished):
    folder, _, output = finished
    dense = shipped.read(folder).summary["dense"]["validation_accuracy"]
    assert f"sizes are compared with, had {dense:.2%} validation accuracy when pruning began" in plain(output)


def test_pack_keeps_the_accuracy_it_was_asked_to_keep_and_says_what_it_tried(finished):
    folder, _, output = finished
    found, small = shipped.read(folder), actprune.load(folder / "model.actprune")
    packed = actprune.load(folder / "packed.actprune")
    before = evaluate(small, found.dataset.validation).accuracy
    after = evaluate(packed, found.dataset.validation).accuracy
    assert after >= before - 0.01
    assert (folder / "packed.actprune").stat().st_size < (folder / "model.actprune").stat().st_size
    text = plain(output)
    test = evaluate(packed, found.dataset.test).accuracy
    assert "good enough" in text
    assert f"and {100 * test:.2f}%" in text
    assert "entropy bound" in text


def test_inspect_lists_every_tensor_and_where_the_file_comes_from(finished):
    folder, *_ = finished
    text = plain(call("inspect", folder / "packed.actprune").output)
    for word in ("fc1.weight", "shared", "method: activation", "data: digits", "the digest is right"):
        assert word in text
    stored = json.loads(call("inspect", folder / "packed.actprune", "--json").output)
    assert stored["about"]["recipe"]["name"] == "activation"
    assert stored["bytes"] == (folder / "packed.actprune").stat().st_size


def test_bench_prints_ratios_sizes_and_a_verdict(finished):
    folder, *_ = finished
    result = call("bench", folder / "model.actprune", "--batches", "1,8", "--seconds", "0.1")
    assert result.exit_code == 0, result.output
    text = plain(result.output)
    for word in ("torch eager", "numba sparse", "dense original", "batch 1:", "batch 8:", "non-zero weights", "chosen"):
        assert word in text
    weights = 64 * 32 + 32 * 16 + 16 * 10
    assert f"FLOP of one example, zeros skipped {2 * weights:,}" in text
    assert "dense runtime here" in text or "compact dense form" in text or "is already the fastest" in text


def test_predict_uses_the_pruned_network_in_place_of_the_original(finished, tmp_path):
    folder, *_ = finished
    found = shipped.read(folder)
    x, _ = found.dataset.test
    result = call("predict", folder / "model.actprune", "--data", "digits", "--out", tmp_path / "out.csv")
    assert f"{100 * found.summary['test_accuracy']:.2f}% correct" in plain(result.output)
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    with torch.no_grad():
        expected = found.model(x).argmax(1).tolist()
    assert rows[0] == ["index", "class"]
    assert [int(row[1]) for row in rows[1:]] == expected
    np.save(tmp_path / "x.npy", x[:5].numpy())
    assert "5 examples" in call("predict", folder / "model.actprune", "--data", tmp_path / "x.npy").output


def test_export_gives_an_onnx_file_with_a_free_batch_size(finished, tmp_path):
    folder, *_ = finished
    result = call("export", folder / "model.actprune", "--onnx", tmp_path / "net.onnx")
    assert result.exit_code == 0, result.output
    found = shipped.read(folder)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    x = found.dataset.test[0][:7]
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert np.allclose(got, found.model(x).numpy(), atol=1e-4)


@pytest.mark.parametrize("command", ["compact", "pack"])
def test_a_folder_without_a_finished_run_is_refused_with_a_remedy(command, finished, tmp_path):
    result = call(command, tmp_path)
    assert result.exit_code == 2
    assert "holds no run" in plain(result.output)
    half = tmp_path / "half"
    shutil.copytree(finished[0], half)
    (half / "summary.json").unlink()
    assert "actprune resume" in plain(call(command, half).output)


def test_damaged_files_are_one_clear_error(finished, tmp_path):
    content = bytearray((finished[0] / "packed.actprune").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.actprune").write_bytes(content)
    for command in (("inspect",), ("bench",), ("predict", "--data", "digits"), ("export", "--onnx", tmp_path / "o")):
        result = call(command[0], tmp_path / "bad.actprune", *command[1:])
        assert result.exit_code == 2, result.output
        assert result.output.startswith("error:")


def test_inputs_that_do_not_fit_are_refused(finished, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 7), np.float32))
    text = plain(call("predict", finished[0] / "model.actprune", "--data", tmp_path / "x.npy").output)
    assert "(7,)" in text
    assert "(1, 8, 8)" in text
    assert "--onnx" in plain(call("export", finished[0] / "model.actprune").output)


@pytest.mark.parametrize("array", [np.array(1.0), np.array(["a"]), np.array([1j]), None])
def test_npy_files_without_numbers_are_refused(finished, tmp_path, array):
    (tmp_path / "x.npy").touch()
    if array is not None:
        np.save(tmp_path / "x.npy", array)
    result = call("predict", finished[0] / "model.actprune", "--data", tmp_path / "x.npy")
    assert result.exit_code == 2, result.output
    assert result.output.startswith("error:")


def test_file_names_are_not_markup_and_folders_are_not_files(finished, tmp_path):
    odd = tmp_path / "a[" / "b].actprune"
    odd.parent.mkdir()
    shutil.copy(finished[0] / "model.actprune", odd)
    assert call("inspect", odd).exit_code == 0
    result = call("compact", finished[0], "--out", ".")
    assert result.exit_code == 2, result.output
    assert "Is a directory" in result.output


@pytest.mark.parametrize("shape", [None, 5, ["a"], [2.5], [-1], [0], [[3]], [2**40], [2**20, 2**20]])
def test_shapes_that_no_input_has_are_refused(tmp_path, shape):
    """A shape comes from the file: no memory is asked for because of it."""
    model = torch.nn.Linear(3, 2)
    actprune.save(model, tmp_path / "x.actprune", example=torch.randn(2, 3), about={"shape": shape})
    result = call("export", tmp_path / "x.actprune", "--onnx", tmp_path / "x.onnx")
    assert result.exit_code == 2, result.output
    assert "does not say what shape" in plain(result.output)


def test_a_file_cannot_speak_to_the_terminal(tmp_path):
    about = {"method": "\x1b[31m[/x]", "\x07bell": 1}
    actprune.save(torch.nn.Linear(3, 2), tmp_path / "x.actprune", example=torch.randn(2, 3), about=about)
    output = call("inspect", tmp_path / "x.actprune").output
    assert "?[31m[/x]" in output
    assert "\x1b[31m" not in output
    assert "\x07" not in output
