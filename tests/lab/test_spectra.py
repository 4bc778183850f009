"""Runs that write singular values: what the files hold, that a resume gives the same, the table and the figures."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from actprune import analysis
from actprune.errors import DataError, RecipeError
from actprune.lab import RunConfig, resume, run, spectra
from actprune.lab.cli.main import app
from actprune.lab.report import plots
from actprune.lab.report.tables import rank_table

QUICK = {
    "model": "mlp", "hidden": (24, 16), "lr": 0.1, "batch_size": 32, "max_epochs": 6, "pruning_steps": 2,
    "start_at": 0.4,
    "retrain_to": 0.7, "stop_at": 1.0, "patience": 0, "sparsity": 0.6, "threads": 1, "spectra": True,
}  # fmt: skip
LAYERS = ["fc1.weight", "fc2.weight", "fc3.weight"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(RunConfig(**QUICK), tmp_path_factory.mktemp("spectra") / "run")


def test_every_pruning_leaves_its_singular_values(finished):
    pruning_steps, end = spectra.read(finished.folder)
    assert len(pruning_steps) == finished.summary["pruning_steps_done"] == 2
    for pruning_step in pruning_steps:
        assert list(pruning_step) == LAYERS
        for name in ("fc1.weight", "fc2.weight"):
            own = pruning_step[name]
            assert set(own) == {"before", "after", "magnitude", "random", "shape", "kept"}
            energy = {key: float(own[key].square().sum()) for key in ("before", "after", "magnitude", "random")}
            assert energy["after"] < energy["before"]  # what a mask takes is energy
            assert energy["random"] < energy["magnitude"] < energy["before"]
            assert energy["after"] <= energy["magnitude"] + 1e-9  # no mask of that size keeps more
        assert torch.equal(
            pruning_step["fc3.weight"]["before"], pruning_step["fc3.weight"]["after"]
        )  # the output layer stays
    first = load_file(finished.folder / "pruning_steps" / "pruning-step-01.safetensors")
    assert int(pruning_steps[0]["fc1.weight"]["kept"]) == int(first["fc1.weight/kept"].sum())
    for name in LAYERS:
        weight = finished.model.get_parameter(name)
        assert torch.equal(end[name]["end"], analysis.singular_values(weight))
        assert end[name]["shape"].tolist() == list(weight.shape)


def test_before_is_what_the_checkpoint_of_the_previous_moment_leads_to(tmp_path):
    """After a one-shot pruning before training, before and after are known exactly."""
    config = RunConfig(**{**QUICK, "method": "magnitude", "schedule": "before", "max_epochs": 1, "seed": 3})
    result = run(config, tmp_path / "run", plots=False)
    from actprune.lab.setup import build

    initial = build(config).model
    masks = load_file(result.folder / "masks.safetensors")
    (pruning_step,), _ = spectra.read(result.folder)
    for name, mask in masks.items():
        weight = initial.get_parameter(name)
        assert torch.allclose(pruning_step[name]["before"], analysis.singular_values(weight))
        assert torch.allclose(pruning_step[name]["after"], analysis.singular_values(weight * mask))


def test_a_resumed_run_writes_the_same_bytes(finished, tmp_path):
    def content(folder):
        return {path.name: path.read_bytes() for path in (folder / "pruning_steps").iterdir()}

    other = run(RunConfig(**QUICK), tmp_path / "run", plots=False)
    whole = content(other.folder)
    assert whole == content(finished.folder)
    (other.folder / "pruning_steps" / "spectra-02.safetensors").unlink()
    (other.folder / "pruning_steps" / "spectra-end.safetensors").unlink()
    resume(other.folder, checkpoint="pruning-step-01", plots=False)
    assert content(other.folder) == whole


def test_table_and_figure(finished):
    table = (finished.folder / "pruning_steps" / "ranks.md").read_text().splitlines()
    assert len(table) == 2 + 2 * 3 + 3
    assert table[2].startswith("| 1 | fc1 | ")
    assert table[-1].startswith("| end | fc3 |  | 10 |")
    assert "24 -> " in table[2]
    assert {"spectra.svg", "spectra.png"} <= {path.name for path in (finished.folder / "plots").iterdir()}
    rows = spectra.rank_rows(finished.folder)
    assert rows[-1]["after"]["numerical"] == 10
    assert rank_table(rows).splitlines() == table


def test_without_the_flag_nothing_is_written(tmp_path):
    result = run(RunConfig(**{**QUICK, "spectra": False, "max_epochs": 3}), tmp_path / "run", plots=False)
    assert not list((result.folder / "pruning_steps").glob("spectra*"))
    assert spectra.read(result.folder) == ([], {})


def test_too_many_prunings_are_refused_before_anything_is_written(tmp_path):
    config = RunConfig(**{**QUICK, "pruning_steps": 51})
    with pytest.raises(RecipeError, match="at most 50"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_option_of_the_command_line(tmp_path):
    options = (
        "run --model mlp --hidden 12 --epochs 2 --pruning-steps 1 --start-at 0 --threads 1 --spectra --no-plots --quiet"
    )
    found = CliRunner().invoke(app, [*options.split(), "--out", str(tmp_path / "run")])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "run" / "pruning_steps" / "spectra-01.safetensors").exists()


# ---- figures ------------------------------------------------------------------------------------------------------


def test_spectra_of_an_emptied_layer_are_drawn(tmp_path):
    zero = {key: np.zeros(4) for key in ("before", "after", "random")}
    ladder = {"before": np.array([4.0, 3, 2]), "after": np.array([2.0, 1, 0]), "random": np.array([3.0, 2, 1])}
    plots.spectra([{"fc1": ladder}, {"fc1": ladder, "fc2": zero}], tmp_path / "s.svg", "title")
    assert (tmp_path / "s.svg").read_text().count("pruning step 2") >= 1
    with pytest.raises(DataError, match="random"):
        plots.spectra([{"fc1": {"before": [1.0], "after": [1.0]}}], tmp_path / "t.svg")
    with pytest.raises(DataError, match="layer"):
        plots.spectra([], tmp_path / "t.svg")


def test_heat_maps_keep_lone_entries_visible(tmp_path):
    from actprune.lab.report.heatmaps import _picture

    weight = np.zeros((450, 1000))
    weight[449, 997] = -2.0
    small = _picture("net", "fc1", weight)
    assert small.shape == (200, 200)
    assert small.max() == 2.0
    plots.heat_maps({"a": {"fc1": weight, "fc2": np.eye(3)}, "b": {"fc1": weight}}, tmp_path / "h.png", "title")
    assert (tmp_path / "h.png").stat().st_size > 1000
    for bad in ({}, {"a": {}}, {"a": {"fc1": np.full((2, 2), np.nan)}}, {"a": {"fc1": np.ones(3)}}):
        with pytest.raises(DataError):
            plots.heat_maps(bad, tmp_path / "h.png")
