"""L5: the weights of a network, and one sparsity for all: every baseline ends at the same number of weights.

Sparsity is over all weights of the network, the output layer and layers that cannot be pruned included. A method that
leaves the output layer alone by its nature removes correspondingly more elsewhere, so that as many are left in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from actprune import methods
from actprune.errors import BudgetError
from actprune.lab import data, models
from actprune.lab.config import RunConfig
from actprune.lab.recipe import recipe_of
from actprune.lab.seeding import batch_sizes
from actprune.pruner.pruner import Pruner
from actprune.rank.allocate import round_half_up


@dataclass(frozen=True)
class Sizes:
    """weights: of the whole network. prunable: of the layers that can be pruned at all. hidden: of those without the
    output layer. examples: of the training set.
    """

    weights: int
    prunable: int
    hidden: int
    examples: int

    def steps(self, batch_size: int) -> int:
        """Optimizer steps per epoch."""
        return len(batch_sizes(self.examples, batch_size))


@lru_cache(maxsize=32)
def sizes_of(source: str, model: str) -> Sizes:
    """Load the data and build the network once. Raises DataError or ModelError for what does not exist or fit."""
    dataset = data.load(source)
    network = models.build(model, dataset)
    data.check_compatible(dataset, network)

    def pruner(skip_output: bool) -> Pruner:
        recipe = methods.make("magnitude", {"skip_output": skip_output})
        return Pruner(network, recipe, example=dataset.train[0][:2])

    whole = pruner(False)
    account = whole.account()
    return Sizes(account.weights, account.prunable, pruner(True).counted_weights, len(dataset.train[0]))


def converted(config: RunConfig, sizes: Sizes) -> RunConfig:
    """The same run with the sparsity its method must be asked for, so that the whole network has the one wanted.

    Raises BudgetError when the layers it may prune do not hold that many weights.
    """
    recipe = recipe_of(config, sizes.steps(config.batch_size), sizes.examples)
    prunable = sizes.hidden if recipe.skip_output else sizes.prunable
    if prunable == sizes.weights or recipe.budget.of == "all":
        return config
    remove = round_half_up(config.sparsity * sizes.weights)
    if remove >= prunable:
        what = "but leaves the output layer alone, and the hidden layers" if recipe.skip_output else "but its layers"
        raise BudgetError(
            f"{config.method} was to remove {remove} of {sizes.weights} weights, {what} hold only {prunable}; ask for "
            f"less than {prunable / sizes.weights:.4f}"
        )
    return config.with_(sparsity=remove / prunable)
