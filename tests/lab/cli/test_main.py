"""The ``actprune`` command: what it prints, its exit codes, and the errors a new user will make."""

import json
import re

import pytest
from typer.testing import CliRunner

import actprune
from actprune.lab import loop
from actprune.lab.cli.main import app

QUICK = [
    "run", "--model", "mlp", "--hidden", "24,16", "--lr", "0.1", "--batch-size", "32", "--epochs", "12",
    "--pruning-steps", "2", "--start-at", "0.5", "--retrain-to", "0.9", "--sparsity", "0.5", "--threads", "1",
    "--no-plots",
]  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160", "TERM": "dumb"})


def plain(text):
    """Without colours, frames and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─┃━]", " ", text).split())


def test_version_and_help():
    assert call("--version").output == f"actprune {actprune.__version__}\n"
    top = plain(call("--help").output)
    assert "run" in top
    assert "resume" in top
    shown = plain(call("run", "--help").output)
    for text in (
        "Data and model",
        "Pruning",
        "Training",
        "Output",
        "--seeds 0,1,2",
        "--lr",
        "Learning rate. Default: 0.05.",
    ):
        assert text in shown


def test_run_ends_with_one_table_and_the_folder(tmp_path):
    result = call(*QUICK, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    text = plain(result.output)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "pruning step 2: target 50.00%, actual 50.00%" in text
    for line in (
        "prunable weights removed 50.00 % 50.00 %",
        "pruning steps 2 2",
        f"compression {summary['compression']:.1f}x",
    ):
        assert line in text
    accuracy = f"{100 * summary['test_accuracy']:.2f} %"
    assert f"test accuracy - {accuracy}" in text  # the test set is read once, at the end
    layer = summary["layers"][0]
    assert f"fc1 1,536 weights, 24 neurons {layer['kept']:,}" in text
    assert f"{layer['neurons_alive']} alive, rank {layer['rank']}" in text
    assert str(tmp_path / "run") in result.output


def test_quiet_prints_nothing(tmp_path):
    assert call(*QUICK, "--quiet", "--out", tmp_path / "run").output == ""
    assert call("resume", tmp_path / "run", "--quiet", "--no-plots").output == ""


def test_without_out_a_free_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call(*QUICK, "--quiet").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "digits-activation-50-seed0",
        "digits-activation-50-seed0-2",
    ]


def test_seeds_give_a_row_each_and_mean_with_spread(tmp_path):
    result = call(*QUICK, "--seeds", "3,4", "--out", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    text = plain(result.output)
    both = [json.loads((tmp_path / "runs" / f"seed-{seed}" / "summary.json").read_text()) for seed in (3, 4)]
    assert [summary["seed"] for summary in both] == [3, 4]
    assert "run seed-3 seed-4 mean ± std" in text
    one, two = (summary["test_accuracy"] for summary in both)
    assert re.search(rf"test acc. \(%\) {100 * one:.2f} {100 * two:.2f} {50 * (one + two):.2f} ± \d", text)
    again = call(*QUICK, "--seeds", "3,4", "--out", tmp_path / "runs")
    assert again.exit_code == 2
    assert "holds runs already" in plain(again.output)


def test_options_and_config_files(tmp_path):
    first = call(*QUICK, "-o", "score=neuron", "-o", "keep_at_least=2", "--quiet", "--out", tmp_path / "a")
    assert first.exit_code == 0, first.output
    stored = json.loads((tmp_path / "a" / "config.json").read_text())
    assert stored["options"] == {"score": "neuron", "keep_at_least": 2}
    arguments = ("--seed", 8, "-o", "keep_at_least=1", "--no-plots", "--quiet", "--out", tmp_path / "b")
    second = call("run", "--config", tmp_path / "a" / "config.json", *arguments)
    assert second.exit_code == 0, second.output
    changed = json.loads((tmp_path / "b" / "config.json").read_text())
    assert changed == {**stored, "seed": 8, "options": {"score": "neuron", "keep_at_least": 1}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "activaton"], "unknown method 'activaton'; did you mean 'activation'?"),
        (["--data", "fashon-mnist"], "unknown data set 'fashon-mnist'; did you mean 'fashion-mnist'?"),
        (
            ["--sparsity", "90"],
            "sparsity=90.0 cannot be used; expected less than 1; it is a fraction, so write 0.9 for 90 %",
        ),
        (["--option", "score"], "--option 'score' cannot be used; expected name=value"),
        (["--option", "scor=neuron"], "did you mean 'score'?"),
        (["--hidden", "a,b"], "--hidden 'a,b' cannot be used; expected whole numbers"),
        (["--seeds", "1,1"], "expected different whole numbers"),
        (["--schedule", "cubicc"], "schedule='cubicc' cannot be used; expected 'accuracy', 'cubic', 'once'"),
    ],
)
def test_mistakes_get_one_clean_message(tmp_path, arguments, message):
    result = call(*QUICK, "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    text = plain(result.output)
    assert text.startswith("error: ")
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(tmp_path):
    result = call(*QUICK, "--out", tmp_path / "run", "--method", "nothing", "--debug")
    assert isinstance(result.exception, actprune.ActpruneError)


def test_resume_of_nothing(tmp_path):
    result = call("resume", tmp_path)
    assert result.exit_code == 2
    assert "holds no run" in plain(result.output)


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    real, left = loop.train_epoch, [3]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", interrupted)
        result = call(*QUICK, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert f"interrupted; go on with: actprune resume {tmp_path / 'run'}" in plain(result.output)
    resumed = call("resume", tmp_path / "run", "--no-plots")
    assert resumed.exit_code == 0, resumed.output
    assert "resumed after epoch 3" in plain(resumed.output)
    assert call(*QUICK, "--quiet", "--out", tmp_path / "whole").exit_code == 0
    both = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert both[0] == both[1]


def test_methods_are_listed_with_their_sources():
    text = plain(call("methods").output)
    for name in actprune.methods.names():
        assert name in text
    assert "Algorithms 17(1):48, 2024" in text
    one = plain(call("methods", "snip").output)
    assert "arXiv 1810.02340" in one
    assert "skip_output" in one
    wrong = call("methods", "snipp")
    assert wrong.exit_code == 2
    assert "did you mean 'snip'?" in plain(wrong.output)


def test_gradients_of_the_loss_under_a_cubic_schedule(tmp_path):
    """Three pruning steps, each by the gradients that the optimizer's step finds."""
    result = call(*QUICK, "--method", "snip", "--schedule", "cubic", "--pruning-steps", "3", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["pruning_steps_done"] == 3
    assert summary["actual"] == pytest.approx(0.5, abs=1e-3)
