"""Counting on the live training batches."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.errors import ObservationError, RecipeError
from support.architectures import ConvNet, Functional
from support.nets import tiny_mlp
from support.observation import collector, fired, hooks_on


@pytest.mark.parametrize("functional", [False, True])
def test_live_counts_equal_observed_counts_on_the_same_weights(functional):
    model = Functional(tiny_mlp()) if functional else tiny_mlp()
    first = "a.weight" if functional else "0.weight"
    live, block = collector(model), collector(model)
    batches = [torch.randn(n, 4) for n in (5, 5, 2, 7)]
    model.train()
    live.start_live()
    for batch in batches:
        model(batch).sum().backward()
        model.eval()
        model(batch)  # not a training batch
        model.train()
    with block.observing():
        for batch in batches:
            model(batch)
    assert live.live_batches == 4
    assert fired(live, first) == fired(block, first)
    assert live.state.graph == block.state.graph
    live.check()
    live.stop_live()
    assert hooks_on(model) == 0
    model(batches[0])
    assert fired(live, first) == fired(block, first)


def test_live_counting_every_kth_batch():
    model = tiny_mlp()
    watch = collector(model)
    watch.start_live(every=3)
    batches = [torch.randn(n, 4) for n in range(1, 9)]
    for number, batch in enumerate(batches):
        model(batch)
        if number:
            assert hooks_on(model[1]) == 0  # between counted batches the layers are left alone
    assert watch.live_batches == 3
    expected = sum((model[:2](batches[number]) != 0).sum(0) for number in (0, 3, 6))
    assert fired(watch, "0.weight") == (expected.tolist(), 12)
    with pytest.raises(RecipeError, match="every 0 batches"):
        watch.start_live(every=0)


def trained(count, activation=F.relu, steps=4):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten())
    model = nn.Sequential(
        model,
        Functional(nn.Sequential(nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)), activation),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    watch = collector(model)
    if count:
        watch.start_live()
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 6, 6)).square().sum().backward()
        optimizer.step()
    return model.state_dict(), watch


def test_live_counting_changes_no_bit_of_training():
    plain, _ = trained(False)
    counted, watch = trained(True)
    assert watch.live_batches == 4
    assert all(torch.equal(plain[key], value) for key, value in counted.items())
    assert watch.flush()["0.0.weight"]["rows"].item() == 4 * 8 * 16


def test_live_never_zero_is_an_error_at_the_first_batch():
    with pytest.raises(ObservationError, match="gelu"):
        trained(True, F.gelu)


def test_live_nan_is_found():
    model = tiny_mlp()
    watch = collector(model)
    watch.start_live()
    model(torch.full((2, 4), float("nan")))
    with pytest.raises(ObservationError, match=r"0\.weight are NaN"):
        watch.check()


def test_live_unreached_layers_are_found():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].aside = nn.Linear(2, 2)
    watch = collector(model)
    watch.start_live()
    model(torch.randn(2, 4))
    with pytest.raises(ObservationError, match=r"2\.aside\.weight"):
        watch.check()


@pytest.mark.parametrize("fullgraph", [False, True])
def test_live_through_a_compiled_model_is_deaf_and_says_so(fullgraph):
    model = tiny_mlp()
    watch = collector(model)
    watch.start_live()
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    for _ in range(2):
        compiled(torch.randn(3, 4)).sum().backward()
    assert watch.live_batches == 0
    assert watch.flush() == {}
    with watch.observing():
        compiled(torch.randn(3, 4))
    assert watch.flush()["0.weight"]["rows"].item() == 3


def test_live_survives_failed_forwards_and_observing_in_between():
    model = Functional(tiny_mlp())
    watch = collector(model)
    watch.start_live()
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(3, 5))  # while tracing
    model(torch.randn(3, 4))
    with watch.observing():
        model(torch.randn(10, 4))
    model(torch.randn(4, 4))
    assert watch.flush()["a.weight"]["rows"].item() == 17
    assert torch._C._len_torch_function_stack() == 0


def test_copies_and_pickles_of_a_model_under_live_counting_count_nothing():
    model = tiny_mlp()
    watch = collector(model)
    watch.start_live()
    early = copy.deepcopy(model)
    model(torch.randn(3, 4))
    late = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (early, late, loaded):
        other.train()
        other(torch.randn(50, 4))
    model(torch.randn(2, 4))
    assert watch.flush()["0.weight"]["rows"].item() == 5


def test_activation_checkpointing_does_not_count_twice():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = tiny_mlp()[:4], nn.Linear(3, 2)

        def forward(self, x):
            return self.out(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))

    model = Checkpointed()
    watch = collector(model)
    watch.start_live()
    for _ in range(3):
        model(torch.randn(4, 4)).sum().backward()
    assert watch.flush()["body.0.weight"]["rows"].item() == 12


def test_other_sums_can_take_over():
    model = tiny_mlp()
    watch = collector(model)
    watch.start_live()
    model(torch.randn(3, 4))
    stored = copy.deepcopy(watch.flush())
    model(torch.randn(9, 4))
    watch.forget_live()
    watch.state.sums = stored
    model(torch.randn(2, 4))
    assert stored["0.weight"]["rows"].item() == 3
    assert watch.flush()["0.weight"]["rows"].item() == 5
    assert watch.flush() is stored


def test_no_warnings_are_left_behind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ConvNet()
        watch = collector(model)
        with watch.observing():
            model(torch.randn(2, 1, 6, 6))
