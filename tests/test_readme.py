"""The code in the README runs as it stands."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from actprune.testing import small_data, small_net
from first_call import declare_torchvision
from support.models import needs

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


FIRST, LOOP, RESNET, SHIPPED, RUN, LOW_RANK, MANY, OWN = range(8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space, code = names(), BLOCKS[number]
    if number == RESNET:
        for package in ("timm", "torchvision"):
            needs(package)
        declare_torchvision()
        code = "import timm\n" + code.replace("224, 224", "64, 64")
    if number == SHIPPED:  # goes on where the first one ends
        exec("import actprune\n" + BLOCKS[FIRST], space)
        capsys.readouterr()
    exec("import actprune\n" + code, space)
    printed = capsys.readouterr().out
    if number == FIRST:
        assert "of the prunable weights, target 90.00%" in printed
    if number == LOOP:
        assert space["pruner"].finished
        again = {**names(), "resuming": True}
        exec("import actprune\n" + BLOCKS[number], again)
        assert again["pruner"].state.pruning_step == 5
        assert again["pruner"].state.step > space["pruner"].state.step
    if number == RESNET:
        rows = dict(re.findall(r"^(\w+).* ([0-9.]+)%$", printed, re.MULTILINE))
        assert float(rows["FLOP"]) == pytest.approx(50, abs=0.2)
        assert float(rows["parameters"]) < 70
        pruner, small, x = space["pruner"], space["small"], space["example"]
        pruner.enforce()
        with torch.no_grad():
            assert torch.allclose(small(x), space["model"](x), atol=1e-4)
    if number == SHIPPED:
        x = space["calibration"][0][0]
        assert torch.allclose(space["again"](x), space["model"](x), atol=1e-4)
        assert torch.allclose(space["fast"](x), space["model"](x), atol=1e-4)
        assert printed.startswith(space["fast"].path)
    if number == RUN:
        assert float(printed.split()[0]) > 0.85
    if number == LOW_RANK:
        assert sum(p.numel() for p in space["small"].parameters()) < sum(p.numel() for p in space["model"].parameters())
    if number == MANY:
        assert printed.split() == ["synflow", "90%", "rigl", "90%", "sparsegpt", "50%"]
    if number == OWN:
        assert space["pruner"].state.pruning_step == 3
        assert "removed 80.00% of the prunable weights, target 80.00%" in printed


def test_the_readme_has_the_examples_this_test_knows():
    assert len(BLOCKS) == 8
