"""A run killed at any moment and resumed equals one that was left alone, bit for bit; damaged files are named."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from actprune.errors import CheckpointError
from actprune.lab import RunConfig, checkpoint, resume, resume_seeds, run, run_seeds

# BatchNorm buffers, dropout, Adam's moments, live counts: everything that a checkpoint could forget
NET = """
from torch import nn

def build(shape, classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, classes),
    )
"""
SETTINGS = {
    "model": "resume_net:build", "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.01, "batch_size": 32,
    "pruning_steps": 3,
    "start_at": 0.5, "retrain_to": 0.8, "stop_at": 1.0, "patience": 0, "max_epochs": 7, "sparsity": 0.7, "threads": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch):
    (tmp_path / "resume_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)


def settings(**changes):
    return RunConfig(**{**SETTINGS, **changes})


def evidence(folder):
    """Every file that must come out the same: weights, masks, counts, metrics; not the times."""
    names = ("metrics.jsonl", "model.safetensors", "masks.safetensors", "config.json", "recipe.json")
    files = {name: (folder / name).read_bytes() for name in names}
    files |= {path.name: path.read_bytes() for path in (folder / "pruning_steps").iterdir()}
    summary = json.loads((folder / "summary.json").read_text())
    changing = ("seconds", "cpu_seconds", "run")
    return {**files, "summary": {key: value for key, value in summary.items() if key not in changing}}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library may catch it."""


def killed_at(monkeypatch, moment, act):
    """Run ``act`` and kill it at its ``moment``-th contact with the disk; True if it came to that."""
    left = [moment]
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def counted(name):
        def call(*args):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real[name](*args)

        return call

    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(os, name, counted(name))
        try:
            act()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("method", ["activation", "activation_literal", "rigl", "movement"])
def test_killed_at_every_kind_of_moment(tmp_path, monkeypatch, method):
    own = {"schedule": "own"} if method in ("rigl", "movement") else {}
    config = settings(method=method, **own)
    reference = evidence(run(config, tmp_path / "whole", plots=False).folder)
    moments = [*range(3, 20, 2), 31, 47, 61] if method == "activation" else [8, 20, 37]
    for moment in moments:
        folder = tmp_path / f"at-{moment}"
        assert killed_at(monkeypatch, moment, lambda folder=folder: run(config, folder, plots=False))
        if (folder / "config.json").exists():
            resume(folder, plots=False)
        else:  # killed before there was anything to resume: the command that started it works again
            with pytest.raises(CheckpointError, match="holds no run"):
                resume(folder, plots=False)
            run(config, folder, plots=False)
        assert evidence(folder) == reference, f"killed at contact {moment} with the disk"


def test_killed_again_and_again(tmp_path, monkeypatch):
    config = settings(seed=4)
    reference = evidence(run(config, tmp_path / "whole", plots=False).folder)
    folder = tmp_path / "run"
    assert killed_at(monkeypatch, 17, lambda: run(config, folder, plots=False))
    rounds = 0
    while killed_at(monkeypatch, 19, lambda: resume(folder, plots=False)):
        rounds += 1
    assert rounds >= 2
    assert evidence(folder) == reference


def test_really_killed_at_random_moments(tmp_path):
    config = settings(seed=2, max_epochs=60)
    reference = evidence(run(config, tmp_path / "whole", plots=False).folder)
    folder = tmp_path / "run"
    (tmp_path / "config.json").write_text(config.model_dump_json())
    start = ["run", "--config", str(tmp_path / "config.json"), "--out", str(folder), "--no-plots", "--quiet"]
    again = ["resume", str(folder), "--no-plots", "--quiet"]
    chance = random.Random(0)
    for arguments in (start, again, again):
        kill_while_training(folder, tmp_path, arguments, after=chance.uniform(0.0, 0.2))
        assert not (folder / "summary.json").exists()
    assert (folder / "metrics.jsonl").read_bytes()
    resume(folder, plots=False)
    assert evidence(folder) == reference


def kill_while_training(folder: Path, place: Path, arguments: list[str], after: float) -> None:
    """SIGKILL ``after`` seconds after the process has stored something of its own."""
    last = folder / "checkpoints" / "last.pt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    process = subprocess.Popen([sys.executable, "-m", "actprune.lab.cli", *arguments], env=environment, cwd=place)
    while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"


def test_a_finished_run_is_read_back(tmp_path):
    first = run(settings(max_epochs=3), tmp_path / "run", plots=False)
    before = evidence(first.folder)
    again = resume(tmp_path / "run", plots=False)
    assert evidence(first.folder) == before
    assert again.summary == first.summary
    assert again.pruner.masks.keys() == first.pruner.masks.keys()


