"""What the tests of execution paths share: inputs, programs, and what a network computes in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from actprune.errors import RuntimePathError
from actprune.program import Program, Ref, Step, export
from actprune.runtime.base import Model
from support.architectures import Gather


def inputs(batch, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


def chain_program(net):
    """What ``export`` makes of ``mlp``, a hundred times faster."""
    steps, here = [], "x"
    for place, part in enumerate(net):
        weights = [Ref(f"{place}.{name}") for name, _ in (*part.named_parameters(), *part.named_buffers())]
        op, args = {
            nn.Flatten: ("flatten.using_ints", [1]), Gather: ("index_select", [1, *weights]),
            nn.Linear: ("linear", weights), nn.ReLU: ("relu", []),
        }[type(part)]  # fmt: skip
        steps.append(Step(f"step{place}", op, (Ref(here), *args)))
        here = f"step{place}"
    return Program(["x"], steps, Ref(here), {**dict(net.named_parameters()), **dict(net.named_buffers())})


def program_of(net, x):
    plain = all(isinstance(part, (nn.Flatten, Gather, nn.Linear, nn.ReLU)) for part in net)
    return chain_program(net) if plain else export(net, torch.from_numpy(np.concatenate([x, x])))


def model_of(net, x, threads=1, small=None):
    dense = program_of(net, x)
    return Model(dense, dense if small is None else program_of(small, x), x, threads)


def exact(net, x):
    """In float64, whatever precision the network has."""
    with torch.no_grad():
        result = net.double()(torch.from_numpy(x).double()).numpy()
    net.float()
    return result


def built(path, model):
    """The run, or a skip where the optional library is missing."""
    try:
        return path.build(model)
    except RuntimePathError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


def close(found, expected):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-3)
