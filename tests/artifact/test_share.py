"""Weight sharing under fine-tuning, and the search for the smallest file."""

import pytest
import torch

from actprune.artifact import SharedWeights, from_bytes, load, pack
from actprune.errors import ArtifactError
from support.artifact_files import program
from support.nets import drawn_mlp

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def clusters(tensor):
    return tensor[tensor != 0].unique().numel()


@pytest.mark.parametrize("init", ["linear", "exact"])
def test_apply_leaves_few_values_and_the_same_zeros(init):
    model = drawn_mlp(0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    SharedWeights(model, 3, init).apply()
    for name, tensor in model.state_dict().items():
        assert clusters(tensor) <= 8
        assert torch.equal(tensor == 0, before[name] == 0)
        assert torch.equal(tensor, tensor.half().float())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clusters_move_together_and_zeros_stay(optimizer):
    model = drawn_mlp(0.3)
    shared = SharedWeights(model, {"0.weight": 2, "2.weight": 3})
    shared.apply()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = OPTIMIZERS[optimizer](model.parameters())
    x, y = torch.randn(64, 24), torch.randint(0, 4, (64,))
    with shared.attach(made):
        for _ in range(20):
            made.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            made.step()
    for name, bits in shared.bits.items():
        now = model.state_dict()[name]
        assert not torch.equal(now, before[name])
        assert torch.equal(now == 0, before[name] == 0)
        assert clusters(now) <= 1 << bits
        for value in before[name].unique():
            assert now[before[name] == value].unique().numel() == 1


def test_gradients_are_summed_over_the_cluster_as_in_the_paper():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, -2.0, 0.0, -2.0]))
    shared = SharedWeights({"w": weight}, 1)
    weight.grad = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    shared.tie_gradients()
    assert weight.grad.tolist() == [3, 3, 20, 0, 20]
    mean = SharedWeights({"w": weight}, 1, gradient="mean")
    weight.grad = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    mean.tie_gradients()
    assert weight.grad.tolist() == [1.5, 1.5, 10, 0, 10]


def test_the_hooks_are_gone_after_the_block():
    model = drawn_mlp(1.0)
    shared = SharedWeights(model, 1)
    made = torch.optim.SGD(model.parameters(), lr=0.1)
    shared.apply()
    with shared.attach(made):
        pass
    model(torch.randn(8, 24)).sum().backward()
    made.step()
    assert clusters(model.state_dict()["0.weight"]) > 2


def test_reassign_clusters_the_weights_of_now():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.1, 5.0, 5.1]))
    shared = SharedWeights({"w": weight}, 1)
    weight.data = torch.tensor([1.0, 5.0, 1.0, 5.0])
    shared.reassign()
    shared.apply()
    assert weight.tolist() == [1, 5, 1, 5]


