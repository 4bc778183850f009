"""Labels of reshaped values: the same as if every element had carried one."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from actprune.structure.values import along, parts, reshaped, shrunk, support

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def reshapes(draw):
    old = draw(SHAPES)
    left, new = math.prod(old), []
    while left > 1:
        divisors = [size for size in range(2, left + 1) if left % size == 0]
        new.append(draw(st.sampled_from(divisors)))
        left //= new[-1]
    at = draw(st.integers(0, len(new)))
    return tuple(old), (*new[:at], 1, *new[at:])


@given(case=reshapes(), axes=st.sets(st.integers(0, 3)))
def test_a_compressed_array_is_reshaped_like_a_whole_one(case, axes):
    old, new = case
    depends = [length if axis in axes else 1 for axis, length in enumerate(old)]
    array = torch.arange(math.prod(depends)).reshape(depends)
    found = reshaped(array, old, new)
    assert torch.equal(found.expand(new), array.expand(old).reshape(new))


@given(case=reshapes())
def test_the_parts_of_a_reshape_hold_equally_many_entries_each(case):
    old, new = case
    found = parts(old, new)
    assert [axis for before, _ in found for axis in before] == list(range(len(old)))
    assert [axis for _, after in found for axis in after] == list(range(len(new)))
    for before, after in found:
        assert math.prod(old[axis] for axis in before) == math.prod(new[axis] for axis in after)


def test_an_array_depends_on_no_axis_along_which_it_is_the_same():
    nan = float("nan")
    array = torch.tensor([[[1.0, nan], [1.0, nan]]]).expand(3, 2, 2)
    assert shrunk(array).shape == (1, 1, 2)
    assert support(shrunk(array)) == {2}


def test_constants_of_an_axis_are_those_that_are_the_same_everywhere_else():
    const = torch.tensor([[1.0, 2.0, float("nan")], [1.0, 3.0, float("nan")]])
    assert along(const, 1)[0] == 1
    assert along(const, 1)[1:].isnan().all()
    assert along(None, 0) is None
