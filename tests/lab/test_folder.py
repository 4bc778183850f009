"""The folder of a run: one run each, never lost, never another's."""

import errno
import os

import pytest
import torch

import actprune
import actprune.lab
from actprune.errors import CheckpointError
from actprune.lab import lock, run
from support.runs import go, quick


def test_a_folder_holds_one_run(tmp_path):
    first = go(tmp_path)
    with pytest.raises(CheckpointError, match="holds a finished run; choose another folder"):
        go(tmp_path)
    (first.folder / "summary.json").unlink()
    with pytest.raises(CheckpointError, match="an unfinished run; `actprune resume` goes on"):
        go(tmp_path)
    again = run(quick(seed=9), tmp_path / "run", overwrite=True, plots=False)
    assert again.summary["seed"] == 9
    assert len((again.folder / "metrics.jsonl").read_text().splitlines()) == again.summary["epochs"]


def test_a_folder_with_other_files_is_never_touched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds other files \(.*thesis.tex.*\) and no run"):
        run(quick(), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        lock.locked(tmp_path / "run"),
        pytest.raises(CheckpointError, match=rf"in use by another run \(process {os.getpid()}\)"),
    ):
        go(tmp_path)
    assert go(tmp_path).summary["pruning_steps_done"] == 2  # the lock is gone with its holder


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot write .*run: (File exists|Not a directory)"):
        go(tmp_path)


def test_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    reference = run(quick(), tmp_path / "reference", plots=False)
    real, room = os.fsync, [25]

    def fsync(handle):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(CheckpointError, match=r"cannot write .*No space left on device; free space"):
            go(tmp_path)
    files = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not any(name.endswith(".tmp") for name in files)
    resumed = actprune.lab.resume(tmp_path / "run", plots=False)
    assert 0 < resumed.summary["epochs"] == reference.summary["epochs"]
    for name, tensor in reference.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
