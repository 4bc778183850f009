"""Where units lie behind a function, against what the function does to a tensor that numbers its units."""

import pytest
import torch
import torch.nn.functional as F

from actprune.graph.record import plain
from actprune.graph.units import Place, after

CASES = {
    "permute": (lambda x: x.permute(0, 2, 3, 1), ((0, 0, 2, 3, 1), {}), (2, 6, 4, 4), -3),
    "permute dims": (lambda x: x.permute(dims=(1, 0, 2)), ((0,), {"dims": (1, 0, 2)}), (3, 3, 3), -1),
    "transpose": (lambda x: x.transpose(1, -1), ((0, 1, -1), {}), (2, 5, 6), -1),
    "swapaxes": (lambda x: x.swapaxes(axis0=0, axis1=1), ((0,), {"axis0": 0, "axis1": 1}), (2, 5, 6), -1),
    "movedim": (lambda x: x.movedim(-1, 1), ((0, -1, 1), {}), (2, 5, 7, 6), -1),
    "t": (lambda x: x.t(), ((0,), {}), (5, 6), -1),
    "mT": (lambda x: x.mT, ((0,), {}), (2, 5, 6), -2),
    "relu": (F.relu, ((0,), {}), (2, 6, 4), -2),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), ((0, 2), {}), (2, 6, 4, 4), -3),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 2), ((0, 2), {}), (2, 6, 8), -2),
}


@pytest.mark.parametrize("name", CASES)
def test_units_lie_where_their_numbers_are(name):
    function, given, shape, axis = CASES[name]
    numbers = torch.arange(float(shape[axis]))
    x = numbers.view(-1, *[1] * (-axis - 1)).expand(shape)
    out = function(x)
    place = after(name.split()[0], (plain(given[0]), given[1]), shape, tuple(out.shape), Place(axis))
    assert place is not None
    assert place.parts == 1
    moved = out.movedim(place.axis, -1)
    assert torch.equal(moved, numbers.expand_as(moved))


@pytest.mark.parametrize(
    ("name", "then", "expected"),
    [
        ("chunk", (4, 3), Place(-1, 2)),
        ("glu", (4, 3), Place(-1, 2)),
        ("getitem", (4, 2), Place(-1, 3)),
        ("getitem", (4, 4), None),  # no equal part
        ("getitem", (2, 6), None),  # a part of the examples
        ("chunk", (2, 3), None),
        ("mean", (4, 3), None),
        ("reshape", (4, 2, 3), None),
        ("permute", (6, 4), None),  # its argument is a tensor: unknown
    ],
)
def test_parts_of_a_layer_and_what_is_not_followed(name, then, expected):
    assert after(name, (plain((torch.ones(1), torch.ones(2))), {}), (4, 6), then, Place(-1)) == expected
