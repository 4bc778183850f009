"""The same trials over Ray."""

import os
import warnings

import pytest

from actprune.errors import RuntimePathError
from actprune.lab.compare import Training, chosen, sweep, trials_of

TIMES = {"seconds", "cpu_seconds"}


def timeless(rows):
    return sorted(
        ({key: value for key, value in row.items() if key not in TIMES} for row in rows), key=lambda row: row["id"]
    )


def planned():
    baselines = [(baseline, 0.9) for baseline in chosen(["magnitude-global"])]
    return trials_of(["digits"], ["lenet-300-100"], baselines, [0], Training(epochs=2))


@pytest.mark.filterwarnings("ignore")
def test_local_ray_comes_to_the_same_rows(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("ray")
    monkeypatch.setitem(os.environ, "RAY_USAGE_STATS_ENABLED", "0")
    here = sweep(planned(), tmp_path / "here")
    there = sweep(planned(), tmp_path / "there", ray="local")
    assert not there.failed
    assert timeless(there.rows) == timeless(here.rows)


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(RuntimePathError, match=r"actprune\[ray\]"):
        sweep(planned(), tmp_path, ray="local")
