import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from actprune.errors import CheckpointError, DataError
from actprune.lab.figures import draw
from actprune.lab.folder import RunFolder
from actprune.lab.report import style
from actprune.lab.report.html import page_of, write
from actprune.lab.report.plots import firing_histograms, neurons, survival, training_curves
from actprune.lab.report.tables import markdown, summary_table
from support import run_folders

RECORDS = [
    {"epoch": i, "train_accuracy": a, "validation_accuracy": a - 0.02, "sparsity": s, "pruned": i == 2, "loss": 1.0}
    for i, a, s in ((1, 0.7, 0.0), (2, 0.81234, 0.5), (3, 0.9, 0.5), (4, 0.95678, 0.5))
]
FIRED = [{"fc1": (torch.tensor([0, 5, 10]), 10), "fc2": ([0, 1], 10)}, {"fc1": (np.array([3, 5, 9]), 20)}]
KEPT = [{"fc1": [4, 2, 0], "fc2": [3, 3]}, {"fc1": np.array([1, 0, 0]), "fc2": torch.tensor([0, 0])}]
FIGURES = {
    "curves": lambda path: training_curves(RECORDS, path, title="a run"),
    "firing": lambda path: firing_histograms(FIRED, path, title="firing"),
    "survival": lambda path: survival(KEPT, path, {"fc1": 4, "fc2": 3}, title="kept"),
    "neurons": lambda path: neurons(KEPT, path, title="kept"),
}


def words(path):
    """Every text of an svg."""
    return [node.text for node in ET.parse(path).iter() if node.tag.endswith("}text")]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_written_whole_equal_and_leave_nothing_behind(tmp_path, name):
    settings = dict(mpl.rcParams)
    png, first, second = tmp_path / "a.png", tmp_path / "b.svg", str(tmp_path / "c.svg")
    for path in (png, first, second):
        FIGURES[name](path)
    pixels = imread(png)
    assert pixels.shape[0] > 250
    assert pixels.shape[1] > 300
    assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.6
    assert first.read_bytes() == (tmp_path / "c.svg").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.svg", "c.svg"]
    assert dict(mpl.rcParams) == settings


def test_pyplot_is_not_loaded(tmp_path):
    code = (
        "import sys, pathlib; from actprune.lab.report.plots import training_curves as t;"
        "t([dict(epoch=1, train_accuracy=.5, validation_accuracy=None, sparsity=0, pruned=True)],"
        "pathlib.Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "x.png")], check=True)


def test_training_curves_say_what_was_reached(tmp_path):
    FIGURES["curves"](tmp_path / "a.svg")
    found = words(tmp_path / "a.svg")
    for text in ("a run", "accuracy (%)", "weights removed (%)", "epoch", "pruning step", "50.00 %"):
        assert found.count(text) == 1
    assert "training, last 95.68 %" in found
    assert "validation, last 93.68 %" in found


def test_training_curves_with_gaps_and_a_single_epoch(tmp_path):
    gap = {**RECORDS[0], "validation_accuracy": None, "sparsity": None}
    training_curves([gap], tmp_path / "one.svg")
    assert "validation" in words(tmp_path / "one.svg")
    with pytest.raises(DataError, match="without a single epoch"):
        training_curves([], tmp_path / "none.png")
    with pytest.raises(DataError, match="record 1 lacks sparsity, pruned"):
        training_curves([RECORDS[0], {"epoch": 2, "train_accuracy": 1, "validation_accuracy": 1}], tmp_path / "n.png")


def test_firing_histograms_count_silent_neurons(tmp_path):
    FIGURES["firing"](tmp_path / "a.svg")
    found = words(tmp_path / "a.svg")
    steps = {"pruning step 1", "pruning step 2"}
    assert {"1 of 3 silent", "1 of 2 silent", "0 of 3 silent", "fc1", "fc2", *steps} <= set(found)


def test_equal_data_gives_equal_bytes_time_and_again(tmp_path):
    """The solver of the layout rounds differently from call to call, and ids would be made from its last digits."""
    place = run_folders.write_run(tmp_path / "one", result=run_folders.summary())
    found = []
    for _ in range(4):
        files = [*draw(RunFolder(place), "a run"), write(place)]
        found.append({path.name: path.read_bytes() for path in files})
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"reset_counts": False}, "Counts are cumulative: each row is of all examples up to that pruning step."),
        ({"reset_counts": True}, "Each row is of the examples since the pruning step before."),
        ({}, "Whether a row includes the examples of earlier ones is not recorded."),
    ],
)
def test_page_and_file_say_whether_firing_counts_run_on_over_the_pruning_steps(tmp_path, recipe, said):
    place = run_folders.write_run(tmp_path / "one", result=run_folders.summary())
    run_folders.write(place / "recipe.json", {"type": "Ranked", "name": "activation", **recipe})
    draw(RunFolder(place), "a run")
    assert said in write(place).read_text()
    assert {"a run", said} <= set(words(place / "plots" / "firing.svg"))


def test_a_run_has_the_charts_of_its_page_as_files(tmp_path):
    place = run_folders.write_run(tmp_path / "one", result=run_folders.summary())
    names = ["training", "firing", "survival", "neurons", "spectra"]
    assert [path.name for path in draw(RunFolder(place), "a run")] == [
        f"{name}.{suffix}" for name in names for suffix in ("svg", "png")
    ]
    charts = [chart for section in page_of(place).sections for chart in section.charts if chart.file]
    assert sorted(chart.file for chart in charts) == sorted(names)


