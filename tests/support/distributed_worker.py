"""One of two gloo processes: prune under DDP or FSDP2, train, and write masks and weights to a file."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from actprune import Budget, Channel, Pruner, compact, methods
from actprune.errors import CompactionError, ModelError, ObservationError
from actprune.schedules import EqualSurvivors
from actprune.testing import small_data, small_net

RECIPES = {
    "activation": lambda: methods.activation(0.6),
    "activation neurons": lambda: methods.activation(0.6, score="neuron"),
    "live": lambda: methods.activation(0.6, pruning_steps=2),
    "wanda": lambda: methods.wanda(0.5),
    "snip": lambda: methods.snip(0.6),
    "magnitude": lambda: methods.magnitude(0.6),
    "random": lambda: methods.random(0.6),
    "lamp": lambda: methods.lamp(0.6),
    "surgery": lambda: methods.dns(0.6, schedule=EqualSurvivors(2)),
    "surgery by thresholds": lambda: methods.dns_thresholds(0.0, schedule=EqualSurvivors(2)),
    "growing": lambda: methods.rigl(0.6, steps=8, every=1, stop=1.0, share=0.5),
    "sparsegpt": lambda: methods.sparsegpt(0.5),
    "tickets": lambda: methods.lottery(0.6, pruning_steps=2),
}


def biased_net():
    model = small_net()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.1)
    return model


def wrapped(kind, model):
    if kind == "fsdp2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return DistributedDataParallel(model) if kind == "ddp" else model


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def session(kind, name, share):
    """Observe this rank's share, prune, train three steps on it. Returns masks and full weights."""
    inputs, labels = (part[share] for part in small_data())
    model = wrapped(kind, biased_net())
    rate = 1.0 if "surgery" in name else 0.05  # enough to change who is among the largest
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    pruner = Pruner(model, RECIPES[name]()).attach(optimizer)
    if name == "live":
        for _ in range(2):
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    else:
        with pruner.observe():
            output = model(inputs)
            if name == "snip":
                nn.functional.cross_entropy(output, labels).backward()
    pruner.prune(None if "thresholds" in name else 0.5 if name == "wanda" else 0.6)
    masks = {key: mask.clone() for key, mask in pruner.masks.items()}
    pruned = {key: full(value).detach().clone() for key, value in pruner.model.state_dict().items()}
    for _ in range(3):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = {key: full(value).detach().clone() for key, value in pruner.model.state_dict().items()}
    if "surgery" in name:  # once more: the values behind the zeros have moved, alike on every rank
        pruner.prune(None if "thresholds" in name else 0.6)
    return {"masks": masks, "pruned": pruned, "trained": trained, "later": dict(pruner.masks)}


def flowing(kind, share):
    """SynFlow, which needs whole weights."""
    model = wrapped(kind, biased_net())
    pruner = Pruner(model, methods.synflow(0.6, rounds=3), example=small_data()[0][share][:2])
    try:
        pruner.prune()
    except ModelError as error:
        return {"refused": str(error)}
    return {"masks": dict(pruner.masks)}


def flowing_gradient(kind, share):
    """GraSP on this rank's share, through the bare model, as DDP and FSDP cannot be differentiated twice."""
    inputs, labels = (part[share] for part in small_data())
    model = wrapped(kind, biased_net())
    pruner = Pruner(model, methods.grasp(0.6))
    try:
        with pruner.observe():
            nn.functional.cross_entropy(pruner.model(inputs), labels).backward(create_graph=True)
        pruner.prune()
    except ObservationError as error:
        return {"refused": str(error)}
    return {"masks": dict(pruner.masks)}


def coupled(kind, share):
    """Units that span layers, by counts of this rank's share; held while training, then compacted."""
    inputs, labels = (part[share] for part in small_data())
    model = wrapped(kind, biased_net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = Pruner(model, methods.activation(unit=Channel(), budget=Budget.parameters(600))).attach(optimizer)
    with pruner.observe():
        model(inputs)
    pruner.prune()
    for _ in range(3):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    refused = ""
    try:
        compact(pruner.model, pruner.state)
    except CompactionError as error:
        refused = str(error)
    plain = biased_net()
    plain.load_state_dict({key: full(value) for key, value in pruner.model.state_dict().items()})
    small = compact(plain, pruner.state)
    weights = {key: value.detach().clone() for key, value in small.state_dict().items()}
    return {"masks": dict(pruner.masks), "small": weights, "compacting": refused}


def noisy(kind, share):
    """Train with variational dropout for three steps on this rank's share; what was learnt beside the weights."""
    inputs, labels = (part[share] for part in small_data())
    model = wrapped(kind, biased_net())
    try:
        pruner = Pruner(model, methods.variational_dropout(0.5, examples=64, steps=3))
    except ModelError as error:
        return {"refused": str(error)}
    optimizer = torch.optim.Adam([*model.parameters(), *pruner.extra_parameters()], lr=0.05)
    pruner.attach(optimizer)
    for _ in range(3):
        (nn.functional.cross_entropy(model(inputs), labels) + pruner.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    learnt = {name: own["log_sigma2"].detach().clone() for name, own in pruner.state.learnt.items()}
    return {"learnt": learnt, "masks": dict(pruner.masks)}


def one_rank_without_data():
    """Rank 1 observes nothing of its own: every rank must get the error, none may hang."""
    pruner = Pruner(biased_net(), methods.activation(0.6))
    if dist.get_rank() == 0:
        with pruner.observe():
            pruner.model(small_data()[0])
    try:
        pruner.prune()
    except ObservationError as error:
        return str(error)
    return "no error"


def main(kind, rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{kind}", rank=int(rank), world_size=2)
    torch.set_num_threads(1)
    share = slice(int(rank), None, 2)
    found = {name: session(kind, name, share) for name in RECIPES}
    found["noisy"] = noisy(kind, share)
    found["coupled"] = coupled(kind, share)
    found["flowing"] = flowing(kind, share)
    found["flowing gradient"] = flowing_gradient(kind, share)
    found["one rank without data"] = one_rank_without_data()
    torch.save(found, f"{folder}/{kind}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