def test_resume_from_a_pruning(tmp_path):
    whole = run(settings(), tmp_path / "run", plots=False)
    before = evidence(whole.folder)
    resume(whole.folder, checkpoint="pruning-step-02", plots=False)
    assert evidence(whole.folder) == before


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "other file"])
def test_a_damaged_checkpoint_is_named_and_another_offered(tmp_path, damage):
    whole = run(settings(), tmp_path / "run", plots=False)
    before = evidence(whole.folder)
    last = whole.folder / "checkpoints" / "last.pt"
    content = last.read_bytes()
    flipped = bytes([*content[:5000], content[5000] ^ 1, *content[5001:]])
    last.write_bytes({"truncated": content[:-200], "one bit": flipped, "empty": b"", "other file": b"x" * 3000}[damage])
    with pytest.raises(
        CheckpointError, match=r"last\.pt is .*damaged.*intact: pruning-step-01, .*--from pruning-step-03"
    ) as found:
        resume(whole.folder, plots=False)
    assert str(last) in str(found.value)
    resume(whole.folder, checkpoint="pruning-step-03", plots=False)
    assert evidence(whole.folder) == before


def test_no_intact_checkpoint(tmp_path):
    whole = run(settings(), tmp_path / "run", plots=False)
    for path in (whole.folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="no other checkpoint is intact"):
        resume(whole.folder, plots=False)


def test_a_checkpoint_is_an_ordinary_torch_file_without_pickles(tmp_path):
    whole = run(settings(max_epochs=2), tmp_path / "run", plots=False)
    last = whole.folder / "checkpoints" / "last.pt"
    stored = torch.load(last, weights_only=True)
    assert set(stored) == {"model", "optimizer", "pruner", "standing"}
    assert stored["standing"]["epoch"] == 2
    last.write_bytes(last.read_bytes().replace(b"actprune-checkpoint 1", b"actprune-checkpoint 9"))
    with pytest.raises(CheckpointError, match="has format 9; this actprune reads format 1"):
        checkpoint.load(last)


def test_not_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        resume(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no run \(no config.json\)"):
        resume(tmp_path / "empty")


def test_a_damaged_config_is_named(tmp_path):
    whole = run(settings(max_epochs=2), tmp_path / "run", plots=False)
    (whole.folder / "config.json").write_text('{"data": "dig')
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        resume(whole.folder)


def test_other_data_is_refused(tmp_path):
    whole = run(settings(max_epochs=2), tmp_path / "run", plots=False)
    environment = json.loads((whole.folder / "environment.json").read_text())
    (whole.folder / "environment.json").write_text(json.dumps({**environment, "data_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="the data set is not the one this run began with"):
        resume(whole.folder)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    small = run(settings(max_epochs=2), tmp_path / "small", plots=False)
    other = run(settings(max_epochs=2, model="mlp", hidden=(8,)), tmp_path / "other", plots=False)
    (small.folder / "checkpoints" / "last.pt").replace(other.folder / "checkpoints" / "last.pt")
    with pytest.raises(CheckpointError, match="does not fit the model 'mlp'"):
        resume(other.folder, plots=False)


def test_several_seeds_go_on_where_they_stood(tmp_path, monkeypatch):
    config = settings(max_epochs=3)
    whole = run_seeds(config, [0, 1], tmp_path / "whole", plots=False)
    assert killed_at(monkeypatch, 35, lambda: run_seeds(config, [0, 1], tmp_path / "cut", plots=False))
    results = resume_seeds(tmp_path / "cut", plots=False)
    assert [result.summary["seed"] for result in results] == [0, 1]
    for seed in (0, 1):
        assert evidence(tmp_path / "cut" / f"seed-{seed}") == evidence(tmp_path / "whole" / f"seed-{seed}")
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["spread"]["test_accuracy"] == {
        "mean": sum(result.summary["test_accuracy"] for result in whole) / 2,
        "std": pytest.approx(abs(whole[0].summary["test_accuracy"] - whole[1].summary["test_accuracy"]) / 2**0.5),
    }


def test_a_disk_that_fills_up_during_resume(tmp_path, monkeypatch):
    config = settings()
    reference = evidence(run(config, tmp_path / "whole", plots=False).folder)
    folder = tmp_path / "run"
    assert killed_at(monkeypatch, 25, lambda: run(config, folder, plots=False))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            resume(folder, plots=False)
    resume(folder, plots=False)
    assert evidence(folder) == reference
