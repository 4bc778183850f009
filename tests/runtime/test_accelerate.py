"""``accelerate``: wrong paths are dropped, the fastest right one is chosen, and the words say what was found."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from actprune.artifact import save
from actprune.errors import ModelError, RuntimePathError
from actprune.runtime import accelerate, bench_table, candidates, prepared
from actprune.runtime.paths.eager import TorchCompact, TorchEager, eager
from support.execution import chain_program, close, exact, inputs, program_of
from support.nets import convnet, sparse_mlp


class Fake:
    """A path that is right up to ``off``, and takes its time."""

    extra = None

    def __init__(self, name, *, seconds=0.0, off=0.0, dense=False, error=None):
        self.name, self.seconds, self.off, self.dense, self.error = name, seconds, off, dense, error

    def build(self, model):
        if self.error is not None:
            raise self.error
        inner = eager(model.dense if self.dense else model.small)

        def run(x):
            time.sleep(self.seconds)
            return inner(x) + np.float32(self.off)

        return run


class SlowEager(TorchEager):
    """Plain PyTorch, on a slow machine."""

    def build(self, model):
        inner = super().build(model)

        def run(x):
            time.sleep(0.06)  # far from the others: a busy machine must not turn the order round
            return inner(x)

        return run


@pytest.fixture
def use(monkeypatch):
    """Replace the list of paths."""
    return lambda *paths: monkeypatch.setattr(candidates, "PATHS", paths)


def rows(result):
    return {row.path: row for row in result.table}


def quick(*args, **kwargs):
    return accelerate(*args, min_seconds=0.01, **kwargs)


def test_the_fastest_right_path_is_chosen_and_the_wrong_one_dropped(use):
    use(SlowEager(), Fake("wrong", off=0.5), Fake("right", seconds=0.0003), Fake("slow", seconds=0.04))
    net, x = sparse_mlp(6, 5, 3), inputs(4, 6)
    found = quick(net, x)
    assert found.path == "right"
    assert rows(found)["wrong"].status == "wrong"
    assert "wrong by" in rows(found)["wrong"].reason
    assert rows(found)["wrong"].median_s is None
    assert [row.path for row in found.table if row.chosen] == ["right"]
    assert rows(found)["slow"].median_s > rows(found)["right"].median_s > 0
    assert found.speedup > 2
    assert "x faster than the fastest dense runtime here (torch eager), with right" in found.verdict
    close(found(x), exact(net, x))


def test_a_path_that_is_wrong_on_other_inputs_only_is_dropped(use):
    class Remembers(Fake):
        def build(self, model):
            known = eager(model.small)(model.example)
            return lambda x: known

    use(SlowEager(), Remembers("remembers"))
    assert rows(quick(chain_program(sparse_mlp(6, 3)), inputs(4, 6)))["remembers"].status == "wrong"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_results_that_are_not_finite_are_wrong(use, bad):
    use(SlowEager(), Fake("broken", off=bad))
    assert rows(quick(chain_program(sparse_mlp(6, 3)), inputs(4, 6)))["broken"].status == "wrong"


def test_a_path_that_cannot_be_built_is_left_out_with_its_reason(use):
    use(SlowEager(), Fake("absent", error=RuntimePathError("absent needs a library")), Fake("odd", error=KeyError("x")))
    found = rows(quick(chain_program(sparse_mlp(6, 3)), inputs(2, 6)))
    assert found["absent"].status == found["odd"].status == "not built"
    assert found["absent"].reason == "absent needs a library"
    assert "KeyError" in found["odd"].reason
    assert found["torch eager"].chosen


def test_dense_wins_when_nothing_is_faster(use):
    use(TorchEager(), Fake("slow", seconds=0.002))
    net, x = sparse_mlp(6, 3), inputs(2, 6)
    found = quick(net, x)
    assert found.path == "torch eager"
    assert found.speedup == 1
    assert found.verdict.startswith("not faster than dense on this machine")
    smaller = quick(chain_program(sparse_mlp(3, 3, columns=[0, 1, 2])), inputs(2, 6), dense=net)
    assert smaller.verdict.startswith("smaller but not faster on this machine: use the compact dense form")


def test_a_dense_model_with_other_outputs_is_timed_but_never_chosen(use):
    use(TorchEager(), Fake("slow", seconds=0.002))
    found = quick(chain_program(sparse_mlp(6, 3, density=0.1)), inputs(2, 6), dense=sparse_mlp(6, 3, seed=5))
    assert rows(found)["torch eager"].status == "reference only"
    assert rows(found)["torch eager"].median_s > 0
    assert found.path == "slow"
    assert "smaller but not faster" in found.verdict


def test_the_same_dense_model_may_be_chosen(use):
    use(TorchEager(), TorchCompact())
    net, x = sparse_mlp(6, 4, 3), inputs(2, 6)
    found = quick(program_of(net, x), x, dense=net)
    assert {row.status for row in found.table} == {"ok"}


def test_no_path_at_all(use):
    use(Fake("absent", error=RuntimePathError("needs a library")))
    with pytest.raises(RuntimePathError, match=r"no execution path can run this model here .*needs a library"):
        quick(chain_program(sparse_mlp(6, 3)), inputs(2, 6))


def test_scattered_zeros_in_convolutions_get_a_word(use):
    use(TorchEager())
    net = convnet()
    net[0].weight.data[:, :, 0] = 0
    net[5].weight.data *= torch.rand_like(net[5].weight) < 0.1
    assert "no runtime gains from scattered zeros" in quick(net, inputs(2, 1, 8, 8)).verdict


def test_torch_in_torch_out_numpy_in_numpy_out_and_the_result_is_the_callers(use):
    use(TorchEager())
    net, x = sparse_mlp(6, 3), inputs(2, 6)
    found = quick(net, torch.from_numpy(x))
    assert isinstance(found(torch.from_numpy(x)), torch.Tensor)
    kept = found(x)
    copy = kept.copy()
    found(x + 1)
    assert (kept == copy).all()
    close(found(x.astype(np.float64)[::-1]), exact(net, x[::-1].copy()))  # other precision, negative strides
    close(found(inputs(9, 6)), exact(net, inputs(9, 6)))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 5), np.float32), r"accelerated for inputs \(batch, 6\)"),
        (np.zeros((2, 6), np.int64), "floating-point"),
        (np.zeros((0, 6), np.float32), "non-empty"),
    ],
)
def test_bad_inputs_are_refused(use, x, words):
    use(TorchEager())
    found = quick(chain_program(sparse_mlp(6, 3)), inputs(2, 6))
    with pytest.raises(RuntimePathError, match=words):
        found(x)


def test_bad_arguments_are_refused(use):
    use(TorchEager())
    net, x = sparse_mlp(6, 3), inputs(2, 6)
    with pytest.raises(RuntimePathError, match="did you mean 'torch eager'"):
        quick(net, x, paths=["torch eagr"])
    with pytest.raises(RuntimePathError, match="threads must be"):
        quick(net, x, threads=0)
    with pytest.raises(RuntimePathError, match="example's shape"):
        quick(net, x, inputs=[inputs(3, 6)])
    with pytest.raises(RuntimePathError, match="the model fails on an input"):
        quick(program_of(net, x), inputs(2, 5))
    with pytest.raises(ModelError):
        quick(net, inputs(2, 5))


def test_models_with_several_results_are_refused(use):
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    use(TorchEager())
    with pytest.raises(RuntimePathError, match="one input and one result"):
        quick(Two(), inputs(2, 6))


def test_the_users_model_and_threads_are_left_alone(use):
    use(TorchEager())
    net, x = sparse_mlp(6, 3).train(), inputs(2, 6)
    before, threads = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_num_threads()
    found = quick(net, x, threads=2)
    assert net.training
    assert torch.get_num_threads() == threads
    expected = found(x)
    net[1].weight.data.zero_()
    assert (found(x) == expected).all()
    assert all(before[key].shape == value.shape for key, value in net.state_dict().items())


def test_dense_references_are_measured_whatever_was_asked(use):
    use(TorchEager(), Fake("a"), Fake("b"))
    assert [row.path for row in quick(chain_program(sparse_mlp(6, 3)), inputs(2, 6), paths=["b"]).table] == [
        "torch eager",
        "b",
    ]


def test_bench_table_has_rows_per_batch_and_cycles_through_the_data(use):
    seen = set()

    class Watching(Fake):
        def build(self, model):
            inner = super().build(model)

            def run(x):
                seen.add((len(x), float(x.ravel()[0])))
                return inner(x)

            return run

    use(TorchEager(), Watching("watching"))
    model = prepared(sparse_mlp(6, 3), inputs(2, 6))
    table = bench_table(model, (1, 4), data=inputs(8, 6), min_seconds=0.1)
    assert list(table) == [1, 4]
    assert all(row.batch == batch and row.median_s > 0 for batch, rows in table.items() for row in rows)
    assert sum(row.chosen for row in table[4]) == 1
    assert len({first for batch, first in seen if batch == 1}) >= 8
    with pytest.raises(RuntimePathError, match="positive"):
        bench_table(model, (0,), min_seconds=0.01)


def test_the_real_paths_end_to_end():
    net, x = sparse_mlp(40, 30, 5, density=0.05), inputs(2, 40)
    small = sparse_mlp(20, 30, 5, columns=list(range(20)))
    wide = nn.Linear(40, 30)
    wide.weight.data.zero_()
    wide.weight.data[:, :20], wide.bias.data = small[2].weight.data, small[2].bias.data
    net = nn.Sequential(nn.Flatten(), wide, nn.ReLU(), small[4]).eval()
    found = accelerate(small, x, dense=net, paths=["torch csr", "onnxruntime compact"], min_seconds=0.02)
    assert not [row for row in found.table if row.status in ("wrong", "reference only")]
    close(found(x), exact(net, x))


def test_a_saved_file_runs_like_the_model_that_was_saved(tmp_path, use):
    use(TorchEager(), TorchCompact(), Fake("right"))
    net, x = sparse_mlp(6, 5, 3), inputs(2, 6)
    path = save(program_of(net, x), tmp_path / "net.actprune")
    close(quick(path, x)(x), exact(net, x))
    assert {row.status for row in quick(str(path), x, dense=net).table} == {"ok"}


def test_several_inputs_are_refused_in_words():
    with pytest.raises(RuntimePathError, match="one array"):
        accelerate(sparse_mlp(6, 3), (torch.zeros(2, 6), torch.zeros(2, 5)))


def test_batch_sizes_are_checked_before_anything_is_built(use):
    use(TorchEager())
    with pytest.raises(RuntimePathError, match="batch sizes must be positive; got 0"):
        bench_table(prepared(sparse_mlp(6, 3), inputs(2, 6)), (1, 0))
