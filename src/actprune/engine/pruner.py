"""``Pruner``: observe, prune, hold the zeros, resume. The user owns the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from actprune import stats
from actprune.core import final_fraction, select
from actprune.engine import plan
from actprune.engine.distributed import local
from actprune.engine.enforce import Enforcer
from actprune.engine.gradients import collected
from actprune.engine.observe import Observer
from actprune.engine.orphans import fold_constants
from actprune.engine.recovery import recover, take_snapshot
from actprune.engine.report import PruneReport
from actprune.engine.wrappers import layer_of, unwrap_optimizer
from actprune.errors import CheckpointError, ModelError, ObservationError, RecipeError
from actprune.graph import Graph, prunable_layers, unwrap, without_orphans
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
        statistics = [stats.make(need) for need in recipe.criterion.needs if need.statistic != "gradient"]
        self.observer = Observer(self.model, self.layers, statistics, self._state.sums)
        self._needs_gradient = any(need.statistic == "gradient" for need in recipe.criterion.needs)
        self._enforcer = Enforcer(self._parameters(self.model))
        self._optimizers: list[Optimizer] = []
        self._handles: list[Any] = []
        self.last_report: PruneReport | None = None  # of the latest pruning, also one that a step triggered
        take_snapshot(self.model, recipe.recovery, self._state)
        if example is not None:
            self._look(example)

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

    def _look(self, example: Any) -> None:
        """See the structure from one example; what is counted on it is forgotten."""
        looker = Observer(self.model, self.layers, [], {})
        with looker.observing():
            self.model(*example) if isinstance(example, (tuple, list)) else self.model(example)
        self.observer.graph, self.observer.probe = looker.graph, looker.probe
        self.observer.positions.update(looker.positions)

    # ---- pruning ---------------------------------------------------------------------------------------------------

    def prune(self, fraction: float | None = None) -> PruneReport:
        """Prune now, to the schedule's next target or to ``fraction`` (removed, cumulative, 0..1).

        Under DDP or FSDP every rank must call it. Nothing is changed when it raises: ObservationError (missing or
        empty statistics), ModelError (NaN weights), BudgetError, LayerCollapseError.
        """
        if fraction is not None and not 0.0 <= fraction < 1.0:
            raise RecipeError(f"prune(fraction={fraction!r}): expected a removed fraction 0 <= f < 1, such as 0.9")
        job = plan.prepare(self)
        asked = self._target() if fraction is None else fraction
        graph = self.observer.graph
        closes = self.recipe.remove_orphans and graph is not None
        choice = select(
            self.recipe,
            job.facts,
            job.signals,
            plan.on_top_of_orphans(self, job, asked),
            cycle=self._state.cycle,
            others=job.others,
            closure=(lambda m: without_orphans(graph, m)) if closes and graph is not None else None,
        )
        report = plan.report(self, job, choice.masks, asked)
        if closes and graph is not None:
            fold_constants(self.model, graph, self.layers, choice, self.observer.probe)
        self._state.orphans += plan.orphans(self, job, choice)
        self._take_over(choice.masks)
        self.last_report = report
        return report

    def _target(self) -> float:
        if self.finished:
            raise RecipeError(
                f"all {self._stages()} prunings of this recipe are done; "
                "give prune(fraction=) or a schedule of more cycles"
            )
        return self.recipe.schedule.target(self._state.progress, final_fraction(self.recipe.budget, plan.total(self)))

    def _take_over(self, masks: dict[str, Tensor]) -> None:
        self._state.masks = masks
        self._enforcer.set_masks(masks)
        self._enforcer.apply()
        recover(self.model, self.recipe.recovery, self._state, self._optimizers)
        self._enforcer.apply()
        self._state.cycle += 1
        self._state.metric_at_last_prune = self._state.metric
        self._state.gradients.clear()
        if self.recipe.reset_counts:
            self._state.sums.clear()
        if self.finished:
            self.observer.stop_live()

    # ---- training --------------------------------------------------------------------------------------------------

    def attach(self, *optimizers: Optimizer, copies: tuple[nn.Module, ...] = (), mask_grads: bool = False) -> Self:
        """Hold the zeros after every step of these optimizers; count steps (of the first) and training batches.

        copies: EMA models to be zeroed as well. mask_grads: also zero dead gradients, before any norm clipping.
        """
        if not optimizers:
            raise RecipeError("attach() needs at least one optimizer; without one use enforce() after each update")
        for number, optimizer in enumerate(map(unwrap_optimizer, optimizers)):
            first = number == 0 and not self._optimizers
            self._optimizers.append(optimizer)
            self._handles.append(optimizer.register_step_post_hook(self._count_step if first else self._after_step))
        for copy in copies:
            self._enforcer.add_copy(self._parameters(unwrap(copy)))
        if mask_grads:
            self._enforcer.mask_gradients()
        if self.recipe.count_on == "train" and not self.finished:
            self.observer.start_live(self.recipe.count_every)
        self._enforcer.apply()
        return self

    def detach(self) -> None:
        """Take every hook off the model and the optimizers. Masks stay in ``state``."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._optimizers.clear()
        self._enforcer.remove()
        self.observer.stop_live()

    def _count_step(self, *_: Any) -> None:
        self._state.step += 1
        take_snapshot(self.model, self.recipe.recovery, self._state)
        # A metric belongs to the moment it was reported: without this, one report could trigger every later step.
        moment = self._state.progress
        if self.recipe.schedule.due(type(moment)(moment.step, moment.cycle)):
            self.prune()
        self._after_step()

    def _after_step(self, *_: Any) -> None:
        if self.recipe.regrow == "frozen" and not self._state.released:
            self._enforcer.apply()

    def due(self, metric: float | None = None) -> bool:
        """Whether ``report_metric(metric)`` would prune now."""
        moment = self._state.progress
        asked = type(moment)(moment.step, moment.cycle, metric, moment.metric_at_last_prune)
        return not self.finished and self.recipe.schedule.due(asked)

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
        self._enforcer.apply(None if model is None else self._parameters(unwrap(model)))

    def release(self) -> None:
        """Stop holding zeros: pruned weights may return (the founding article's retraining test)."""
        self._state.released = True

    # ---- reading and resuming --------------------------------------------------------------------------------------

    @property
    def state(self) -> PruneState:
        """All there is to know besides the model, up to date with the live batches counted so far."""
        observer, graph = self.observer, self.observer.graph
        observer.flush()
        self._state.graph = None if graph is None else graph.to_dict()
        self._state.probe = observer.probe
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
        every = sum(parameter.numel() for parameter in self.parameters.values())
        return (total - kept) / every

    @property
    def finished(self) -> bool:
        """Whether all planned prunings are done."""
        return self._state.cycle >= self._stages()

    def _stages(self) -> int:
        stages = self.recipe.schedule.stages
        return len(plan.pruned_layers(self)) if stages is None else stages

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit: tensors, numbers and strings (``torch.load(weights_only=True)``).

        With several ranks the sums are each rank's own: let every rank save its own state.
        """
        return self.state.state_dict()

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Inverse of ``state_dict``. Raises CheckpointError when the state belongs to another model."""
        state = PruneState.from_state_dict(stored)
        parameters = self.parameters
        for name, mask in state.masks.items():
            if name not in parameters or tuple(mask.shape) != tuple(parameters[name].shape):
                found = tuple(parameters[name].shape) if name in parameters else "no such weight"
                raise CheckpointError(f"stored mask {name} is {tuple(mask.shape)}; the model has {found}")
        self._state = state
        state.masks = {name: mask.to(local(parameters[name]).device) for name, mask in state.masks.items()}
        self.observer.sums = state.sums
        self.observer.graph = None if state.graph is None else Graph.from_dict(state.graph)
        self.observer.probe = state.probe
        self.observer.positions = dict(state.positions)
        self.observer.forwards = state.forwards
        self._enforcer.set_masks(self._state.masks)
        if self.finished:
            self.observer.stop_live()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The prunable weights by clean name."""
        return self._parameters(self.model)

    def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        try:
            return {name: layer_of(model, path).weight for name, path in self.layers.items()}
        except AttributeError as error:
            raise ModelError(f"not a copy of the pruned model: {error}") from error