@pytest.mark.parametrize(
    ("pruning_steps", "message"),
    [
        ([], "over 0 pruning steps was asked, without a single layer"),
        ([{}], "without a single layer"),
        ([{"fc1": ([1, 2], 0)}], "counted on 0 rows"),
        ([{"fc1": ([1, 11], 10)}], "largest 11, counted on 10 rows"),
        ([{"fc1": ([[1]], 10)}], r"shape \(1, 1\)"),
    ],
)
def test_impossible_firing_counts(tmp_path, pruning_steps, message):
    with pytest.raises(DataError, match=message):
        firing_histograms(pruning_steps, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_survival_names_layers_sizes_and_what_is_left(tmp_path):
    survival(KEPT, tmp_path / "a.svg", {"fc1": 4, "fc2": 3}, labels=("dense", "end"))
    found = words(tmp_path / "a.svg")
    assert {"fc1, 12 weights", "fc2, 6 weights", "dense", "end", "8.3", "weights kept (%)"} <= set(found)
    neurons(KEPT, tmp_path / "n.svg", labels=("dense", "end"))
    assert {"fc1", "fc2", "dense", "end", "weights kept per neuron"} <= set(words(tmp_path / "n.svg"))
    alive = [KEPT[0], {**KEPT[1], "fc2": [1, 1]}]
    survival(alive, tmp_path / "b.svg", {"fc1": 4, "fc2": 3})
    assert found.count("0") == words(tmp_path / "b.svg").count("0") + 1  # the mark of an emptied layer


@pytest.mark.parametrize(
    ("fan_in", "labels", "message"),
    [
        ({"fc1": 4}, (), "fan_in of fc2 is missing or zero"),
        ({"fc1": 3, "fc2": 3}, (), "kept weights of fc1 have shape .3,. and reach 4; .*fan_in = 3"),
        ({"fc1": 4, "fc2": 3}, ("a",), "1 labels for 2 pruning steps"),
    ],
)
def test_impossible_survival(tmp_path, fan_in, labels, message):
    with pytest.raises(DataError, match=message):
        survival(KEPT, tmp_path / "a.png", fan_in, labels=labels)


def test_many_pruning_steps_are_thinned_out_and_the_title_says_so(tmp_path):
    assert style.chosen(20, 8)[0] == 0
    assert style.chosen(20, 8)[-1] == 19
    assert len(style.chosen(20, 8)) == 8
    assert style.chosen(3, 8) == [0, 1, 2]
    firing_histograms([{"fc1": ([1, 2], 4)}] * 20, tmp_path / "a.svg", title="many")
    assert "many (8 of 20 pruning steps shown)" in words(tmp_path / "a.svg")


def test_a_figure_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"ends in \.svg, \.png, \.pdf"):
        training_curves(RECORDS, tmp_path / "a.gif")
    with pytest.raises(CheckpointError, match=r"cannot write .*no/a\.png: No such file"):
        training_curves(RECORDS, tmp_path / "no" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*folder\.png"):
        training_curves(RECORDS, tmp_path / "folder.png")
    assert os.listdir(tmp_path) == ["folder.png"]


ROW = {
    "run": "activation|global",
    "target": 0.9,
    "actual": 0.98943,
    "sparsity": 0.985,
    "compression": 94.32,
    "flop_kept": 0.0106,
    "ranks": {"fc1": 120, "fc2": 33},
    "train_accuracy": 0.98,
    "validation_accuracy": None,
    "test_accuracy": [0.95, 0.96],
    "seconds": 12.34,
    "more": object(),
}


def test_markdown_of_known_rows():
    assert markdown([ROW, {"target": 0.5, "compression": float("inf"), "test_accuracy": [0.5]}]) == (
        "| run | target (%) | actual (%) | sparsity (%) | compression | FLOP kept (%) | ranks | train acc. (%) | "
        "test acc. (%) | training time (s) |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| activation\\|global | 90.00 | 98.94 | 98.50 | 94.3x | 1.06 | 120/33 | 98.00 | 95.50 ± 0.71 | 12.3 |\n"
        "| 2 | 50.00 | - | - | inf | - | - | - | 50.00 | - |\n"
    )


def rendered(rows, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(rows, title="summary"))
    return console.file.getvalue()


def test_few_runs_stand_upright_and_fit_eighty_columns():
    lines = [line.split() for line in rendered([ROW, {**ROW, "run": "[bold]other"}], 80).splitlines()]
    assert ["run", "activation|global", "[bold]other"] in lines  # a name is never taken for markup
    assert ["actual", "(%)", "98.94", "98.94"] in lines
    assert ["ranks", "120/33", "120/33"] in lines


@pytest.mark.parametrize("width", [80, 160])
def test_many_runs_have_a_line_each_and_no_number_is_cut(width):
    text = rendered([{**ROW, "run": f"a rather long name {i}"} for i in range(5)], width)
    assert "…" not in text
    for number in ("90.00", "98.94", "94.3x", "1.06", "98.00", "95.50", "12.3"):
        assert text.count(number) == 5


@pytest.mark.parametrize("rows", [[], [{}], [{"run": "a", "test_accuracy": None}]])
def test_nothing_to_show(rows):
    with pytest.raises(DataError, match="nothing to show; expected rows with some of: target, actual"):
        markdown(rows)
