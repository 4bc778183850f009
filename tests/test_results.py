"""Every committed table is what its benchmark writes from the committed rows, on a machine that trained nothing."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from actprune.lab.sweep import rows

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
NAMES = ("founding", "reproductions", "variational_dropout", "unlabelled", "spectra", "lowrank", "blocks", "packing",
         "deep_compression")  # fmt: skip


@pytest.fixture
def benchmark(request, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module(request.param)
    for path in BENCHMARKS.glob("*.py"):  # their names are short: other tests must not find them
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("benchmark", NAMES, indirect=True)
def test_a_table_is_written_again_from_its_rows(benchmark):
    table = benchmark.RESULTS.with_name(f"{benchmark.RESULTS.stem}-table.md")
    committed = table.read_text()
    table.unlink()
    benchmark.report(rows(benchmark.RESULTS))
    assert table.read_text() == committed


@pytest.mark.parametrize("benchmark", NAMES, indirect=True)
def test_every_row_is_that_of_one_trial(benchmark):
    for row in rows(benchmark.RESULTS):
        assert [trial.is_row(row) for trial in benchmark.TRIALS].count(True) == 1


@pytest.mark.parametrize("benchmark", ["latency"], indirect=True)
def test_the_latency_table_is_written_again(benchmark):
    table = benchmark.RESULTS.with_name("latency-table.md")
    committed = table.read_text()
    table.unlink()
    benchmark.write(json.loads(benchmark.RESULTS.read_text()), list(benchmark.CASES))
    assert table.read_text() == committed
