"""What a stored program may allocate: hostile sizes are refused before any memory is taken, real networks are not."""

import json
import math
import resource
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.errors import ArtifactError
from actprune.program import Program, Ref, Step, export
from actprune.program.bound import GROWTH, MOST_STEPS
from support.nets import NETS
from support.networks_at_work import CHECKED

WEIGHTS = {"fc.weight": torch.zeros(4, 16), "fc.bias": torch.zeros(4)}
LINEAR = Step("h", "linear", (Ref("x"), Ref("fc.weight"), Ref("fc.bias")))
H = Ref("h")


def structure(*steps, result="last", tensors=WEIGHTS):
    names = Program(["x"], [LINEAR, *steps], Ref(result), tensors).structure()
    return json.loads(json.dumps(names))


def built(*steps, growth=GROWTH, result="last"):
    """As from a file, within a second and without memory."""
    found = structure(*steps, result=result)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        return Program.build(found, WEIGHTS, growth)
    finally:
        assert time.perf_counter() - start < 30
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def last(op, *args, **kwargs):
    return Step("last", op, args, kwargs or None)


HOSTILE = {
    "expand": [last("expand", H, [10**8, 2, 4])],
    "expand of a view": [last("expand", H, [2**26, -1, -1])],
    "repeat": [last("repeat", H, [10**5, 10**3])],
    "tile": [last("tile", H, [10**5, 10**3])],
    "repeat_interleave": [last("repeat_interleave.self_int", H, 10**8)],
    "full": [last("full", [10**5, 10**4], 1.0)],
    "zeros": [last("zeros", [10**5, 10**4])],
    "ones": [last("ones", [2**28])],
    "arange": [last("arange", 10**9)],
    "arange from": [last("arange.start", 0, 10**9)],
    "new_zeros": [last("new_zeros", H, [10**9])],
    "new_ones elsewhere": [last("new_ones", H, [10**9], device="cpu")],
    "pad": [last("constant_pad_nd", H, [10**8, 10**8], 0.0)],
    "pad by name": [last("pad", H, [0, 10**9], "constant")],
    "upsample": [
        Step("image", "reshape", (H, [-1, 1, 2, 2])),
        last("upsample_nearest2d.vec", Ref("image"), [40_000, 40_000], None),
    ],
    "upsample by a factor": [
        Step("image", "reshape", (H, [-1, 1, 2, 2])),
        last("upsample_bilinear2d.vec", Ref("image"), None, False, [20_000.0, 20_000.0]),
    ],
    "adaptive pool": [
        Step("image", "reshape", (H, [-1, 1, 2, 2])),
        last("adaptive_avg_pool2d", Ref("image"), [30_000, 30_000]),
    ],
    "cubic": [
        Step("image", "reshape", (H, [-1, 1, 2, 2])),
        last("upsample_bicubic2d.vec", Ref("image"), [40_000, 40_000], False, None),
    ],
    "transposed convolution": [
        Step("image", "reshape", (H, [-1, 4, 1])), Step("w", "reshape", (Ref("fc.weight"), [4, 1, 16])),
        last("conv_transpose1d", Ref("image"), Ref("w"), None, [1], [0], [10**9]),
    ],
    "patches": [
        Step("image", "reshape", (H, [-1, 1, 2, 2])),
        last("im2col", Ref("image"), [1, 1], [1, 1], [20_000, 20_000], [1, 1]),
    ],
    "pairs": [last("triu_indices", 2**15, 2**15)],
    "bins": [last("histc", H, 2**29)],
    "2**62": [last("expand", H, [2**62, 2, 4])],
    "2**62 cells": [last("zeros", [2**31, 2**31])],
    "product of sizes": [Step("n", "operator.mul", (2**40, 2**22)), last("zeros", [Ref("n")])],
    "sum of sizes": [
        Step("b", "sym_size.int", (H, 0)), Step("n", "operator.mul", (Ref("b"), 10**9)), last("ones", [Ref("n")])
    ],
    "size beyond 2**63": [Step("n", "operator.mul", (2**40, 2**40)), last("zeros", [Ref("n")])],
    "negative": [last("new_zeros", H, [-5])],
    "negative expand": [last("expand", H, [-7, 2, 4])],
    "outer sum": [
        Step("long", "arange", (30_000,)), Step("a", "unsqueeze", (Ref("long"), 1)),
        last("add.Tensor", Ref("a"), Ref("long")),
    ],
    "expand, then used": [
        Step("wide", "expand", (H, [2**22, 2, 4])), last("mul.Tensor", Ref("wide"), 2.0)
    ],
    "outer product": [
        Step("n", "arange", (2**16,)), Step("f", "to.dtype", (Ref("n"), torch.float32)),
        Step("a", "reshape", (Ref("f"), [-1, 1])), Step("b", "reshape", (Ref("f"), [1, -1])),
        last("matmul", Ref("a"), Ref("b")),
    ],
    "einsum": [
        Step("n", "arange", (2**11,)), Step("f", "to.dtype", (Ref("n"), torch.float32)),
        last("einsum", "a,b,c->abc", [Ref("f"), Ref("f"), Ref("f")]),
    ],
    "drawn": [
        Step("n", "full", ([4], 2**40)), Step("i", "to.dtype", (Ref("n"), torch.int64)),
        last("repeat_interleave.self_Tensor", H, Ref("i"), 1),
    ],
    "list": [Step("last", "operator.mul", ([1, 2, 3], 10**9))],
    "string": [Step("last", "operator.mul", ("abc", 10**12))],
    "format": [Step("last", "operator.mod", ("%1000000000d", 5))],
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_sizes_that_nobody_needs_are_refused_when_the_file_is_read(name):
    with pytest.raises(ArtifactError):
        built(*HOSTILE[name])


@pytest.mark.parametrize("op", ["cat", "add", "outer", "stack"])
def test_growth_by_doubling_is_refused(op):
    steps, before = [], H
    for index in range(60):
        name = "last" if index == 59 else f"s{index}"
        made = {
            "cat": [Step(name, "cat", ([before, before], -1))],
            "stack": [Step(name, "stack", ([before, before],))],
            "add": [
                Step(f"{name}u", "unsqueeze", (before, -1)),
                Step(f"{name}e", "expand", (Ref(f"{name}u"), [*[-1] * (index + 2), 2])),
                Step(name, "add.Tensor", (Ref(f"{name}e"), 1)),
            ],
            "outer": [Step(f"{name}r", "reshape", (before, [-1, 1])), Step(name, "cat", ([Ref(f"{name}r")] * 2, 1))],
        }[op]  # fmt: skip
        steps += made
        before = Ref(name)
    with pytest.raises(ArtifactError, match=r"the bound is|impossible size"):
        built(*steps)


def test_many_values_that_are_each_small_enough():
    steps = [Step(f"s{index}", "new_zeros", (H, [2**23])) for index in range(40)]
    with pytest.raises(ArtifactError, match="leaves values alive"):
        built(*steps, last("stack", [Ref(f"s{index}") for index in range(40)]))


def test_more_steps_than_any_network_has():
    rows = [["h", "linear", ["x", "fc.weight", "fc.bias"]]]
    rows += [[f"s{index}", "relu", ["h"]] for index in range(MOST_STEPS)]
    start = time.perf_counter()
    with pytest.raises(ArtifactError, match=r"growth=math\.inf"):
        Program.build({"inputs": ["x"], "steps": rows, "result": "h"}, WEIGHTS, GROWTH)
    assert time.perf_counter() - start < 1


def test_thousands_of_steps_are_read_quickly():
    steps, before = [], H
    for index in range(4000):
        steps.append(Step(f"s{index}", "relu", (before,)))
        before = Ref(f"s{index}")
    program = built(*steps, last("neg", before))
    assert program(torch.ones(2, 16)).shape == (2, 4)


def test_the_message_says_what_and_how_to_go_on():
    with pytest.raises(ArtifactError) as caught:
        built(last("expand", H, [2**24, 2, 4]))
    for word in ("'last'", "expand", "(16777216, 2, 4)", "536870912 bytes", "67108864 bytes", "growth=math.inf"):
        assert word in str(caught.value)
    asked = float(str(caught.value).partition("growth=")[2].split()[0])
    assert isinstance(built(last("expand", H, [2**24, 2, 4]), growth=asked), Program)
    assert isinstance(built(last("expand", H, [10**8, 2, 4]), growth=math.inf), Program)


def test_what_only_a_forward_shows_is_refused_before_it_allocates():
    """No input that was guessed fits: the size of axis 1 is taken from the batch."""
    rows = [["n", "sym_size.int", ["x", 0]], ["m", "operator.mul", ["n", 2**20]], ["e", "new_zeros", ["x", ["m"]]]]
    program = Program.build({"inputs": ["x"], "steps": rows, "result": "e"}, {"w": torch.zeros(3)}, GROWTH)
    assert program(torch.zeros(3, 5)).shape == (3 * 2**20,)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="the bound is"):
        program(torch.zeros(1000, 5))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_mask_whose_count_is_known_only_at_run_time():
    rows = [["m", "gt.Scalar", ["x", 0]], ["e", "index.Tensor", ["x", ["m"]]]]
    with pytest.raises(ArtifactError, match=r"growth=math\.inf"):
        Program.build({"inputs": ["x"], "steps": rows, "result": "e"}, {"w": torch.zeros(3)}, GROWTH)(torch.ones(2, 3))