def test_tiny_centroids_do_not_become_zero():
    weight = torch.nn.Parameter(torch.tensor([1e-12, -1e-12, 3.0, 0.0]))
    SharedWeights({"w": weight}, 2).apply()
    assert (weight != 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize("bits", [0, 9, {"0.weight": 12}])
def test_senseless_bits_are_refused(bits):
    with pytest.raises(ArtifactError, match="1 to 8 bits"):
        SharedWeights(drawn_mlp(), bits)


def test_unknown_names_and_other_optimizers_are_refused():
    with pytest.raises(ArtifactError, match="fc9"):
        SharedWeights(drawn_mlp(), {"fc9": 3})
    with pytest.raises(ArtifactError, match="not in this optimizer"):
        SharedWeights(drawn_mlp(), 3).attach(torch.optim.SGD(drawn_mlp().parameters(), lr=0.1))


def test_nan_weights_are_refused():
    with pytest.raises(ArtifactError, match="NaN"):
        SharedWeights({"w": torch.tensor([1.0, float("nan")])}, 3)


class Task:
    """Agreement with the original's own answers, so that it starts at 1."""

    def __init__(self, model):
        self.x = torch.randn(400, 24, generator=torch.Generator().manual_seed(1))
        self.y = model(self.x).argmax(1).detach()
        self.tuned = 0

    def evaluate(self, program):
        with torch.no_grad():
            return (program(self.x).argmax(1) == self.y).double().mean().item()

    def tune(self, program, shared):
        self.tuned += 1
        optimizer = torch.optim.Adam(program.parameters(), lr=0.003)
        with shared.attach(optimizer):
            for _ in range(60):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(program(self.x), self.y).backward()
                optimizer.step()


def test_pack_keeps_the_accuracy_and_saves_bytes(tmp_path):
    model = program(0.4)
    task = Task(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed = pack(model, task.evaluate, max_loss=0.03)
    assert packed.before == 1
    assert packed.accuracy >= 0.97
    assert task.evaluate(packed.program) == packed.accuracy
    assert len(packed.content) < len(pack(model, task.evaluate, max_loss=0.03, candidates=("fp32",)).content)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    path = packed.save(tmp_path / "packed")
    assert path.read_bytes() == packed.content
    assert task.evaluate(load(path)) == packed.accuracy


def test_refining_saves_more_and_every_attempt_is_told():
    model = program(0.4)
    task = Task(model)
    rough = pack(model, task.evaluate, max_loss=0.05, refine=1.0)
    fine = pack(model, task.evaluate, max_loss=0.05)
    assert len(fine.content) <= len(rough.content)
    assert [item.what for item in fine.tried][: len(rough.tried)] == [item.what for item in rough.tried]
    assert any(item.kept for item in fine.tried)


def test_tuning_is_asked_before_a_shared_precision_is_rejected():
    model = program(0.4)
    task = Task(model)
    packed = pack(model, task.evaluate, max_loss=0.02, candidates=("shared3", "fp32"), tune=task.tune, refine=1.0)
    assert task.tuned == 1
    assert [(item.what, item.tuned) for item in packed.tried][:2] == [("shared3", False), ("shared3", True)]
    assert packed.tried[1].accuracy > packed.tried[0].accuracy


def test_tuned_weights_are_stored_as_they_were_tuned():
    model = program(0.4)
    task = Task(model)
    packed = pack(model, task.evaluate, max_loss=0.1, candidates=("shared3",), tune=task.tune, refine=1.0)
    found = from_bytes(packed.content).tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in packed.program.state_dict().items())


def test_when_nothing_is_good_enough_it_says_what_was_tried():
    model = program(0.4)
    with pytest.raises(ArtifactError, match=r"shared1: 0\.\d+"):
        pack(model, Task(model).evaluate, max_loss=0.0001, candidates=("shared1",))


@pytest.mark.parametrize("wrong", [{"max_loss": 1.5}, {"max_loss": -0.1}, {"max_loss": 0.1, "candidates": ("int1",)}])
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ArtifactError, match=r"fraction|unknown value precision"):
        pack(program(), lambda _: 1.0, **wrong)


def test_a_precision_that_does_not_fit_is_passed_over():
    model = program(0.4)
    with torch.no_grad():
        model.get_parameter("0.bias").fill_(1e6)
    packed = pack(model, lambda _: 1.0, max_loss=0.01, candidates=("fp16", "fp32"))
    assert "do not fit fp16" in packed.tried[0].refused
    assert packed.values["0.bias"] == "fp32"


def test_a_tuning_that_diverges_is_told_and_passed_over():
    model = program(0.4)

    def diverge(tuned, shared):
        with torch.no_grad():
            tuned.get_parameter("0.bias").fill_(float("nan"))
        shared.reassign()

    packed = pack(model, Task(model).evaluate, max_loss=0, candidates=("shared1", "fp32"), tune=diverge, refine=1.0)
    assert packed.tried[1].tuned
    assert "NaN" in packed.tried[1].refused
    assert packed.accuracy == 1
