"""``actprune compare`` on the command line."""

import pytest
from typer.testing import CliRunner

from actprune.lab.cli.main import app

COMMON = ["compare", "--data", "digits", "--epochs", "2", "--seeds", "1"]


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_computes_reports_and_goes_on(tmp_path):
    command = [*COMMON, "--methods", "snip", "--sparsities", "0.9", "--out", tmp_path]
    planned = invoke(*command, "--dry-run")
    assert planned.exit_code == 0
    assert "2 trials, 2 to compute: no finished trial to estimate 2 of them from" in planned.output
    first = invoke(*command)
    assert first.exit_code == 0, first.output
    assert "2 trials to compute, 0 there already" in first.output
    assert "1/2 digits, lenet-300-100, seed 0: dense: test" in first.output
    assert (tmp_path / "accuracy.png").exists()
    again = invoke(*command)
    assert "0 trials to compute, 2 there already" in again.output
    more = invoke(*command, "--seeds", "2", "--dry-run")
    assert "4 trials, 2 to compute: about" in more.output
    (tmp_path / "table.md").unlink()
    assert invoke("compare", "--report", tmp_path, "--points", "0.3").exit_code == 0
    assert "0.3 points below" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "lap"], "did you mean 'lamp'"),
        (["--sparsities", "90"], "for 90 % write 0.9"),
        (["--sparsities", "high"], "expected fractions with commas"),
        (["--seeds", "0"], "expected a number of seeds"),
        (["--seeds", "many"], "expected a number of seeds"),
        (["--epochs", "1"], "expected at least 2"),
        (["--preset", "artikel"], "the only one is 'article'"),
        (["--data", "digitz"], "did you mean 'digits'"),
        (["--model", "lenet-300"], "did you mean 'lenet-300-100'"),
        (["--data", ","], "names nothing"),
        (["--methods", ""], "names nothing"),
        (["--batch-size", "0"], "expected at least 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, words, said):
    result = invoke(*COMMON, *words, "--out", tmp_path, "--dry-run")
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_report_of_nothing_says_so(tmp_path):
    result = invoke("compare", "--report", tmp_path)
    assert result.exit_code == 2
    assert "holds no result" in result.output


def test_the_preset_plans_the_articles_table(tmp_path):
    result = invoke(*COMMON, "--preset", "article", "--out", tmp_path, "--dry-run")
    assert result.exit_code == 0, result.output
    for words in ("article, seed 0: han at 92 %", "lenet-300-100, seed 0: variational-dropout at 86.03 %",
                  "lenet-300-100, seed 0: lottery at 98.94 %"):  # fmt: skip
        assert f"digits, {words}" in result.output


def test_seeds_by_number_and_by_list(tmp_path):
    listed = invoke(*COMMON, "--methods", "snip", "--seeds", "4,2", "--out", tmp_path, "--dry-run").output
    assert "seed 4" in listed
    assert "seed 2" in listed
    assert "seed 0" not in listed


def test_the_field_is_listed():
    result = invoke("compare", "--list")
    assert result.exit_code == 0
    assert "lottery-5x" in result.output
