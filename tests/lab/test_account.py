"""One account: terminal, JSON, HTML page, comparison and file say the figures that other means count."""

import json
import re

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from actprune import lab
from actprune.lab.cli.main import app
from actprune.lab.compare import Training, chosen, sweep, trials_of
from actprune.lab.compare.figures import figures
from actprune.lab.models import import_object
from actprune.lab.report.html import write
from actprune.lab.shipped import read
from support.runs import go

NETS = ["article", "support.networks_shown:convolutional", "support.networks_shown:Recurrent",
        "support.networks_shown:Attention"]  # fmt: skip


def words(text):
    return " ".join(re.sub(r"[│┃┏━┡╇┩├┤┼┴└┘─┐┌┬]|<[^>]*>|&[a-z]+;|\xa0", " ", text).split())


def by_other_means(model, x, positions):
    """Weights, kept, biases, dense and kept FLOP of one example."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.eval()(x)
    finally:
        torch._C._set_mkldnn_enabled(True)
    dense = counter.get_total_flops() // len(x)
    layers = {n: m.weight for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))}
    gone = {name: int((weight == 0).sum()) for name, weight in layers.items()}
    total = sum(p.numel() for p in weights)
    return (
        total, total - sum(gone.values()), sum(p.numel() for p in model.parameters() if p.dim() < 2), dense,
        dense - sum(2 * count * positions[name] for name, count in gone.items()),
    )  # fmt: skip


def positions_of(model, x):
    found = {}

    def hook(name):
        return lambda module, _, out: found.update({name: out.numel() // len(module.weight) // len(x)})

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules()
               if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]  # fmt: skip
    model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", NETS)
def test_every_place_says_the_same_figures(tmp_path, name):
    result = go(tmp_path, model=name, hidden=None, schedule="before", method="magnitude", max_epochs=1, start_at=0.0,
                retrain_to=0.0)  # fmt: skip
    x = result.pruner.state.example[0][0]
    expected = by_other_means(result.model, x, positions_of(result.model, x))
    weights, kept, _, dense, left = expected
    assert kept < weights

    found = json.loads((result.folder / "summary.json").read_text())
    network = found["network"]
    assert tuple(network[key] for key in ("weights", "kept", "biases", "flop", "flop_left")) == expected
    assert found["sparsity"] == network["sparsity"] == pytest.approx(1 - kept / weights)
    assert found["compression"] == pytest.approx(weights / kept)
    assert found["flop_kept"] == pytest.approx(left / dense)

    page = words(write(result.folder, tmp_path / "page.html").read_text())
    for before, after in ((weights, kept), (dense, left)):
        assert f"{before:,}" in page
        assert f"{after:,}" in page
    assert f"{100 * kept / weights:.2f} %" in page

    row = figures(result, result.summary["steps"])
    assert (row["weights"], row["kept"]) == (weights, kept)
    assert (row["actual"], row["flop_kept"]) == (found["sparsity"], found["flop_kept"])


def test_the_terminal_and_the_file_say_them_too(tmp_path):
    folder = tmp_path / "run"
    model = "support.networks_shown:convolutional"
    run = ["run", "--model", model, "--schedule", "before", "--method", "magnitude", "--sparsity", "0.5",
           "--epochs", "1", "--no-plots", "--out", str(folder)]  # fmt: skip
    shown = CliRunner().invoke(app, run)
    assert shown.exit_code == 0, shown.output
    origin = read(folder)
    x = origin.example
    weights, kept, biases, dense, left = by_other_means(origin.model, x, positions_of(origin.model, x))
    text = words(shown.output)
    for line in (f"whole network: weights {weights:,} {kept:,}", f"biases and scales {biases:,} {biases:,}",
                 f"FLOP of one example {dense:,} {left:,} ({100 * left / dense:.2f} %)",
                 f"sparsity {100 * (1 - kept / weights):.2f} %", f"compression {weights / kept:.1f}x",
                 "left alone: 3"):  # fmt: skip
        assert line in text, line
    assert import_object(model) is not None
    assert lab.RunConfig(model=model).network == model


def test_inspect_says_what_a_file_holds(tmp_path):
    folder = go(tmp_path, schedule="before", method="magnitude", max_epochs=1, start_at=0.0, retrain_to=0.0).folder
    runner = CliRunner()
    assert runner.invoke(app, ["compact", str(folder)]).exit_code == 0
    file = folder / "model.actprune"
    shown = runner.invoke(app, ["inspect", str(file), "--json"])
    assert shown.exit_code == 0, shown.output
    network = json.loads(shown.output)["network"]
    from actprune import load

    program = load(file)
    parts = [p for p in program.parameters() if p.dim() > 1]
    assert network["weights"] == sum(p.numel() for p in parts)
    assert network["kept"] == sum(int((p != 0).sum()) for p in parts)
    assert network["flop"] == 2 * network["weights"]
    assert network["flop_left"] == 2 * network["kept"]
    assert f"weights {network['weights']:,} -> {network['kept']:,}" in words(
        runner.invoke(app, ["inspect", str(file)]).output
    )


@pytest.mark.parametrize("name", ["support.networks_shown:Recurrent", "support.networks_shown:convolutional"])
def test_a_comparison_leaves_the_same_weights_of_the_whole_network(tmp_path, name):
    training = Training(epochs=4)
    baselines = [(each, 0.03) for each in chosen(["magnitude-global", "activation"])]
    swept = sweep(trials_of(["digits"], [name], baselines, (0,), training), tmp_path)
    assert not swept.failed
    model = import_object(name)()
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    for row in (row for row in swept.rows if row["baseline"] != "dense"):
        assert row["status"] == "ok", row["reason"]
        assert row["weights"] == weights
        assert row["kept"] == pytest.approx(weights - round(0.03 * weights), abs=0.01 * weights)
        assert row["actual"] == pytest.approx(1 - row["kept"] / weights)
