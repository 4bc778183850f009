"""SET: the smallest positive and the largest negative weights go, as many come at random."""

import torch

from actprune import Pruner, methods
from actprune.criteria import MagnitudeWithinSign
from actprune.edit import Quota, View, pruning_step
from actprune.testing import small_net
from actprune.types import Layer, Progress

WEIGHT = torch.tensor([[0.1, 5.0, -3.0, -0.2], [0.0, 0.0, 0.0, 0.0], [0.3, -9.0, 0.4, -0.5]])
MASK = WEIGHT != 0


def test_scores_are_ranks_within_the_sign():
    scores = MagnitudeWithinSign().score(Layer("a.weight", WEIGHT, mask=MASK))
    expected = [[0.25, 1.0, 0.75, 0.25], [0, 0, 0, 0], [0.5, 1.0, 0.75, 0.5]]
    assert torch.allclose(scores, torch.tensor(expected, dtype=torch.float64))


def edit(pruning_step_done, share=0.25):
    recipe = methods.sparse_evolutionary(1 / 3, steps=100, steps_per_epoch=10, share=share, allocation="uniform")
    progress = Progress(10, pruning_step_done)
    layer = Layer("a.weight", WEIGHT, mask=MASK, progress=progress)
    return pruning_step(recipe, View.of([layer], progress=progress), Quota(1 / 3, recipe.budget))


def test_the_share_of_each_sign_goes_and_as_many_grow_elsewhere():
    found = edit(1)
    # 8 kept, a quarter of them: the smallest positive (0.1) and the largest negative (-0.2)
    gone = MASK & ~found.masks["a.weight"]
    assert gone.nonzero().tolist() == [[0, 0], [0, 3]]
    assert int(found.born["a.weight"].sum()) == 2
    assert not (found.born["a.weight"] & MASK).any()
    assert int(found.masks["a.weight"].sum()) == 8


def test_every_update_draws_other_places():
    drawn = {tuple(edit(step).born["a.weight"].flatten().int().tolist()) for step in range(1, 12)}
    assert len(drawn) > 1


def test_the_first_pruning_step_draws_at_erdos_renyi_densities():
    model = small_net()
    pruner = Pruner(model, methods.sparse_evolutionary(0.8, steps=100, steps_per_epoch=10))
    pruner.prune()
    kept = {name: int(mask.sum()) for name, mask in pruner.masks.items()}
    total = sum(mask.numel() for mask in pruner.masks.values())
    assert sum(kept.values()) == total - round(0.8 * total)
    # density ~ (in + out) / (in * out), so kept weights ~ in + out
    ratio = kept["0.weight"] / (32 + 24)
    assert abs(kept["2.weight"] / (24 + 16) - ratio) < 0.05 * ratio
