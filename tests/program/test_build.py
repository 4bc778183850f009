"""Stored programs: anything unknown or inconsistent is one clear error, and nothing in them is run."""

import contextlib
import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune.errors import ArtifactError, ModelError
from actprune.program import Program, Ref, Step, export
from actprune.program.nodes import decoded, encoded
from actprune.program.ops import function
from support.nets import NETS, Net, mlp

PROGRAM = export(mlp(6, 5, 3), torch.randn(3, 6))
TENSORS = {name: tensor.detach() for name, tensor in PROGRAM.state_dict().items()}


def build(change=None, tensors=TENSORS):
    structure = json.loads(json.dumps(PROGRAM.structure()))
    if change:
        change(structure)
    return Program.build(structure, tensors)


def test_the_structure_is_readable():
    assert PROGRAM.structure() == {
        "inputs": ["input"],
        "steps": [
            ["flatten", "flatten.using_ints", ["input", 1]],
            ["linear", "linear", ["flatten", "fc1.weight", "fc1.bias"]],
            ["relu", "relu", ["linear"]],
            ["linear_1", "linear", ["relu", "fc2.weight", "fc2.bias"]],
        ],
        "result": "linear_1",
    }
    assert isinstance(build().get_submodule("fc1"), nn.Linear)


CHANGES = {
    "no steps": lambda s: s.pop("steps"),
    "no inputs": lambda s: s.update(inputs=[]),
    "inputs that are no names": lambda s: s.update(inputs=[["input"]]),
    "two inputs of one name": lambda s: s.update(inputs=["input", "input"]),
    "an input called like a tensor": lambda s: s.update(inputs=["fc1.weight"]),
    "steps that are no list": lambda s: s.update(steps=5),
    "a step without operation": lambda s: s["steps"][0].pop(),
    "a step that is a number": lambda s: s["steps"].insert(0, 7),
    "a step too long": lambda s: s["steps"][0].extend([{}, {}]),
    "arguments that are no list": lambda s: s["steps"][0].__setitem__(2, 3),
    "keywords that are no dict": lambda s: s["steps"][0].append([1]),
    "keywords of another kind": lambda s: s["steps"][0].append({"s": "x"}),
    "a value that does not exist": lambda s: s["steps"][1][2].__setitem__(0, "nothing"),
    "a value that comes later": lambda s: s["steps"][1][2].__setitem__(0, "relu"),
    "a value of its own": lambda s: s["steps"][1][2].__setitem__(0, "linear"),
    "a name given twice": lambda s: s["steps"][2].__setitem__(0, "linear"),
    "a name of an input": lambda s: s["steps"][2].__setitem__(0, "input"),
    "a result that does not exist": lambda s: s.update(result="nothing"),
    "a result that cannot be read": lambda s: s.update(result={"x": 1}),
    "no result": lambda s: s.pop("result"),
    "a dtype that does not exist": lambda s: s["steps"][0][2].append({"t": "float7"}),
    "a float that does not exist": lambda s: s["steps"][0][2].append({"f": "1e5"}),
    "an object of two entries": lambda s: s["steps"][0][2].append({"s": "a", "t": "b"}),
    "buffers that are no names": lambda s: s.update(buffers=[{}]),
    "a batch that is no number": lambda s: s.update(batch="four"),
    "a negative batch": lambda s: s.update(batch=-1),
    "a true batch": lambda s: s.update(batch=True),
    "deep nesting": lambda s: s.update(result=nested(3000)),
}


def nested(depth):
    found = "linear_1"
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_inconsistent_structures(change):
    with pytest.raises(ArtifactError):
        build(change)


OPERATIONS = ["system", "os.system", "operator.attrgetter", "operator.__import__", "linear.out", "", ".", "relu.",
              "from_file", "aten.relu", "relu.default.out", "__class__", "operator.getitem.x", "set_", "resize_",
              "relu_", "relu.__init__", "_linalg_eigh", "add_.Tensor", "sum.IntList_out", "copy_", "eval"]  # fmt: skip


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations_that_are_not_on_the_list_are_never_called(op):
    with pytest.raises(ArtifactError):
        build(lambda structure: structure["steps"][2].__setitem__(1, op))


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "__class__.x", "fc1.__dict__", "fc1. weight", "forward", "steps.x", "a" * 200, "x." * 70 + "y"],
)
def test_names_that_cannot_be(name):
    with pytest.raises(ArtifactError):
        build(tensors={**TENSORS, name: torch.zeros(2)})


def test_tensors_that_do_not_fit():
    for tensors in (
        {name: tensor for name, tensor in TENSORS.items() if name != "fc1.weight"},
        {name: tensor for name, tensor in TENSORS.items() if name != "fc1.bias"},
        {**TENSORS, "fc1.weight": torch.zeros(5)},
        {**TENSORS, "fc1.weight": torch.zeros(())},
        {**TENSORS, "fc1.bias": torch.zeros(7)},
        {**TENSORS, "fc1": torch.zeros(7)},
        {**TENSORS, "fc1.weight.x": torch.zeros(7)},
    ):
        with pytest.raises(ArtifactError):
            build(tensors=tensors)


def test_missing_running_statistics():
    program = export(NETS["normed mlp"].make(), NETS["normed mlp"].inputs())
    tensors = {name: t for name, t in program.state_dict().items() if not name.endswith("1.running_var")}
    with pytest.raises(ArtifactError):
        Program.build(program.structure(), tensors)


def test_a_hostile_convolution_does_not_ask_for_memory():
    net = Net(lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), ((1, 5, 5),))
    program = export(net.make(), net.inputs())
    structure = copy.deepcopy(program.structure())
    structure["steps"][0][2] = ["input", "0.weight", "0.bias", [1, 1], [0, 0], [1, 1], 2**40]
    try:
        built = Program.build(structure, program.state_dict())
    except ArtifactError:
        return
    with pytest.raises((RuntimeError, ArtifactError)):
        built(*net.inputs())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4).map(Ref)
    | st.sampled_from([torch.float32, torch.int64, torch.bool]) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_arguments_survive_json(value):
    assert decoded(json.loads(json.dumps(encoded(value)))) == value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats()
    | st.sampled_from(["input", "linear", "fc1.weight", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("stfdx"), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 6), step=st.integers(0, 3), part=st.integers(0, 2), value=JSON)
def test_mutated_structures_build_or_raise_one_error(place, step, part, value):
    structure = json.loads(json.dumps(PROGRAM.structure()))
    if place < 3:
        structure[["inputs", "steps", "result"][place]] = value
    elif place == 3:
        structure["buffers"] = value
    else:
        structure["steps"][step][part] = value
    with contextlib.suppress(ArtifactError):
        Program.build(structure, TENSORS)


def test_functions_are_those_of_the_list():
    assert function("relu") is torch.ops.aten.relu.default
    assert function("add.Tensor") is torch.ops.aten.add.Tensor


def test_programs_may_be_written_by_hand():
    steps = [Step("y", "mul.Tensor", (Ref("x"), Ref("scale"))), Step("z", "relu", (Ref("y"),))]
    program = Program(["x"], steps, {"out": Ref("z")}, {"scale": torch.tensor([2.0, -1.0])})
    assert program(torch.tensor([[1.0, 1.0]]))["out"].tolist() == [[2, 0]]
    assert [name for name, _ in program.named_parameters()] == ["scale"]
    with pytest.raises(ModelError, match="this program takes x"):
        program()
