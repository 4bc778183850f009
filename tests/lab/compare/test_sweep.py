"""A comparison that is stopped, killed, resumed and spread over processes comes to the same file."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from actprune.errors import CheckpointError, DataError
from actprune.lab import run
from actprune.lab.compare import Training, chosen, sweep, trials_of, work
from actprune.lab.compare.sweep import NAME, rows_of
from actprune.lab.listener import Silent

TIMES = {"seconds", "cpu_seconds"}
QUICK = Training(epochs=3)


def planned(names=("magnitude-global",), sparsities=(0.9,), seeds=(0,), model="lenet-300-100", data="digits"):
    baselines = [(baseline, sparsity) for sparsity in sparsities for baseline in chosen(names)]
    return trials_of([data], [model], baselines, seeds, QUICK)


def timeless(rows):
    return sorted(
        ({key: value for key, value in row.items() if key not in TIMES} for row in rows), key=lambda row: row["id"]
    )


def refuse_to_work(*_, **__):
    raise AssertionError("this trial was computed already")


def test_a_trial_is_never_computed_twice(tmp_path, monkeypatch):
    trials = planned()
    first = sweep(trials, tmp_path)
    before = (tmp_path / NAME).read_bytes()
    monkeypatch.setattr(work, "work", refuse_to_work)
    again = sweep(trials, tmp_path)
    assert again.rows == first.rows
    assert not again.failed
    assert (tmp_path / NAME).read_bytes() == before


def test_one_run_may_stand_for_two_budgets(tmp_path, monkeypatch):
    """lottery-5x at 3 epochs is the run that lottery is at 15."""
    five, plain = (
        next(trial for trial in trials_of(["digits"], ["lenet-300-100"], [(chosen([name])[0], 0.9)], (0,), Training(n))
             if trial.sparsity)
        for name, n in (("lottery-5x", 3), ("lottery", 15))
    )  # fmt: skip
    assert five.id == plain.id
    sweep([five], tmp_path)
    monkeypatch.setattr(work, "work", refuse_to_work)
    (row,) = sweep([plain], tmp_path).rows
    assert (row["baseline"], row["training"], row["steps_relative"]) == ("lottery", str(plain.training), 1)
    assert [row["baseline"] for row in rows_of(tmp_path)] == ["lottery-5x", "lottery"]
    assert len(sweep([five, plain], tmp_path).rows) == 2


def test_processes_change_nothing_but_the_times(tmp_path):
    trials = planned(["activation", "snip"])
    one = sweep(trials, tmp_path / "one", jobs=1)
    two = sweep(trials, tmp_path / "two", jobs=2)
    assert not one.failed + two.failed
    assert timeless(one.rows) == timeless(two.rows)


class StoppedError(Exception):
    pass


class StopsAfter(Silent):
    def __init__(self, epoch):
        self.epoch = epoch

    def epoch_done(self, row):
        if row["epoch"] == self.epoch:
            raise StoppedError


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    trial = planned()[1]
    whole = work.work(trial.job(str(tmp_path / "whole")))
    job = trial.job(str(tmp_path / "trials"))
    with pytest.raises(StoppedError):
        run(trial.config, job["folder"], plots=False, listener=StopsAfter(2))
    monkeypatch.setattr(work, "run", refuse_to_work)
    assert timeless([work.work(job)]) == timeless([whole])


def test_a_trial_with_damaged_files_starts_again(tmp_path):
    trial = planned()[1]
    job = trial.job(str(tmp_path))
    with pytest.raises(StoppedError):
        run(trial.config, job["folder"], plots=False, listener=StopsAfter(1))
    for checkpoint in (tmp_path / trial.id / "checkpoints").iterdir():
        checkpoint.write_bytes(b"damaged")
    assert work.work(job)["status"] == "ok"


def test_a_row_that_was_not_written_down_is_found_in_its_trial(tmp_path, monkeypatch):
    trials = planned()
    first = sweep(trials, tmp_path)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-20])
    monkeypatch.setattr(work, "work", refuse_to_work)
    assert sweep(trials, tmp_path).rows == first.rows


def test_what_is_left_of_a_trial(tmp_path):
    trials = planned()
    sweep(trials, tmp_path / "kept")
    found = {path.name for path in (tmp_path / "kept" / "trials" / trials[1].id).iterdir()}
    assert {"config.json", "summary.json", "metrics.jsonl", "masks.safetensors", "model.safetensors"} <= found
    assert "checkpoints" not in found
    sweep(trials, tmp_path / "bare", keep_trials=False)
    assert not list((tmp_path / "bare" / "trials").iterdir())


def test_missing_data_is_no_verdict_on_a_method(tmp_path, monkeypatch):
    def gone(*_, **__):
        raise DataError("the file is gone")

    trials = planned()
    monkeypatch.setattr(work, "run", gone)
    swept = sweep(trials, tmp_path)
    assert not swept.rows
    assert [reason for _, reason in swept.failed] == ["DataError: the file is gone"] * 2
    monkeypatch.undo()
    assert len(sweep(trials, tmp_path).rows) == 2


def test_two_comparisons_do_not_write_into_one_folder(tmp_path):
    from actprune.lab import lock

    with lock.locked(tmp_path), pytest.raises(CheckpointError, match="in use"):
        sweep(planned(), tmp_path)


CRASHING = """
import os, signal, multiprocessing
from torch import nn

def build(shape, classes):
    if multiprocessing.parent_process() is not None and os.path.exists(os.environ["CRASH"]):
        os.unlink(os.environ["CRASH"])
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
"""


def test_a_worker_that_dies_takes_only_its_own_trial_with_it(tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text(CRASHING)
    (tmp_path / "now").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CRASH", str(tmp_path / "now"))
    trials = planned(["magnitude-global", "snip"], model="crashing:build")
    swept = sweep(trials, tmp_path / "out", jobs=2)
    assert len(swept.rows) == 2
    assert len(swept.failed) == 1
    assert "killed by signal 9" in swept.failed[0][1]
    assert len(sweep(trials, tmp_path / "out").rows) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_killed_comparison_goes_on(tmp_path):
    out = tmp_path / "out"
    words = "compare --data digits --methods magnitude-global,snip --sparsities 0.9 --seeds 2 --epochs 3 --jobs 2 --out"
    command = [sys.executable, "-m", "actprune.lab.cli", *words.split(), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    until = time.monotonic() + 120
    while not rows_of(out) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = (out / NAME).read_text().splitlines()
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    rows = rows_of(out)
    assert len(rows) == len({row["id"] for row in rows}) == 6
    assert [json.loads(line) for line in before if line.endswith("}")] == rows[: len(before)]
    assert f"{len(before)} there already" in finished.stdout or len(before) == 6
    assert (out / "table.md").exists()
