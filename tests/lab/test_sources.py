import sys

import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from actprune.errors import DataError
from actprune.lab.data import Dataset, load


class Pairs(TorchDataset):
    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return torch.full((1, self.sizes[i], 3), i / 10), i % 2


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), 0


X, Y = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
MADE = {
    "pairs": lambda: ((X, Y), (X[:5].numpy(), Y[:5].numpy())),
    "three": lambda: [(X, Y), (X[:5], Y[:5]), (X[:4].bfloat16(), Y[:4])],
    "torch": lambda: (Pairs([4] * 20), TensorDataset(X[:5, None, None].expand(5, 1, 4, 3), Y[:5])),
    "ready": lambda: Dataset("mine", (X, Y), (X[:2], Y[:2]), (X[:5], Y[:5]), 7, (3,), ""),
    "ragged": lambda: (Pairs([4, 5]), (X, Y)),
    "endless": lambda: (Endless(), (X, Y)),
    "nothing": lambda: None,
    "single": lambda: ((X, Y),),
    "triple": lambda: ((X, Y, Y), (X, Y)),
    "crash": lambda: 1 / 0,
    "number": 3,
}


@pytest.fixture
def factory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    (tmp_path / "made_here.py").write_text(f"import sys\nglobals().update(sys.modules[{__name__!r}].MADE)\n")
    yield "made_here:{}".format
    sys.modules.pop("made_here", None)


def test_factories(factory):
    data = load(factory("pairs"))
    assert (data.name, data.shape, data.classes) == ("made_here:pairs", (3,), 2)
    assert [len(y) for _, y in (data.train, data.validation, data.test)] == [18, 2, 5]
    assert torch.equal(data.test[0], X[:5])
    three = load(factory("three"))
    assert torch.equal(three.validation[0], X[:4].bfloat16().float())
    assert torch.equal(three.train[0], X)
    stacked = load(factory("torch"))
    assert stacked.shape == (1, 4, 3)
    assert len(stacked.train[1]) == 18
    ready = load(factory("ready"))
    assert ready.classes == 7
    assert len(ready.validation[1]) == 2
    assert len(ready.fingerprint) == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ragged", "examples have different shapes"),
        ("endless", "torch Dataset without length"),
        ("nothing", "returned a NoneType; expected a Dataset, or .train, test."),
        ("single", "returned a tuple of 1"),
        ("triple", "returned a tuple where a pair"),
        ("crash", "failed: ZeroDivisionError: division by zero"),
        ("number", "is a int; expected a function"),
        ("pears", "unknown attribute of made_here 'pears'; did you mean 'pairs'"),
    ],
)
def test_factories_that_do_not_give_data(factory, name, message):
    with pytest.raises(DataError, match=message):
        load(factory(name))
    with pytest.raises(DataError, match="no module named 'not_there'; looked in the current directory"):
        load("not_there.sub:make")
