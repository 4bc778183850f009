"""``Pruner``: observe, prune, hold the zeros, resume. The user owns the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from actprune import stats
from actprune.engine import plan
from actprune.engine.decide import decide
from actprune.engine.enforce import Enforcer
from actprune.engine.gradients import collected
from actprune.engine.learner import Learner
from actprune.engine.observe import Observer, look
from actprune.engine.recovery import recover, rescale_dropout, take_snapshot
from actprune.engine.report import PruneReport
from actprune.engine.resume import restore
from actprune.engine.wrappers import around_closure, layer_of, unwrap_optimizer
from actprune.errors import ModelError, ObservationError, RecipeError
from actprune.graph import prunable_layers, unwrap
from actprune.state import PruneState
from actprune.types import Recipe


class Pruner:
    """Prunes ``model`` by ``recipe``. Masks live in ``state``, outside the model; its layers and names stay.

    skip            fnmatch patterns of module paths or weight names to leave alone
    include_frozen  also prune layers whose weight has ``requires_grad=False``
    example         one input (tensor, or tuple of positional arguments) to see the model's structure at once; otherwise
                    it is seen on the first observed batch

    Raises ModelError when the model has nothing to prune.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        skip: tuple[str, ...] | list[str] = (),
        include_frozen: bool = False,
        example: Any = None,
    ) -> None:
        self.model = unwrap(model)
        self.recipe = recipe
        self.layers = prunable_layers(self.model, skip, include_frozen)
        self._state = PruneState()
        self.learner = Learner(self.model, self.layers, self.parameters, recipe.penalty)
        self._state.learnt = self.learner.learnt
        statistics = [stats.make(need) for need in recipe.criterion.needs if need.statistic not in plan.OWN_NEEDS]
        self.observer = Observer(self.model, self.layers, statistics, self._state.sums)
        self._needs_gradient = any(need.statistic == "gradient" for need in recipe.criterion.needs)
        self.enforcer = Enforcer(self.parameters, self._state.dense if recipe.regrow == "splice" else None)
        self._optimizers: list[Optimizer] = []
        self._handles: list[Any] = []
        self.watchers: list[Callable[[str], None]] = []  # called with "before" and "after" around every pruning
        self.last_report: PruneReport | None = None  # of the latest pruning, also one that a step triggered
        take_snapshot(self.model, recipe.recovery, self._state)
        if example is not None:
            look(self.observer, self.model, example)

    # ---- observing -------------------------------------------------------------------------------------------------

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Count on whatever is sent through the model inside the block.

        Nothing is trained: evaluation mode, no gradients (unless the criterion needs them), no BatchNorm update,
        training flags and RNG as before afterwards.

        Raises ObservationError for no data, unreached layers, NaN/Inf, or activations that are never exactly zero.
        """
        with ExitStack() as stack:
            if self._needs_gradient:
                stack.enter_context(collected(self.model, self.parameters, self._state.gradients))
            stack.enter_context(self.observer.observing(gradients=self._needs_gradient))
            yield

    # ---- pruning ---------------------------------------------------------------------------------------------------

    def prune(self, fraction: float | None = None) -> PruneReport:
        """Prune now, to the schedule's next target or to ``fraction`` (removed, cumulative, 0..1).

        Under DDP or FSDP every rank must call it. Nothing is changed when it raises: ObservationError (missing or
        empty statistics), ModelError (NaN weights), BudgetError, LayerCollapseError.
        """
        plan.check_fraction(self.recipe, fraction)
        if not self._state.released:
            self.enforcer.show()
        try:
            report = decide(self, fraction)
        finally:
            self.enforcer.settle_if_shown()
        for watch in self.watchers:
            watch("after")
        return report

    def take_over(self, masks: dict[str, Tensor]) -> None:
        """Make these the masks: zero what is pruned, recover, and count the pruning."""
        self._state.masks = masks
        self.enforcer.set_masks(masks)
        last = self._state.pruning_step + 1 >= self.pruning_steps
        recover(self.model, self.recipe.recovery, self._state, self._optimizers, weights=self.parameters, last=last)
        rescale_dropout(self.model, self.recipe.recovery, self._state, self._weights())
        self.enforcer.settle()  # after recovering: what it has put back is what splicing remembers
        self._state.pruning_step += 1
        self._state.pruned_at = self._state.step
        self._state.metric_at_last_prune = self._state.metric
        self._state.gradients.clear()
        if self.recipe.reset_counts:
            self._state.sums.clear()
        if self.finished:
            self.observer.stop_live()
            self.learner.stop()

    # ---- training --------------------------------------------------------------------------------------------------

    def attach(self, *optimizers: Optimizer, copies: tuple[nn.Module, ...] = (), mask_grads: bool = False) -> Self:
        """Hold the zeros after every step of these optimizers; count steps (of the first) and training batches.

        copies: EMA models to be zeroed as well. mask_grads: also zero dead gradients, before any norm clipping.
        """
        if not optimizers:
            raise RecipeError("attach() needs at least one optimizer; without one use enforce() after each update")
        if mask_grads and self.recipe.regrow == "splice":
            raise RecipeError("mask_grads=True would keep pruned weights from learning, which splicing needs")
        for number, optimizer in enumerate(map(unwrap_optimizer, optimizers)):
            first = number == 0 and not self._optimizers
            self._optimizers.append(optimizer)
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._count_step if first else self._after_step))
        for copy in copies:
            self.enforcer.add_copy(self._parameters(unwrap(copy)))
        if mask_grads:
            self.enforcer.mask_gradients()
        self.learner.attach()
        if self.recipe.count_on == "train" and not self.finished:
            self.observer.start_live(self.recipe.count_every)
        if self._holds:
            self.enforcer.apply()
        return self

    def detach(self) -> None:
        """Take every hook off the model and the optimizers. Masks stay in ``state``."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._optimizers.clear()
        self.enforcer.remove()
        self.learner.detach()
        self.observer.stop_live()

    def penalty(self) -> Tensor:
        """The recipe's term of the loss, 0-dim: ``(loss + pruner.penalty()).backward()``. 0 if it has none."""
        return self.learner.loss(self._state.step)

    def extra_parameters(self) -> list[nn.Parameter]:
        """What the recipe learns beside the weights: give it to the optimizer together with the model's parameters."""
        return self.learner.parameters

    @property
    def lr_scale(self) -> float:
        """Factor that the recipe wants on the learning rate now (retraining at a reduced rate). The loop is yours."""
        return self.recipe.recovery.lr_scale if self._state.pruning_step else 1.0

    @property
    def schedule_step(self) -> int:
        """Where the learning-rate schedule ought to stand: the steps done, or less after the recipe has rewound it."""
        replays = self.recipe.recovery.replays
        if replays is None or not self._state.pruning_step:
            return self._state.step
        return self._state.step - self._state.pruned_at + min(replays, self._state.pruned_at)

    @property
    def _holds(self) -> bool:
        """Whether zeros are held."""
        return self.recipe.regrow != "free" and not self._state.released

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.learner.before_step()
        if self._holds:
            self.enforcer.show()
        return around_closure(args, kwargs, lambda closure: self.enforcer.masked(self.learner.averaged(closure)))

    def _count_step(self, *_: Any) -> None:
        self._state.step += 1
        try:
            if self.recipe.regrow == "frozen" and self.learner.penalty is not None:
                self._after_step()  # a proximal step must not see what the optimizer has put where zeros belong
            self.learner.after_step(self._state.step)
            take_snapshot(self.model, self.recipe.recovery, self._state)
            # A metric belongs to the moment it was reported: without this, one report could trigger every later step.
            moment = self._state.progress
            if self.recipe.schedule.due(type(moment)(moment.step, moment.pruning_step)):
                self.prune()
        finally:
            self._after_step()

    def _after_step(self, *_: Any) -> None:
        if self._holds:
            self.enforcer.settle()

    def due(self, metric: float | None = None) -> bool:
        """Whether ``report_metric(metric)`` would prune now."""
        moment = self._state.progress
        now = type(moment)(moment.step, moment.pruning_step, metric, moment.metric_at_last_prune)
        return not self.finished and self.recipe.schedule.due(now)

    def report_metric(self, metric: float) -> PruneReport | None:
        """Tell how good training is (the founding method: training accuracy, 0..1); prunes when it is due."""
        if not math.isfinite(metric):
            raise ObservationError(
                f"the reported metric is {metric!r}; expected a finite number such as an accuracy 0..1"
            )
        self._state.metric = float(metric)
        return self.prune() if self.due(metric) else None

    def enforce(self, model: nn.Module | None = None) -> None:
        """Zero the pruned weights now, in the pruned model or in a copy of it (an EMA, a deep copy)."""
        self.enforcer.apply(None if model is None else self._parameters(unwrap(model)))

    def release(self) -> None:
        """Stop holding zeros: pruned weights may return (the founding article's retraining test)."""
        self._state.released = True
        self.enforcer.forget()

    # ---- reading and resuming --------------------------------------------------------------------------------------

    @property
    def state(self) -> PruneState:
        """All there is to know besides the model, up to date with the live batches counted so far."""
        observer, graph = self.observer, self.observer.graph
        observer.flush()
        self._state.graph = None if graph is None else graph.to_dict()
        self._state.example = observer.example
        self._state.positions = dict(observer.positions)
        self._state.forwards = observer.forwards
        return self._state

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks by clean parameter name, True = kept."""
        return self._state.masks

    @property
    def sparsity(self) -> float:
        """Removed fraction of all prunable weights, 0..1."""
        kept = sum(int(mask.sum()) for mask in self._state.masks.values())
        total = sum(mask.numel() for mask in self._state.masks.values())
        return (total - kept) / self._weights()

    @property
    def finished(self) -> bool:
        """Whether all planned pruning steps are done."""
        return self._state.pruning_step >= self.pruning_steps

    def _weights(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def pruning_steps(self) -> int:
        """Pruning steps that are planned."""
        planned = self.recipe.schedule.pruning_steps
        return len(plan.pruned_layers(self)) if planned is None else planned

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit: tensors, numbers and strings (``torch.load(weights_only=True)``).

        With several ranks the sums are each rank's own: let every rank save its own state.
        """
        return self.state.state_dict()

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Inverse of ``state_dict``. Raises CheckpointError when the state belongs to another model."""
        restore(self, PruneState.from_state_dict(stored))

    def take_state(self, state: PruneState) -> None:
        """Replace the state as it is; ``load_state_dict`` is what also tells everybody."""
        self._state = state

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The prunable weights by clean name."""
        return self._parameters(self.model)

    def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        try:
            return {name: layer_of(model, path).weight for name, path in self.layers.items()}
        except AttributeError as error:
            raise ModelError(f"not a copy of the pruned model: {error}") from error
