"""Two real gloo processes, DDP and FSDP2: rank 0 == rank 1 == one process on all the data."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support import distributed_worker as worker

FILE = Path(worker.__file__)


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    logs = [(folder / f"log-{rank}").open("w+") for rank in range(2)]
    commands = [[sys.executable, str(FILE), request.param, str(rank), str(folder)] for rank in range(2)]
    processes = [subprocess.Popen(command, stderr=log) for command, log in zip(commands, logs, strict=True)]
    try:
        codes = [process.wait(timeout=100) for process in processes]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    assert codes == [0, 0], "\n".join((folder / f"log-{rank}").read_text() for rank in range(2))
    return [torch.load(folder / f"{request.param}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", worker.RECIPES)
def test_masks_are_identical_on_every_rank_and_equal_to_one_process(ranks, name):
    zero, one = (rank[name]["masks"] for rank in ranks)
    assert zero.keys() == one.keys()
    assert all(torch.equal(zero[key], one[key]) for key in zero)
    if name == "live":
        return  # two training steps on averaged gradients: the weights differ from a single process in the last bits
    alone = worker.session("alone", name, slice(None))
    assert all(torch.equal(mask, zero[key]) for key, mask in alone["masks"].items())
    for key, value in alone["pruned"].items():
        torch.testing.assert_close(ranks[0][name]["pruned"][key], value)


@pytest.mark.parametrize("name", worker.RECIPES)
def test_zeros_are_held_on_every_rank_while_training_goes_on(ranks, name):
    for rank in ranks:
        for key, mask in rank[name]["later" if name == "growing" else "masks"].items():
            assert not rank[name]["trained"][key][~mask].any()
            assert not torch.equal(rank[name]["trained"][key], rank[name]["pruned"][key])


def test_a_rank_without_data_is_an_error_on_every_rank(ranks):
    assert "every rank must observe" in ranks[0]["one rank without data"]
    assert "observe()" in ranks[1]["one rank without data"]


@pytest.mark.parametrize("name", ["surgery", "surgery by thresholds", "growing"])
def test_masks_that_move_agree_on_every_rank_after_training(ranks, name):
    zero, one = (rank[name]["later"] for rank in ranks)
    assert all(torch.equal(zero[key], one[key]) for key in zero)
    assert any((zero[key] != ranks[0][name]["masks"][key]).any() for key in zero)


def test_what_is_learnt_beside_the_weights_is_the_same_on_every_rank(ranks):
    zero, one = (rank["noisy"] for rank in ranks)
    if "refused" in zero:
        assert "sharded" in zero["refused"]
        return
    for part in ("learnt", "masks"):
        assert all(torch.equal(zero[part][key], one[part][key]) for key in zero[part])
    assert all((value != -8.0).any() for value in zero["learnt"].values())


def test_an_objective_gives_one_mask_or_is_refused_where_weights_are_sharded(ranks):
    zero, one = (rank["flowing"] for rank in ranks)
    if "refused" in zero:
        assert "prune before you shard" in zero["refused"]
        assert zero == one
        return
    alone = worker.flowing("alone", slice(None))["masks"]
    assert all(torch.equal(zero["masks"][key], alone[key]) for key in alone)
    assert all(torch.equal(one["masks"][key], alone[key]) for key in alone)


def test_a_hessian_of_all_ranks_gives_one_mask_or_is_refused_where_weights_are_sharded(ranks):
    zero, one = (rank["flowing gradient"] for rank in ranks)
    if "refused" in zero:
        assert "call loss.backward(create_graph=True) inside observe()" in zero["refused"]
        assert zero == one
        return
    alone = worker.flowing_gradient("alone", slice(None))["masks"]
    for key, mask in zero["masks"].items():
        assert torch.equal(mask, one["masks"][key])
        assert torch.equal(mask, alone[key])


def test_coupled_channels_are_the_same_on_every_rank_and_equal_to_one_process(ranks):
    zero, one = (rank["coupled"] for rank in ranks)
    assert zero["compacting"] == "" or "load the weights into a plain model" in zero["compacting"]
    alone = worker.coupled("alone", slice(None))
    for key, mask in zero["masks"].items():
        assert torch.equal(mask, one["masks"][key])
        assert torch.equal(mask, alone["masks"][key])
    assert sum(value.numel() for value in zero["small"].values()) <= 600
    assert all(torch.equal(value, one["small"][key]) for key, value in zero["small"].items())