def test_convolutions_cannot_be_padded_or_grouped_without_end():
    tensors = {"c.weight": torch.zeros(4, 1, 3, 3)}
    for settings in (
        [[1, 1], [2**20, 2**20], [1, 1], 1],
        [[1, 1], [0, 0], [1, 1], 2**62],
        [[1, 1], [1, 1], [2**62, 1], 1],
    ):
        rows = [["c", "conv2d", ["x", "c.weight", None, *settings]]]
        start = time.perf_counter()
        with pytest.raises((ArtifactError, RuntimeError)):
            Program.build({"inputs": ["x"], "steps": rows, "result": "c"}, tensors, GROWTH)(torch.ones(2, 1, 8, 8))
        assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", NETS)
def test_networks_of_many_kinds_run_unchanged(name):
    net = NETS[name]
    program = export(net.make(), net.inputs())
    again = Program.build(json.loads(json.dumps(program.structure())), program.state_dict(), GROWTH)
    for inputs in (net.inputs(2, 3), net.inputs(64, 4)):
        with torch.no_grad():
            assert torch.equal(again(*inputs), program(*inputs))


@pytest.mark.parametrize("name", CHECKED)
def test_networks_at_work_stay_below_the_bound(name):
    """Only shapes are followed here, so no memory is taken."""
    model, inputs = CHECKED[name]()
    program = export(model, tuple(item[:2] for item in inputs))
    again = Program.build(program.structure(), program.state_dict(), GROWTH)
    again._limits.check(dict(zip(again.inputs, inputs, strict=True)), again.tensors)


