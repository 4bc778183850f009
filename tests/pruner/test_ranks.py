"""A state that two gloo processes save is right at one, two and three, under DDP and FSDP2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from actprune.errors import CheckpointError
from actprune.pruner import ranks as rooms
from actprune.state import PruneState
from support import resume_worker as worker

FILE = Path(worker.__file__)
BOTH = [("ddp", name) for name in worker.RECIPES] + [("fsdp2", name) for name in worker.SHARDED]


def run(kind, ranks, folder):
    """What every rank has found."""
    logs = [(folder / f"log-{kind}-{ranks}-{rank}").open("w+") for rank in range(ranks)]
    processes = [
        subprocess.Popen([sys.executable, str(FILE), kind, str(rank), str(ranks), str(folder)], stderr=log)
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    assert not any(codes), "\n".join(Path(log.name).read_text() for log in logs)
    return [torch.load(folder / f"{kind}-{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    one = {name: worker.saved("alone", name) for name in worker.RECIPES}
    torch.save(one, folder / "one.pt")
    several = {(kind, ranks): run(kind, ranks, folder) for kind in ("ddp", "fsdp2") for ranks in (2, 3)}
    return {**several, "one": {name: worker.uninterrupted("alone", name) for name in worker.RECIPES}}


def same(left, right):
    """Whether two nested results are equal, bit for bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_every_rank_gets_the_same_state_and_saving_again_changes_nothing(found, kind, name):
    zero, one = (rank[name] for rank in found[kind, 2])
    assert same(zero["stored"], one["stored"])
    assert same(zero["stored"], zero["again"])


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_two_ranks_go_on_bit_for_bit_like_the_run_that_saved(found, kind, name):
    for rank in found[kind, 2]:
        assert same(rank[name]["finished"], rank[name]["resumed"]["finished"])
        assert rank[name]["finished"]["masks"]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_another_number_of_ranks_prunes_as_if_nothing_had_been_interrupted(found, kind, name, ranks):
    expected = found[kind, 2][0][name]["uninterrupted"]
    for rank in found[kind, ranks]:
        at_once = (rank[name]["resumed"] if ranks == 2 else rank[name])["at once"]
        assert same(at_once["masks"], expected["masks"])
        for key, value in expected["weights"].items():
            torch.testing.assert_close(at_once["weights"][key], value)


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_one_process_prunes_as_if_nothing_had_been_interrupted(found, kind, name):
    before = found[kind, 2][1][name]  # the file of either rank will do
    resumed = worker.resumed("alone", name, before)["at once"]
    assert same(resumed["masks"], before["uninterrupted"]["masks"])
    for key, value in before["uninterrupted"]["weights"].items():
        torch.testing.assert_close(resumed["weights"][key], value)


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_two_ranks_take_over_from_one_process(found, kind, name):
    for rank in found[kind, 2]:
        assert same(rank["from one"][name]["masks"], found["one"][name]["masks"])


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_firing_counts_are_those_of_all_ranks(found, kind):
    model, optimizer, pruner = worker.session("alone", "observed")
    worker.collect("observed", pruner, model, optimizer, 0)
    assert same(found[kind, 2][0]["observed"]["stored"]["sums"], pruner.state.sums)


def test_counts_of_training_batches_are_those_of_all_ranks(found):
    sums = found["ddp", 2][0]["live"]["stored"]["sums"]
    assert all(int(own["rows"]) == 30 for own in sums.values())


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_what_is_kept_per_shard_is_stored_whole(found, kind):
    stored = found[kind, 2][0]
    weights = stored["surgery"]["weights"]
    dense = stored["surgery"]["stored"]["dense"]
    assert dense
    assert all(value.shape == weights[name].shape for name, value in dense.items())
    snapshot = stored["tickets"]["stored"]["snapshot"]
    assert {name: value.shape for name, value in snapshot.items()} == {
        name: value.shape for name, value in stored["tickets"]["weights"].items()
    }


def test_calibration_inputs_of_all_ranks_are_stored_in_turn(found):
    model, optimizer, pruner = worker.session("alone", "sparsegpt")
    worker.collect("sparsegpt", pruner, model, optimizer, 0)
    for kind in ("ddp", "fsdp2"):
        stored = found[kind, 2][0]["sparsegpt"]["stored"]["inputs"]
        assert same(
            [list(map(list, each[:1])) for each in stored], [list(map(list, e[:1])) for e in pruner.state.inputs]
        )


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_rank_that_saves_alone_is_told_soon_and_saving_together_then_works(found, kind):
    zero, one = (rank["alone"] for rank in found[kind, 2])
    assert "of 2 ranks 1 did not call it; call it on every rank" in zero["message"]
    assert 1 <= zero["waited"] < 5
    assert one["message"] == ""
    assert same(zero["stored"], one["stored"])


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_data_of_one_rank_alone_is_not_taken_for_the_whole(found, kind):
    for rank in found[kind, 2]:
        saving, pruning = rank["one rank without data"]
        assert "every rank must observe" in saving
        assert "observe" in pruning


def shares(monkeypatch, inputs, ranks, even=False):
    """What each of so many ranks takes of the stored inputs."""
    monkeypatch.setattr(rooms, "ranks", lambda: ranks)
    monkeypatch.setattr(rooms, "sharded", lambda tensor: even)
    found = []
    for rank in range(ranks):
        monkeypatch.setattr(rooms, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(rooms, "_cut", lambda value, like: value)
        found.append(rooms.share(PruneState(inputs=inputs), {"w": torch.zeros(1)}).inputs)
    return found


def batch(first, examples=4):
    return (torch.arange(first, first + examples),), {
        "mask": torch.ones(examples, 2),
        "scale": torch.tensor(2.0),
        "n": 3,
    }


def test_fewer_batches_than_ranks_are_dealt_out_by_examples(monkeypatch):
    one, other = shares(monkeypatch, [batch(0)], 2)
    assert one[0][0][0].tolist() == [0, 2]
    assert other[0][0][0].tolist() == [1, 3]
    assert other[0][1]["mask"].shape == (2, 2)
    assert other[0][1]["scale"].item() == 2.0


def test_ranks_with_sharded_weights_run_as_many_batches_each(monkeypatch):
    inputs = [batch(0), batch(10), batch(20)]
    assert [len(own) for own in shares(monkeypatch, inputs, 2)] == [2, 1]
    even = shares(monkeypatch, inputs, 2, even=True)
    assert [len(own) for own in even] == [3, 3]
    examples = sorted(number for own in even for args, _ in own for number in args[0].tolist())
    assert examples == [*range(4), *range(10, 14), *range(20, 24)]


def test_inputs_that_cannot_be_dealt_out_are_refused(monkeypatch):
    with pytest.raises(CheckpointError, match="resume with a number of ranks that divides the batches"):
        shares(monkeypatch, [batch(0)], 5)
    with pytest.raises(CheckpointError, match=r"\[3, 4\] examples"):
        shares(monkeypatch, [((torch.ones(4), torch.ones(3)), {})], 2)
