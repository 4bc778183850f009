"""One of several gloo processes: save a pruning state in the middle of a run, or go on from one that others saved."""

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from actprune import Pruner, methods
from actprune.errors import CheckpointError, ObservationError
from actprune.pruner import distributed
from actprune.schedules import EqualSurvivors
from actprune.testing import small_data

sys.path.insert(0, str(Path(__file__).parents[1]))  # it runs as a script

from support.distributed_worker import biased_net, full, wrapped

RECIPES = {
    "observed": lambda: methods.activation(0.6),
    "live": lambda: methods.activation(0.6, pruning_steps=2),
    "wanda": lambda: methods.wanda(0.5),
    "snip": lambda: methods.snip(0.6),
    "sparsegpt": lambda: methods.sparsegpt(0.5),
    "surgery": lambda: methods.dns(0.6, schedule=EqualSurvivors(2)),
    "movement": lambda: methods.movement(0.6, steps=20, every=2),
    "tickets": lambda: methods.lottery(0.6, pruning_steps=2),
}
SHARDED = ("observed", "live", "snip", "wanda", "sparsegpt", "surgery", "tickets")
BATCHES = 6  # three each for two ranks, two each for three
"""Calibration batches of all ranks together."""


def network(kind, name):
    """With buffers where a snapshot may hold them."""
    net = biased_net()
    return nn.Sequential(*net, nn.BatchNorm1d(net[-1].out_features)) if name == "tickets" else net


def batches(part):
    """This rank's share of one half (0 or 1) of the batches, ``(inputs, labels)`` each."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    inputs, labels = (values[:60] for values in small_data())
    own = list(zip(inputs.chunk(2 * BATCHES), labels.chunk(2 * BATCHES), strict=True))[part::2]
    return own[rank::ranks]


def loss_of(model, inputs, labels):
    return nn.functional.cross_entropy(model(inputs), labels)


def collect(name, pruner, model, optimizer, part):
    """What a run does before its next pruning step, in two halves."""
    if name in ("live", "surgery", "tickets", "movement"):
        for inputs, labels in batches(part):
            loss_of(model, inputs, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        return
    with pruner.observe():
        for inputs, labels in batches(part):
            loss = loss_of(model, inputs, labels)
            if name == "snip":
                loss.backward()


def session(kind, name):
    model = wrapped(kind, network(kind, name))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0 if name == "surgery" else 0.05)
    return model, optimizer, Pruner(model, RECIPES[name]()).attach(optimizer)


def found(pruner):
    return {
        "masks": dict(pruner.masks),
        "weights": {key: full(value).detach().clone() for key, value in pruner.model.state_dict().items()},
    }


def fraction(name):
    return 0.5 if name in ("wanda", "sparsegpt") else 0.6


def saved(kind, name):
    """Half of the evidence, a state, the other half, a pruning step: what is stored and what becomes of it."""
    model, optimizer, pruner = session(kind, name)
    collect(name, pruner, model, optimizer, 0)
    if name == "surgery":
        pruner.prune(0.5)
        collect(name, pruner, model, optimizer, 0)
    stored = pruner.state_dict()
    again = pruner.state_dict()  # saving twice forgets nothing and counts nothing twice
    weights = {key: full(value).detach().clone() for key, value in pruner.model.state_dict().items()}
    return {
        "stored": stored, "again": again, "weights": weights, "finished": finish(name, model, optimizer, pruner)
    }  # fmt: skip


def finish(name, model, optimizer, pruner):
    collect(name, pruner, model, optimizer, 1)
    pruner.prune(fraction(name))
    return found(pruner)


def resumed(kind, name, before):
    """The same from the stored state on, and a pruning step at once, without any more evidence."""
    sides = {}
    for side in ("at once", "finished"):
        model, optimizer, pruner = session(kind, name)
        with torch.no_grad():
            pruner._prunable.put(before["weights"])
        pruner.load_state_dict(before["stored"])
        if side == "finished":
            sides[side] = finish(name, model, optimizer, pruner)
        else:
            pruner.prune(fraction(name))
            sides[side] = found(pruner)
    return sides


def uninterrupted(kind, name):
    """Half of the evidence, then a pruning step; nothing was saved."""
    model, optimizer, pruner = session(kind, name)
    collect(name, pruner, model, optimizer, 0)
    if name == "surgery":
        pruner.prune(0.5)
        collect(name, pruner, model, optimizer, 0)
    pruner.prune(fraction(name))
    return found(pruner)


def alone():
    """Rank 0 saves alone; then all save, as it was told."""
    pruner = Pruner(biased_net(), methods.activation(0.6))
    with pruner.observe():
        pruner.model(small_data()[0])
    distributed.PATIENCE = timedelta(seconds=1)
    message, start = "", time.monotonic()
    if dist.get_rank() == 0:
        try:
            pruner.state_dict()
        except CheckpointError as error:
            message = str(error)
    waited = time.monotonic() - start
    dist.barrier()
    distributed.PATIENCE = timedelta(seconds=60)
    return {"message": message, "waited": waited, "stored": pruner.state_dict()}


def one_rank_without_data():
    """Only rank 0 has observed: neither saving nor pruning may take its share for the whole."""
    words = []
    pruner = Pruner(biased_net(), methods.activation(0.6))
    if dist.get_rank() == 0:
        with pruner.observe():
            pruner.model(small_data()[0])
    for call in (pruner.state_dict, pruner.prune):
        try:
            call()
        except ObservationError as error:
            words.append(str(error))
    return words


def main(kind, rank, ranks, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store-{kind}-{ranks}", rank=int(rank), world_size=int(ranks)
    )
    torch.set_num_threads(1)
    names = SHARDED if kind == "fsdp2" else RECIPES
    if ranks == "2":
        result = {name: saved(kind, name) for name in names}
        for name in names:
            result[name]["resumed"] = resumed(kind, name, result[name])
            result[name]["uninterrupted"] = uninterrupted(kind, name)
        one = torch.load(f"{folder}/one.pt", weights_only=True)
        result["from one"] = {name: resumed(kind, name, one[name])["at once"] for name in names}
        result["alone"], result["one rank without data"] = alone(), one_rank_without_data()
    else:
        before = torch.load(f"{folder}/{kind}-2-0.pt", weights_only=True)
        result = {name: resumed(kind, name, before[name]) for name in names}
    torch.save(result, f"{folder}/{kind}-{ranks}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
