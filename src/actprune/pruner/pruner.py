"""``Pruner``: observe, prune, hold the zeros, resume. The user owns the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actprune.accounting import Account
from actprune.edit import Edit, Method, Quota, final_fraction, pruning_step
from actprune.errors import ObservationError, RecipeError
from actprune.graph import Choice, Hook, patterns
from actprune.pruner import optimizers as opt
from actprune.pruner.checks import check_fits, check_fraction, check_mask, check_mask_grads, refuse, zeros_of
from actprune.pruner.collector import Collector
from actprune.pruner.distributed import local, sharded
from actprune.pruner.gradients import collected, of_step
from actprune.pruner.holder import Holder
from actprune.pruner.learner import Learner
from actprune.pruner.model import PrunableModel
from actprune.pruner.padding import DEFAULT, Mask
from actprune.pruner.ranks import share, together
from actprune.pruner.report import PruneReport, report
from actprune.pruner.source import Kinds, LiveSource, counted_flop, view_of
from actprune.state import PruneState
from actprune.types import Progress


class Pruner:
    """Prunes ``model`` by ``recipe`` (any ``edit.Method``). Masks live in ``state``, outside the model.

    skip               fnmatch patterns of module paths or weight names to leave alone
    only               patterns likewise: everything else is left alone
    include_frozen     also prune layers whose weight has ``requires_grad=False``
    include_tied       also prune layers whose weight another module holds too (a head tied to its token embedding)
    keep_zeros         a weight that is zero already counts as pruned, and is held at zero like the others (a layer of
                       nothing but zeros is freshly initialised: it does not); False: they are weights like any other
    example            one input (tensor, or tuple of positional arguments) to see the model's structure at once;
                       otherwise it is seen on the first observed batch
    sharing_elsewhere  you carry out ``recipe.sharing`` yourself (``artifact.SharedWeights``): the Pruner does not

    ``state`` is all there is to know besides the model; it is up to date after every pruning step, ``observe()`` and
    ``state_dict()`` (counts of live batches are moved into it then).

    Raises ModelError when the model has nothing to prune, RecipeError for a recipe that cannot be carried out.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Method,
        *,
        skip: tuple[str, ...] | list[str] = (),
        only: tuple[str, ...] | list[str] = (),
        include_frozen: bool = False,
        include_tied: bool = False,
        keep_zeros: bool = True,
        example: Any = None,
        sharing_elsewhere: bool = False,
    ) -> None:
        refuse(recipe, sharing_elsewhere)
        spans = getattr(recipe, "spans", False)
        choice = Choice(patterns(skip), patterns(only), include_frozen, include_tied, spans)
        self._prunable = PrunableModel(model, choice, getattr(recipe, "scores_readers", False))
        self.model, self.layers = self._prunable.root, self._prunable.layers
        self.recipe, self.state = recipe, PruneState()
        self._kinds = Kinds.of(recipe.evidence)
        self._learner = Learner(self.model, self.layers, self._prunable.parameters, recipe.penalty)
        self.state.learnt = self._learner.learnt
        self._collector = Collector(
            self.model, self._prunable.scored, self._kinds.activations, self.state, keep_inputs=recipe.collects_again,
            lenient=spans,
        )  # fmt: skip
        self._holder = Holder(self._held, self.state, recipe.regrow)
        self._live_mask: Mask = DEFAULT
        self._copies: list[PrunableModel] = []
        self._handles: dict[Optimizer, list[Any]] = {}
        self._counted: Optimizer | None = None  # whose steps are counted
        self._watching: Any = None  # the handle of the hook that notices replaced parameters
        self._known: dict[str, nn.Parameter] = {}  # the weights when an optimizer was attached
        self.watchers: list[Callable[[str], None]] = []  # called with "before" and "after" around every pruning step
        self._from_step: dict[str, Tensor] | None = None  # gradients that the step about to be done has found
        self.last_report: PruneReport | None = None  # of the latest pruning step, also one that a step triggered
        if keep_zeros and recipe.regrow == "frozen":
            self.state.masks = zeros_of(self._prunable.parameters())
            self._holder.masks_changed()
        self._take_snapshot()
        if example is not None:
            self._collector.look(example)

    # ---- observing -------------------------------------------------------------------------------------------------

    @contextmanager
    def observe(self, mask: Mask = DEFAULT) -> Iterator[None]:
        """Collect evidence on whatever is sent through the model inside the block (calibration).

        Nothing is trained: evaluation mode, no gradients (unless the recipe needs them), no BatchNorm update,
        training flags and RNG as before afterwards.

        mask  which tokens are real, for padding is no example: the name of the argument (or key of the batch) that says
              it, ``(B, T)``, non-zero = real; or a function of ``(args, kwargs)`` that returns this; None: all are.
              ``decoder_attention_mask`` is respected, too. What is neither of (B, T) nor (T, B) tokens counts whole

        Raises ObservationError for no data, unreached layers, NaN/Inf, or activations that are never exactly zero.
        """
        check_mask(self.recipe, mask)
        gradients = self._kinds.training_gradient
        with ExitStack() as stack:
            if gradients:
                needed = Kinds.of(self.recipe.needed(self.state.progress))
                stack.enter_context(collected(self._prunable, self.state.gradients, self._kinds, needed))
            stack.enter_context(self._collector.observing(gradients=gradients, mask=mask))
            yield

    @property
    def live_batches(self) -> int:
        """Training batches counted since ``attach``, for a recipe that counts on them."""
        return self._collector.live_batches

    # ---- pruning ---------------------------------------------------------------------------------------------------

    def prune(self, fraction: float | None = None) -> PruneReport:
        """Prune now, to the schedule's next target or to ``fraction`` (removed, cumulative, 0..1).

        Under DDP or FSDP every rank must call it. Nothing is changed when it raises: ObservationError (missing or
        empty evidence), ModelError (NaN weights), BudgetError, LayerCollapseError.
        """
        check_fraction(self.recipe, fraction)
        if not self.state.released:
            self._holder.reveal()
        try:
            made = self._pruned(fraction)
        finally:
            self._holder.conceal_if_revealed()
        for watch in self.watchers:
            watch("after")
        return made

    def _pruned(self, fraction: float | None) -> PruneReport:
        """Everything that can fail comes before the first change."""
        last = self.state.pruning_step + 1 >= self.pruning_steps
        view = view_of(self._prunable, self.recipe, self._kinds, self.state, self._collector, last=last)
        target = self._target() if fraction is None else fraction
        assert isinstance(view.source, LiveSource)
        copies = [replace(view, source=replace(view.source, model=copy)) for copy in self._copies]
        edit = pruning_step(self.recipe, view, Quota(target, self.recipe.budget), copies)
        network = self._prunable.account(self.recipe, self.state, edit.masks)
        made = report(self.recipe, view, edit, target, network)
        for watch in self.watchers:
            watch("before")
        self.state.moments = dict(view.source.moments)
        self._apply(edit)
        self.last_report = made
        return made

    def _target(self) -> float:
        """The removal that the schedule plans now. Raises RecipeError when all of its pruning steps are done."""
        if self.finished:
            raise RecipeError(
                f"all {self.pruning_steps} pruning steps of this recipe are done; give prune(fraction=) or a schedule "
                "of more pruning steps"
            )
        return self.recipe.schedule.target(self.state.progress, self.final_target)

    @property
    def final_target(self) -> float:
        """The fraction that is to be removed in the end, 0..1, in the budget's own terms."""
        return final_fraction(self.recipe.budget, self.counted_weights)

    @property
    def counted_weights(self) -> int:
        """Weights that the recipe's budget counts."""
        return self._prunable.counted(self.recipe, self.state)

    def _apply(self, edit: Edit) -> None:
        """Put an edit in force, and count the pruning step."""
        state = self.state
        with opt.weights_followed(list(self._handles), self._prunable.tensors(), edit.weights):
            self._prunable.put(edit.weights)
        for copy, values in zip(self._copies, edit.copies, strict=True):
            copy.put(values)
        state.masks = edit.masks
        self._holder.masks_changed()
        for optimizer in self._handles if self.recipe.restarts else ():
            optimizer.state.clear()
        opt.restart(list(self._handles), self.parameters, edit.born)
        self._prunable.set_dropout(edit.dropout, state)
        self._holder.conceal()  # after the repairs: what they have put back is what lies behind the mask
        state.dead += edit.dead
        state.pruning_step += 1
        state.pruned_at = state.step
        state.metric_at_last_prune = state.metric
        state.gradients.clear()
        if self.recipe.reset_counts:
            state.sums.clear()
            state.inputs.clear()
        self._stop_if_finished()

    def _stop_if_finished(self) -> None:
        if self.finished:
            self._collector.stop_live()
            self._learner.stop()

    # ---- training --------------------------------------------------------------------------------------------------

    def attach(
        self, *optimizers: Optimizer, copies: tuple[nn.Module, ...] = (), mask_grads: bool = False, mask: Mask = DEFAULT
    ) -> Self:
        """Hold the zeros after every step of these optimizers; count steps (of the first) and training batches.

        copies      EMA models: they are zeroed as well, what their own dead neurons send moves into their biases, and
                    what a recipe puts into the model (rewound or updated weights) is put into them
        mask_grads  also zero dead gradients, before any norm clipping
        mask        which tokens of training batches are real, as for ``observe``

        An optimizer attached later is counted instead of the first when it trains the same parameters (a new one for
        the next phase); the old one is then let go. A step that a gradient scaler skips is none. An optimizer may step
        inside ``backward()``, one for each parameter. Raises RecipeError for what has no step hooks.
        """
        if not optimizers:
            raise RecipeError("attach() needs at least one optimizer; without one use enforce() after each update")
        if mask_grads:
            learns = any(self._learner.learnt.values())
            check_mask_grads(self.recipe, looks=self._kinds.training_gradient, learns=learns)
        check_mask(self.recipe, mask)
        self._live_mask = mask
        found = [opt.followed(optimizer) for optimizer in optimizers]
        others = [self._prunable.of_copy(copy) for copy in copies]
        if opt.takes_over(found[0], self._counted, self.model):
            self._let_go(self._counted)
            self._counted = found[0]
        for optimizer in found:
            if optimizer not in self._handles:
                self._handles[optimizer] = [
                    optimizer.register_step_pre_hook(self._before),
                    optimizer.register_step_post_hook(self._after),
                ]
        self._holder.follow(list(self._handles))
        self._copies += others
        for other in others:
            self._holder.add_copy(partial(self._held, other))
        if mask_grads:
            self._holder.mask_gradients()
        self._known = self.parameters
        if self._watching is None and not any(map(sharded, self._known.values())):  # FSDP swaps parameters by itself
            self._watching = self.model.register_forward_pre_hook(Hook(self._notice_replaced))
        self._learner.attach()
        self._count_live()
        if self._holds:
            self._holder.apply()
        return self

    def detach(self) -> None:
        """Take every hook off the model and the optimizers. Masks stay in ``state``."""
        for optimizer in list(self._handles):
            self._let_go(optimizer)
        if self._watching is not None:
            self._watching.remove()
        self._watching = self._counted = None
        self._holder.remove()
        self._learner.detach()
        self._collector.stop_live()

    def _let_go(self, optimizer: Optimizer | None) -> None:
        """No hook of ours on this optimizer any more."""
        for handle in self._handles.pop(optimizer, []) if optimizer is not None else []:
            handle.remove()
        self._holder.follow(list(self._handles))

    def _count_live(self) -> None:
        """Count on training batches, where the recipe wants that and an optimizer is attached."""
        wanted = self.recipe.count_on == "train" and not self.finished and bool(self._handles)
        if wanted and not self._collector.live:
            self._collector.start_live(self.recipe.count_every, self._live_mask)

    def _notice_replaced(self, model: nn.Module, *_: Any) -> None:
        """Before a training forward: the user may have put other parameters in place of those that optimizers train.

        Raises ModelError where no attached optimizer trains a new one, for then its zeros would never be held.
        """
        if torch.compiler.is_dynamo_compiling() or not model.training:
            return
        now = self.parameters
        if not opt.replaced(now, self._known, list(self._handles)):
            return
        self._known = now
        self._holder.hook_gradients_anew()
        self._holder.apply()

    def penalty(self) -> Tensor:
        """The recipe's term of the loss, 0-dim: ``(loss + pruner.penalty()).backward()``. 0 if it has none."""
        return self._learner.loss(self.state.step)

    def extra_parameters(self) -> list[nn.Parameter]:
        """What the recipe learns beside the weights: give it to the optimizer together with the model's parameters."""
        return self._learner.parameters

    @property
    def lr_scale(self) -> float:
        """Factor that the recipe wants on the learning rate now (retraining at a reduced rate). The loop is yours."""
        return self.recipe.lr_scale if self.state.pruning_step else 1.0

    @property
    def schedule_step(self) -> int:
        """Where the learning-rate schedule ought to stand: the steps done, or less after the recipe has rewound it."""
        replays = self.recipe.replays
        if replays is None or not self.state.pruning_step:
            return self.state.step
        return self.state.step - self.state.pruned_at + min(replays, self.state.pruned_at)

    @property
    def _holds(self) -> bool:
        """Whether zeros are held."""
        return self.recipe.regrow != "free" and not self.state.released

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a step; the gradients of the optimizer that is counted may be evidence."""

        def around(closure: Callable[[], Any]) -> Callable[[], Any]:
            run = self._holder.masked(closure)

            def looked_at() -> Any:
                loss = run()
                self._look_at_gradients(optimizer)
                if self._holds and self.recipe.regrow == "frozen":
                    self._holder.zero_gradients()  # or a line search would go along them
                return loss

            return looked_at

        changed = opt.around_closure(args, kwargs, around)
        if changed is None:  # no closure: the gradients are there already
            self._look_at_gradients(optimizer)
        if self._holds and self._holder.trains_dense:
            if opt.in_backward():
                raise RecipeError(
                    f"{self.recipe.name} trains dense weights behind the mask, which cannot be put in place while "
                    "backward() is under way; step the optimizer after backward()"
                )
            self._holder.reveal()
        return changed

    def _look_at_gradients(self, optimizer: Optimizer) -> None:
        """What ``.grad`` says before a step: evidence for a pruning step that is about to be due, and for what is
        learnt beside the weights.
        """
        if opt.skipped(optimizer):
            return
        self._learner.before_step(self._holder.dense_weight)
        if self._holds and self.recipe.regrow == "dense_frozen":
            self._holder.zero_gradients()
        counts = optimizer is self._counted
        if counts and self._kinds.in_step and self._due_after_step() and not self.state.gradients:
            self._from_step = of_step(self._prunable, self._kinds)

    def _due_after_step(self) -> bool:
        # A metric belongs to the moment it was reported: without this, one report could trigger every later step.
        return not self.finished and self.recipe.schedule.due(Progress(self.state.step + 1, self.state.pruning_step))

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        """After a step."""
        counts = optimizer is self._counted and not opt.skipped(optimizer)
        if opt.in_backward():  # gradients of other weights are still to come: these must not change yet
            if self._holds:
                self._holder.apply_to(opt.parameters_of(optimizer).keys())
            if counts:
                opt.after_backward(self._count_step)
        elif counts:
            self._count_step()
        else:
            self._hold()

    def _count_step(self) -> None:
        due = self._due_after_step()
        self.state.step += 1
        try:
            if self.recipe.regrow == "frozen" and (due or self._learner.penalty is not None):
                self._hold()  # nobody must see what the optimizer has put where zeros belong
            self._learner.after_step(self.state.step)
            self._take_snapshot()
            if due:
                if self._from_step is not None:
                    self.state.gradients = self._from_step
                self.prune()
        finally:
            self._from_step = None
            self._hold()

    def _hold(self) -> None:
        if self._holds:
            self._holder.conceal()

    def due(self, metric: float | None = None) -> bool:
        """Whether ``report_metric(metric)`` would prune now."""
        moment = self.state.progress
        asked = Progress(moment.step, moment.pruning_step, metric, moment.metric_at_last_prune)
        return not self.finished and self.recipe.schedule.due(asked)

    def report_metric(self, metric: float) -> PruneReport | None:
        """Tell how good training is (the founding method: training accuracy, 0..1); prunes when it is due."""
        if not math.isfinite(metric):
            raise ObservationError(
                f"the reported metric is {metric!r}; expected a finite number such as an accuracy 0..1"
            )
        due = self.due(metric)
        self.state.metric = float(metric)
        return self.prune() if due else None

    def enforce(self, model: nn.Module | None = None) -> None:
        """Zero the pruned weights now, in the pruned model or in a copy of it (an EMA, a deep copy)."""
        self._holder.apply(None if model is None else self._held(self._prunable.of_copy(model)))

    def _held(self, model: PrunableModel | None = None) -> dict[str, nn.Parameter]:
        """What may be zeroed, by name: the prunable weights and whatever else has a mask."""
        return (self._prunable if model is None else model).held(self.state.masks)

    def release(self) -> None:
        """Stop holding zeros: pruned weights may return (the founding article's retraining test)."""
        self.state.released = True
        self._holder.forget()

    # ---- reading and resuming --------------------------------------------------------------------------------------

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks by clean parameter name, True = kept."""
        return self.state.masks

    @property
    def sparsity(self) -> float:
        """Removed fraction of all weights of the network, 0..1, those of layers left alone included."""
        return self.account().sparsity

    def account(self) -> Account:
        """What the whole network holds and costs now, and how much of it can be pruned at all; ``print`` it.

        FLOP are known once a forward pass was seen (``observe()``, ``example=``).
        """
        self.state.flop = counted_flop(self._prunable, self.state) if self.state.flop is None else self.state.flop
        return self._prunable.account(self.recipe, self.state, self.state.masks)

    @property
    def finished(self) -> bool:
        """Whether all planned pruning steps are done."""
        return self.state.pruning_step >= self.pruning_steps

    @property
    def pruning_steps(self) -> int:
        """Pruning steps that are planned."""
        planned = self.recipe.schedule.pruning_steps
        return len(self._prunable.pruned(self.recipe, self.state.graph)) if planned is None else planned

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The prunable weights by clean name."""
        return self._prunable.parameters()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume bit for bit: tensors, numbers and strings (``torch.load(weights_only=True)``).

        With several ranks every rank calls it and gets the same; one writes it, any number of ranks may load it. Raises
        CheckpointError naming ranks that did not call it, ObservationError when only some have observed data.
        """
        self._collector.flush()
        return together(self.state, self._prunable.tensors(), self._prunable.buffers()).state_dict()

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Inverse of ``state_dict``. Raises CheckpointError, before anything is changed, when it does not fit."""
        tensors = self._prunable.tensors()
        parameters = self._prunable.held(stored.get("masks", {}))
        state = share(check_fits(PruneState.from_state_dict(stored), parameters, tensors), tensors)
        self._learner.load(state.learnt)
        for path, module in self._prunable.dropouts().items():
            module.p = self.state.dropout.get(path, module.p)
        self._collector.forget_live()
        state.learnt = self._learner.learnt
        state.masks = {name: mask.to(local(parameters[name]).device) for name, mask in state.masks.items()}
        self.state.become(state)
        self._holder.masks_changed()
        self._prunable.set_dropout(dict(state.dropout_now), self.state)
        self._stop_if_finished()
        if not self.finished:
            self._learner.resume()
            self._count_live()
        self.last_report = None

    def _take_snapshot(self) -> None:
        """Remember parameters and buffers (BatchNorm's too) when the step that a repair goes back to is reached."""
        if self.recipe.remembers == self.state.step and not self.state.snapshot:
            tensors = self._prunable.local_tensors()
            self.state.snapshot = {name: tensor.clone() for name, tensor in tensors.items()}
