"""The public sweep: a tiny list of trials, killed, resumed, aggregated, in a table beside published figures."""

import signal
import subprocess
import sys

import pytest

from actprune.errors import CheckpointError, RecipeError, RuntimePathError
from actprune.lab import store, sweep
from actprune.lab.sweep import Trial, main, missing, rows, select, spread, table

CALLS = []


def one(method, seed):
    """The function of a trial below."""
    CALLS.append((method, seed))
    if method == "wrong":
        raise RecipeError("it cannot be done")
    if method == "bug":
        raise ZeroDivisionError("a bug")
    return {"test_accuracy": {"a": 0.9, "b": 0.8}[method] + seed / 100}


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sweep_under_test", sys.modules[__name__])
    CALLS.clear()


def trials(methods=("a", "b"), seeds=(0, 1), function="one"):
    return [Trial({"method": m, "seed": s}, f"sweep_under_test:{function}") for s in seeds for m in methods]


def test_every_trial_is_computed_once_and_a_cut_line_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    told = []
    assert sweep.sweep(trials(), path, told=told.append) == []
    assert CALLS == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert told[0].startswith("1/4 a, seed 0: test 90.00 %")
    path.write_bytes(path.read_bytes()[:-10])  # as a kill leaves it
    assert [trial.name for trial in missing(trials(), path)] == ["b, seed 1"]
    CALLS.clear()
    sweep.sweep(trials(), path, told=told.append)
    assert CALLS == [("b", 1)]
    assert len(rows(path)) == 4
    assert select(rows(path), method="a", seed=1)[0]["test_accuracy"] == pytest.approx(0.91)


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    sweep.sweep(trials(), path, told=lambda _: None)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    with pytest.raises(CheckpointError, match="line 2 is damaged"):
        rows(path)


def test_a_refusal_is_a_row_and_a_bug_is_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    failed = sweep.sweep(trials(("a", "wrong", "bug"), (0,)), path, told=lambda _: None)
    assert failed == ["bug, seed 0: ZeroDivisionError: a bug"]
    assert [row.get("refused") for row in rows(path)] == [None, "RecipeError: it cannot be done"]
    assert [trial.name for trial in missing(trials(("a", "wrong", "bug"), (0,)), path)] == ["bug, seed 0"]


KILLED = """
import os, signal, sys
from pathlib import Path
from actprune.lab.sweep import Trial, main, select, spread, table

def one(method, seed):
    with open("calls", "a") as calls:
        calls.write(f"{method}{seed} ")
    if os.path.exists("kill") and seed == 1:
        os.unlink("kill")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"error": 1.5 + seed / 5}

def report(rows):
    body = [(m, "1.6", spread([row["error"] for row in select(rows, method=m)])) for m in ("a", "b")]
    Path("table.md").write_text(table(("method", "published", "ours"), body))

if __name__ == "__main__":
    main("A benchmark.", [Trial({"method": m, "seed": s}, "bench:one") for s in (0, 1) for m in "ab"], Path("r.jsonl"), report)
"""  # noqa: E501


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_killed_benchmark_goes_on(tmp_path):
    (tmp_path / "bench.py").write_text(KILLED)
    (tmp_path / "kill").touch()
    killed = subprocess.run([sys.executable, "bench.py"], cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(rows(tmp_path / "r.jsonl")) == 2
    subprocess.run([sys.executable, "bench.py"], cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "calls").read_text().split() == ["a0", "b0", "a1", "a1", "b1"]
    assert "| a | 1.6 | 1.60 ± 0.14 |\n| b | 1.6 | 1.60 ± 0.14 |\n" in (tmp_path / "table.md").read_text()


def test_a_cluster_cannot_be_stopped_by_the_clock(tmp_path):
    with pytest.raises(RecipeError, match="leave out --minutes, or --ray"):
        sweep.sweep(trials(), tmp_path / "rows.jsonl", ray="local", minutes=5)


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimePathError, match=r"actprune\[ray\]"):
        sweep.sweep(trials(), tmp_path / "rows.jsonl", ray="local")


def test_no_new_trial_after_the_time_is_up(tmp_path):
    path = tmp_path / "rows.jsonl"
    sweep.sweep(trials(), path, minutes=-1, told=lambda _: None)
    assert rows(path) == []


def test_real_runs_over_two_processes(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    (tmp_path / "of_this_test.py").write_text(
        "from pathlib import Path\nfrom actprune.lab import RunConfig\nfrom actprune.lab.sweep import train\n\n\n"
        "def small(method, seed):\n    return train(RunConfig(method=method, seed=seed, model='mlp', hidden=(16,),\n"
        "        max_epochs=2, schedule='before'), Path('runs') / f'{method}-{seed}')\n"
    )
    two = [Trial({"method": "magnitude", "seed": seed}, "of_this_test:small") for seed in (0, 1)]
    assert sweep.sweep(two, path, jobs=2, told=lambda _: None) == []
    found = rows(path)
    assert {row["seed"] for row in found} == {0, 1}
    assert all(row["summary"]["actual"] == pytest.approx(0.9, abs=1e-3) for row in found)
    assert all(row["config"]["threads"] == 1 for row in found)
    assert not (tmp_path / "runs" / "magnitude-0" / "checkpoints").exists()


def test_mean_spread_and_a_published_column():
    assert spread([0.9, 0.92], scale=100) == "91.00 ± 1.41"
    assert spread([1234.5], 0) == "1,234"
    assert spread([1.0, float("inf")]) == "inf"
    assert table(("method", "published", "ours"), [("a", "1.6", spread([1.5, 1.7]))]) == (
        "| method | published | ours |\n| :--- | ---: | ---: |\n| a | 1.6 | 1.60 ± 0.14 |\n"
    )


def test_the_command_line(tmp_path, monkeypatch, capsys):
    path, reports = tmp_path / "rows.jsonl", []

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        main("A benchmark.", trials(), path, reports.append)
        return capsys.readouterr().out

    assert "4 of 4 trials are missing" in call("--dry-run")
    assert not path.exists()
    call("--only", "a", "--seeds", "0")
    assert CALLS == [("a", 0)]
    call("--report")
    assert CALLS == [("a", 0)]
    assert [len(found) for found in reports] == [1, 1]
    with pytest.raises(SystemExit):
        call("--only", "nobody")
    assert "leaves no trial" in capsys.readouterr().err
    assert store.rows(path)[0]["method"] == "a"
    with pytest.raises(SystemExit):
        call("--ray", "local", "--minutes", "5")
    assert capsys.readouterr().err.startswith("RecipeError: 5 minutes were asked for over Ray")
