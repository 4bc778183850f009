"""``nuclear_norm``: what training under the norm does to ranks, and both of its ends."""

import pytest
import torch
from torch import nn

import actprune
from actprune import analysis, lowrank, methods
from actprune.errors import RecipeError
from actprune.lab import RunConfig, run
from actprune.schedules import OneShot
from actprune.testing import check_method, small_data, small_net

STEPS = 60


def trained(recipe):
    torch.manual_seed(0)
    net = small_net()
    x, y = small_data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    pruner = actprune.Pruner(net, recipe).attach(optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(net(x), y) + pruner.penalty()).backward()
        optimizer.step()
    pruner.detach()
    return net, pruner


def effective(net):
    return sum(analysis.effective_rank(net.get_parameter(f"{i}.weight")) for i in (0, 2, 4))


def test_conformance():
    check_method(methods.nuclear_norm)


@pytest.mark.parametrize(
    ("how", "weights", "strength"),
    [
        ("proximal", "uniform", 9e-3), ("proximal", "index", 1e-3), ("proximal", "inverse", 2e-3),
        ("subgradient", "uniform", 6e-3), ("subgradient", "index", 6e-4), ("subgradient", "inverse", 2e-3),
    ],
)  # fmt: skip
def test_training_under_the_norm_lowers_the_rank_and_still_learns(how, weights, strength):
    plain, _ = trained(methods.magnitude(0.0))
    ends = OneShot(at_step=STEPS)
    recipe = methods.nuclear_norm(0.0, strength=strength, weights=weights, how=how, every=2, steps=STEPS, decays=False,
                                  schedule=ends)  # fmt: skip
    net, pruner = trained(recipe)
    assert effective(net) < 0.9 * effective(plain)
    assert pruner.finished
    assert float(pruner.penalty().detach()) == 0  # lifted
    x, y = small_data()
    assert nn.functional.cross_entropy(net(x), y) < 1.2 < nn.functional.cross_entropy(small_net()(x), y)


def test_proximal_training_ends_exactly_low_rank_and_ships_as_factors():
    recipe = methods.nuclear_norm(0.0, strength=3e-3, weights="index", every=2, steps=STEPS, decays=False,
                                  schedule=OneShot(STEPS))  # fmt: skip
    net, _ = trained(recipe)
    ranks = {name: analysis.numerical_rank(net.get_parameter(name)) for name in ("0.weight", "2.weight")}
    assert all(1 <= rank < lowrank.largest_rank(net.get_parameter(name)) for name, rank in ranks.items())
    x, _ = small_data()
    small = lowrank.replace(net, ranks)
    assert torch.allclose(small(x), net(x), atol=1e-4)  # nothing is cut off
    assert lowrank.weights(small) < lowrank.weights(net)


def test_the_other_end_is_masks_after_four_fifths():
    net, pruner = trained(methods.nuclear_norm(0.5, strength=0.001, steps=STEPS))
    assert pruner.state.pruned_at == 48
    assert sum(int((~mask).sum()) for mask in pruner.masks.values()) == round(
        0.5 * sum(mask.numel() for mask in pruner.masks.values())
    )
    assert all(not net.get_parameter(name)[~mask].any() for name, mask in pruner.masks.items())


def test_in_a_run_it_is_told_the_steps(tmp_path):
    config = RunConfig(method="nuclear_norm", schedule="own", model="mlp", hidden=(16,), max_epochs=3, threads=1,
                       full_length=True, options={"weights": "index", "strength": 1e-4})  # fmt: skip
    result = run(config, tmp_path / "run", plots=False)
    assert result.pruner.recipe.penalty.horizon == result.summary["steps"]
    assert result.summary["actual"] == pytest.approx(0.9, abs=0.01)


def test_bad_options():
    with pytest.raises(RecipeError, match="strength"):
        methods.nuclear_norm(strength=-1.0)
    with pytest.raises(RecipeError, match="did you mean 'weights'"):
        methods.make("nuclear_norm", {"weight": "index"})