def test_dtypes_autocast_and_copies():
    program = built(last("relu", H))
    x = torch.ones(2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert program(x).dtype == torch.bfloat16
        assert program(x.bfloat16()).dtype == torch.bfloat16
    assert program.double()(x.double()).dtype == torch.float64
    assert torch.equal(torch.func.vmap(program)(x.double()), program(x.double()))
    exported = torch.export.export(program, (x.double(),)).module()
    assert torch.equal(exported(x.double()), program(x.double()))


def test_inputs_that_do_not_fit_are_told_in_the_words_of_the_operation():
    with pytest.raises(RuntimeError, match=r"\[2, 3\] X \[16, 4\]"):
        built(last("relu", H))(torch.ones(2, 3))


def test_what_is_checked_once_costs_a_look_up():
    program = built(last("relu", H))
    x = torch.ones(2, 16)
    program(x)
    start = time.perf_counter()
    for _ in range(100):
        program._limits.check({"x": x}, lambda: pytest.fail("looked again"))
    assert time.perf_counter() - start < 0.1


def test_a_trusted_program_is_not_bounded():
    grown = Program(["x"], [LINEAR, last("expand", H, [2**28, 2, 4])], Ref("last"), WEIGHTS)
    assert grown(torch.ones(2, 16)).shape == (2**28, 2, 4)
    assert F.relu(torch.ones(1)).item() == 1.0
    assert isinstance(grown, nn.Module)
