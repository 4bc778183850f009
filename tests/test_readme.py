"""The code in the README runs as it stands."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from actprune.testing import small_data, small_net

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def names():
    model = small_net()
    inputs, labels = small_data()
    loader = [(inputs[:32], labels[:32]), (inputs[32:], labels[32:])]
    return {
        "model": model,
        "calibration": loader,
        "loader": loader,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "loss": nn.CrossEntropyLoss(),
        "epochs": 6,
        "resuming": False,
        "train_accuracy": 0.97,
        "torch": torch,
        "copy": copy,
    }


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = names()
    if number == 2:  # goes on where the first one ends
        exec("import actprune\n" + BLOCKS[0], space)
        capsys.readouterr()
    exec("import actprune\n" + BLOCKS[number], space)
    printed = capsys.readouterr().out
    if number == 0:
        assert "of the prunable weights, target 90.00%" in printed
    if number == 1:
        assert space["pruner"].finished
        again = {**names(), "resuming": True}
        exec("import actprune\n" + BLOCKS[number], again)
        assert again["pruner"].state.pruning_step == 5
        assert again["pruner"].state.step > space["pruner"].state.step
    if number == 2:
        x = space["calibration"][0][0]
        assert torch.allclose(space["again"](x), space["model"](x), atol=1e-4)
        assert torch.allclose(space["fast"](x), space["model"](x), atol=1e-4)
        assert printed.startswith(space["fast"].path)
    if number == 3:
        assert float(printed.split()[0]) > 0.85
    if number == 5:
        assert printed.split() == ["synflow", "90%", "rigl", "90%", "sparsegpt", "50%"]
    if number == 6:
        assert space["pruner"].state.pruning_step == 3
        assert "removed 80.00% of the prunable weights, target 80.00%" in printed
    if number == 4:
        assert sum(p.numel() for p in space["small"].parameters()) < sum(p.numel() for p in space["model"].parameters())


def test_the_readme_has_the_examples_this_test_knows():
    assert len(BLOCKS) == 7
