"""L5: one epoch of training on data that is resident as tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from actprune.errors import ModelError
from actprune.evidence import HessianGradient, SquaredGradient
from actprune.lab import semi
from actprune.lab.config import RunConfig
from actprune.lab.evaluate import Score
from actprune.lab.labels import passes
from actprune.lab.listener import Listener
from actprune.lab.seeding import batch_sizes, drawn, epoch_order, seeded_epoch
from actprune.lab.setup import Setup
from actprune.schedules import EqualSurvivors


def learning_rate(config: RunConfig, done: int, length: int) -> float:
    """Of the epoch after ``done`` of ``length`` epochs. A pure function: a resumed run needs no scheduler state."""
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(done, length - 1) / length))


def _rate(setup: Setup) -> float:
    """The learning rate of the epoch about to start; a recipe may want a lower one, or that of an earlier epoch."""
    pruner, schedule = setup.pruner, setup.recipe.schedule
    length = setup.config.max_epochs
    if setup.recipe.replays is not None and isinstance(schedule, EqualSurvivors) and schedule.every:
        length = max(1, schedule.every // setup.steps)  # every round has a schedule of its own
    return pruner.lr_scale * learning_rate(setup.config, pruner.schedule_step // setup.steps, length)


def train_epoch(setup: Setup, epoch: int, listener: Listener, lr: float | None = None) -> Score:
    """Train on every example once; running loss and accuracy of the epoch (as Keras reports them).

    With few labels the labelled examples come round again until the epoch is as long as with all of them. lr: instead
    of the run's own. The loss reported leaves a recipe's penalty and the pseudo-labels out. Nothing is read back from
    the device until the end. Raises ModelError when the loss is no longer finite.
    """
    x, y = setup.train
    model, backward, step = setup.model, setup.backward, setup.step
    guess = semi.weight(epoch, setup.config.max_epochs) if setup.config.semi == "pseudo" else 0.0
    loss_sum = torch.zeros((), device=setup.device)
    tally = torch.zeros((), dtype=torch.int64, device=setup.device)
    model.train()
    for group in setup.optimizer.param_groups:
        group["lr"] = _rate(setup) if lr is None else lr
    with seeded_epoch(setup.config.seed, epoch, setup.device):
        # Gathering batch by batch keeps the copy in the cache; a permuted copy of the whole set is 15 % slower.
        for chosen, others in _batches(setup, epoch, with_others=guess > 0):
            inputs, labels = x.index_select(0, chosen), y.index_select(0, chosen)
            out, unsure = _outputs(setup, inputs, others)
            loss = setup.task.loss(out, inputs, labels)
            whole = loss if unsure is None else loss + guess * semi.loss(unsure)
            backward(whole if setup.recipe.penalty is None else whole + setup.pruner.penalty())
            step()
            setup.optimizer.zero_grad()
            loss_sum += loss.detach() * len(labels)
            tally = tally + setup.task.tally(out.detach(), inputs, labels)
            listener.stepped()
    loss_mean = float(loss_sum) / setup.examples
    if not torch.isfinite(loss_sum):
        raise ModelError(
            f"training diverged in epoch {epoch}: the loss is {loss_mean}; the last checkpoint is the one before. "
            f"Start again with a smaller learning rate (lr={setup.config.lr:g} now)"
        )
    return Score(loss_mean, setup.task.score(tally, setup.examples))


def _outputs(setup: Setup, inputs: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """For labelled inputs, and for unlabelled ones: one forward for both, so that BatchNorm sees them together."""
    if others is None:
        return setup.forward(inputs), None
    out, unsure = torch.split(setup.forward(torch.cat((inputs, others))), [len(inputs), len(others)])
    return out, unsure


def _batches(setup: Setup, epoch: int, *, with_others: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Indices of labelled examples, and as many unlabelled inputs if wanted, for every step of an epoch."""
    count, shown, seed = len(setup.train[0]), setup.examples, setup.config.seed
    order = epoch_order(count, seed, epoch) if count == shown else passes(count, shown, seed, epoch)
    labelled = torch.split(order.to(setup.device), batch_sizes(shown, setup.config.batch_size))
    if not with_others or setup.unlabelled is None:
        yield from ((chosen, None) for chosen in labelled)
        return
    rest = semi.order(len(setup.unlabelled), shown, seed, epoch).to(setup.device)
    for chosen, others in zip(labelled, torch.split(rest, batch_sizes(shown, setup.config.batch_size)), strict=True):
        yield chosen, setup.unlabelled.index_select(0, others)


def calibrate(setup: Setup, epoch: int, images: int) -> None:
    """Count on ``images`` random images of ``config.calibration_from``, the same ones for the same (seed, epoch).

    Where the criterion needs gradients, of the mean loss; their squares, of every ``SQUARED`` images; the Hessian, with
    logits at ``TEMPERATURE``.
    """
    x, y = setup.counted
    drawn_now = drawn(len(x), images, setup.config.seed, epoch).to(setup.device)
    kinds = {type(each) for each in setup.recipe.evidence}
    with setup.pruner.observe():
        for chosen in torch.split(drawn_now, SQUARED if SquaredGradient in kinds else images):
            inputs = x.index_select(0, chosen)
            out = setup.forward(inputs)
            if out.requires_grad:
                out = out / TEMPERATURE if HessianGradient in kinds else out
                loss = setup.task.loss(out.float(), inputs, None if y is None else y.index_select(0, chosen))
                setup.backward(loss, create_graph=HessianGradient in kinds)


TEMPERATURE = 200
"""Of the logits where a second derivative is taken, as in GraSP's code; at 1, what is kept makes training diverge."""

SQUARED = 8
"""Images of one backward pass whose gradient is squared: a single one would take too long, many average it away."""
