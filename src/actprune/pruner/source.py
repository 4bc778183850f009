"""What a pruning step may look at, read from a live model: checks first, then an ``edit.View`` that reads lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from actprune.accounting import dense_flop
from actprune.edit import Method, View
from actprune.errors import ActpruneError, ModelError, ObservationError, RecipeError
from actprune.evidence import Gradient, HessianGradient, Learnt, OfActivations, OfWeights
from actprune.nodes import Graph
from actprune.pruner.collector import Collector, check_distinct, collected_again
from actprune.pruner.coupling import LiveCoupling
from actprune.pruner.distributed import agree, averaged_gradients, full, local, reduced, sharded
from actprune.pruner.model import PrunableModel
from actprune.pruner.quiet import quiet
from actprune.state import PruneState
from actprune.types import Evidence, Layer, LayerFacts, Sums


@dataclass(frozen=True)
class Kinds:
    """A method's evidence, by how it is collected. Raises RecipeError for what nobody can collect."""

    activations: tuple[OfActivations, ...]
    gradients: tuple[Gradient, ...]
    weights: tuple[OfWeights, ...]
    learnt: tuple[Learnt, ...]

    @classmethod
    def of(cls, evidence: Sequence[Evidence]) -> Kinds:
        """Sorted out."""
        kinds = (OfActivations, Gradient, OfWeights, Learnt)
        for each in evidence:
            if not isinstance(each, kinds):
                raise RecipeError(
                    f"nobody can collect {each!r}; evidence is one of {', '.join(kind.__name__ for kind in kinds)} "
                    "or a frozen dataclass below OfActivations or OfWeights (actprune.evidence)"
                )
        check_distinct(tuple(dict.fromkeys(evidence)))
        if len({type(each) for each in evidence if isinstance(each, Gradient) and each.of is None}) > 1:
            raise RecipeError("a recipe takes the gradient, its squares or the Hessian times it; ask for one of them")
        found = [tuple(each for each in dict.fromkeys(evidence) if isinstance(each, kind)) for kind in kinds]
        return cls(*found)  # type: ignore[arg-type]

    @property
    def training_gradient(self) -> bool:
        """Whether the gradient of the training loss is needed."""
        return any(each.of is None for each in self.gradients)

    @property
    def in_step(self) -> bool:
        """Whether what a training step leaves in ``.grad`` is evidence."""
        return self.training_gradient and self.form is not HessianGradient

    @property
    def form(self) -> type[Gradient]:
        """What is needed of the gradient of the training loss: itself, its squares, the Hessian times it."""
        return next((type(each) for each in self.gradients if each.of is None), Gradient)


def view_of(
    model: PrunableModel, method: Method, kinds: Kinds, state: PruneState, collector: Collector, *, last: bool
) -> View:
    """Check everything that can be missing or broken, then show it. A collective call.

    Changes nothing, but notes the network's FLOP when they are counted for the first time.
    """
    collector.flush()
    if state.flop is None:
        state.flop = counted_flop(model, state)
    names = model.pruned(method, state.graph)
    parameters = model.parameters()
    now = Kinds.of(method.needed(state.progress))
    agree(_local_problem(method, now, state, collector, names))
    _check_finite({name: parameters[name] for name in names})
    free = method.regrow == "free"
    outputs = model.outputs(state.graph)
    facts = tuple(
        LayerFacts(
            name=name,
            shape=tuple(parameters[name].shape),
            positions=_positions(method, state, name, parameters[name].dim()),
            mask=None if free else state.masks.get(name),
            device=local(parameters[name]).device,
            output=name in outputs,
        )
        for name in names
    )
    source = LiveSource(
        model,
        method,
        kinds,
        state,
        reduced(state.sums),
        averaged_gradients(state.gradients),
        _moments(kinds, model, state),
    )
    return View(
        facts=facts,
        source=source,
        others=model.others(names, state),
        graph=state.graph,
        progress=state.progress,
        seed=method.seed,
        last=last,
        dead=state.dead,
        snapshot=state.snapshot,
        dropout={path: state.dropout.get(path, module.p) for path, module in model.dropouts().items()},
    )


@dataclass(eq=False)
class LiveSource:
    """An ``edit.Source`` over the user's model: what was collected, and what can be collected now.

    sums, gradients, moments: collected so far, over all ranks. overlay: None; or values that parameters are to have,
    and then all evidence that depends on them is collected again when it is asked for.
    """

    model: PrunableModel
    method: Method
    kinds: Kinds
    state: PruneState
    sums: Mapping[str, Sums]
    gradients: Mapping[str, Tensor]
    moments: Mapping[str, Sums]
    overlay: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self._parameters = self.model.evident()
        self._every: dict[str, Tensor] | None = None
        self._objectives: dict[str, Tensor] | None = None
        self._coupling: LiveCoupling | None = None

    def coupling(self) -> LiveCoupling:
        """What must go together."""
        if self._coupling is None:
            whole = bool(getattr(getattr(self.method, "unit", None), "whole_groups", False))
            self._coupling = LiveCoupling(self.model, self.state, whole)
        return self._coupling

    def masks(self) -> Mapping[str, Tensor]:
        """Those in force, also of parameters that are no layer's weight."""
        return self.state.masks

    def scored(self) -> list[str]:
        """Weights of which all evidence is there."""
        activations = [key for each in self.kinds.activations for key in each.keys]
        return [
            name
            for name in self.model.scored
            if set(activations) <= set(self.sums.get(name, {}))
            and (not self.kinds.training_gradient or name in self.gradients)
            and (not self.kinds.learnt or name in self.state.learnt)
        ]

    def layer(self, name: str) -> Layer:
        """Weight, mask and evidence, gathered where they are sharded."""
        kinds = (self._activations, self._of_weights, self._gradient, self._learnt)
        return Layer(
            name=name,
            weight=self._weight(name),
            evidence={key: value for kind in kinds for key, value in kind(name).items()},
            mask=None if self.method.regrow == "free" else self.state.masks.get(name),
            seed=self.method.seed,
            progress=self.state.progress,
        )

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer by clean name."""
        if self.overlay is not None and name in self.overlay:
            return self.overlay[name]
        self._every = self._every or self.model.tensors()
        return full(self._every[name])

    def behind(self, weights: Mapping[str, Tensor]) -> LiveSource:
        """As if the parameters in ``weights`` had these values."""
        return replace(self, overlay={**(self.overlay or {}), **weights})

    def inputs(self, weights: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """What layers receive on the two examples kept of the first batch."""
        if self.state.example is None:
            raise ObservationError(
                "remove_dead has to measure what dead neurons send, but no input was seen that could be cut to two "
                "examples; run observe() on tensor inputs with a batch axis, or give Pruner(example=...)"
            )
        with self.model.holding({**(self.overlay or {}), **weights}):
            return _inputs_of_layers(self.model, names, self.state.example)

    def fresh(self, seed: int) -> dict[str, Tensor]:
        """All parameters and buffers as ``reset_parameters`` leaves them, this rank's part. Raises ModelError."""
        ways = _resets(self.model.root)
        tensors = self.model.local_tensors()
        with self.model.holding({name: tensor.clone() for name, tensor in tensors.items()}), torch.random.fork_rng():
            torch.manual_seed(seed)
            for reset in ways:
                reset()
            return {name: tensor.clone() for name, tensor in tensors.items()}

    # ---- evidence by kind ------------------------------------------------------------------------------------------

    def _weight(self, name: str) -> Tensor:
        given = None if self.overlay is None else self.overlay.get(name)
        return full(self._parameters[name]) if given is None else given

    def _activations(self, name: str) -> Sums:
        if not self.kinds.activations:
            return {}
        if self.overlay is not None:
            return self._collected_again(name, self.overlay)
        found = dict(self.sums.get(name, {}))
        for each in self.kinds.activations:
            if not _counted(each, name, self.state.graph):
                found = each.stand_in(_rows(self.sums, name, self.state.positions)) | found
        return found

    def _collected_again(self, name: str, weights: Mapping[str, Tensor]) -> Sums:
        """Behind ``weights``, on the calibration inputs that were kept."""
        state, model = self.state, self.model
        if not state.inputs or state.graph is None:
            raise ObservationError(
                f"{self.method.name} collects evidence again behind what it has pruned, but no calibration input was "
                "kept; run observe() before prune()"
            )
        with model.holding(weights):
            layers = {name: model.scored[name]}
            sums = collected_again(model.root, layers, self.kinds.activations, state.graph, state.inputs)
        return reduced(sums).get(name, {})

    def _of_weights(self, name: str) -> Sums:
        found = dict(self.moments.get(name, {}))
        for each in self.kinds.weights:
            found |= {} if each.frozen else each.read(self._weight(name))
        return found

    def _gradient(self, name: str) -> Sums:
        if not self.kinds.gradients:
            return {}
        if self.kinds.training_gradient:
            if self.overlay is not None:
                raise RecipeError(
                    f"{self.method.name} asks for the gradient of the training loss behind an edit, which only your "
                    "loop can compute; give the criterion Gradient(of=objective)"
                )
            (key,) = self.kinds.form().keys
            return {key: self.gradients[name]} if name in self.gradients else {}
        if self._objectives is None:
            self._objectives = self._gradients_of_objective()
        return {"gradient": self._objectives[name]}

    def _gradients_of_objective(self) -> dict[str, Tensor]:
        """By every prunable weight, summed over the batches."""
        (gradient,) = self.kinds.gradients
        assert gradient.of is not None
        if shards := [name for name, parameter in self._parameters.items() if sharded(parameter)]:
            raise ModelError(
                f"{self.method.name} asks for the gradient of {gradient.of}, which needs whole weights; {shards[0]} "
                "is sharded (FSDP); prune before you shard the model, or use DDP"
            )
        batches = self.state.inputs if gradient.needs_data else [self.state.example]
        if not batches or batches[0] is None:
            raise ObservationError(
                f"{self.method.name} needs the gradient of {gradient.of}, but no input was seen; run observe(), or "
                "give Pruner(example=...)"
            )
        total: dict[str, Tensor] = {}
        with self.model.holding(self.overlay or {}), quiet(self.model.root, gradients=True):
            for batch in batches:
                value = gradient.of(self.model.root, batch)
                found = torch.autograd.grad(value, list(self._parameters.values()), allow_unused=True)
                for (name, parameter), part in zip(self._parameters.items(), found, strict=True):
                    whole = torch.zeros_like(full(parameter)) if part is None else full(part)
                    total[name] = total[name] + whole if name in total else whole
        return averaged_gradients(total) if gradient.needs_data else total  # without data all ranks have the same

    def _learnt(self, name: str) -> Sums:
        return {key: value.detach() for key, value in self.state.learnt.get(name, {}).items()}


# ---- what can be missing or broken ----------------------------------------------------------------------------------


def _local_problem(
    method: Method, kinds: Kinds, state: PruneState, collector: Collector, names: Sequence[str]
) -> ActpruneError | None:
    """What this rank is missing. Raising at once would leave the other ranks waiting for it in the next reduction."""
    try:
        _check_structure(method, kinds, state)
        _check_repairs(method, state)
        _check_activations(method, kinds, state, collector, names)
        _check_gradients(method, kinds, state, names)
        _check_learnt(method, kinds, state, names)
    except ActpruneError as problem:
        return problem
    return None


def _check_structure(method: Method, kinds: Kinds, state: PruneState) -> None:
    counts = state.graph is None or any(
        _counted(each, name, state.graph) for each in kinds.activations for name in state.graph.sites
    )
    if method.count_on == "train" and kinds.activations and counts and not state.sums:
        raise ObservationError(
            "no training batch was counted although the recipe counts on live batches: attach(optimizer) before "
            "training, train in model.train() mode, and do not send the batches through a torch.compile'd model "
            "(its hooks are deaf; use count_on='observe' there)"
        )
    if state.graph is None and method.closing:
        raise ObservationError(
            "remove_dead has to see one forward pass to know which layer reads which: run observe(), or give "
            "Pruner(example=...)"
        )


def _check_repairs(method: Method, state: PruneState) -> None:
    """A repair that cannot be done is told before anything is computed."""
    if method.remembers is not None and not state.snapshot:
        raise ModelError(
            f"cannot rewind to step {method.remembers}: only {state.step} optimizer steps were seen; "
            "train that far before pruning, or attach(optimizer) before training"
        )


def _check_activations(
    method: Method, kinds: Kinds, state: PruneState, collector: Collector, names: Sequence[str]
) -> None:
    for each in kinds.activations:
        counted = [name for name in names if _counted(each, name, state.graph)]
        missing = [name for name in counted if not set(each.keys) <= set(state.sums.get(name, {}))]
        if missing:
            raise ObservationError(
                f"{method.name} needs {each} of {missing}, which was not observed; run observe() first"
            )
    if kinds.activations:
        collector.check(names)


def _check_gradients(method: Method, kinds: Kinds, state: PruneState, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in state.gradients]
    if kinds.training_gradient and missing:
        twice = "create_graph=True" if kinds.form is HessianGradient else ""
        step = ", or let a schedule prune in optimizer.step(), where it is read from .grad" if kinds.in_step else ""
        raise ObservationError(
            f"{method.name} needs {kinds.form().keys[0]!r} of {missing}, which was not observed; call "
            f"loss.backward({twice}) inside observe(){step}"
        )


def _check_learnt(method: Method, kinds: Kinds, state: PruneState, names: Sequence[str]) -> None:
    for each in kinds.learnt:
        if missing := [name for name in names if each.name not in state.learnt.get(name, {})]:
            learns = sorted(state.learnt.get(missing[0], {})) or "nothing"
            raise ObservationError(
                f"{method.name} needs {each.name!r} beside {missing}, which its penalty should learn, but it learns "
                f"{learns} there; give the recipe the penalty that belongs to its criterion"
            )
    for name in names if kinds.learnt else ():
        for key, value in state.learnt[name].items():
            if not bool(torch.isfinite(value).all()):
                raise ModelError(f"{key} of {name} is NaN or Inf; training has diverged, nothing was pruned")


def _check_finite(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        weight = full(parameter)
        if not bool(torch.isfinite(weight).all()):
            bad = int((~torch.isfinite(weight)).sum())
            raise ModelError(f"{name} has {bad} weights that are NaN or Inf; training has diverged, nothing was pruned")


def counted_flop(model: PrunableModel, state: PruneState) -> dict[str, int] | None:
    """FLOP of the whole network for one example, on the two that were kept of the first batch; None: there are none.

    How many examples it holds is told by the FLOP of a layer whose positions per example are known.
    """
    if state.example is None:
        return None
    with quiet(model.root):
        total = dense_flop(model.root, state.example, 1)
    sizes = {
        name: 2 * parameter.numel() * state.positions.get(name, 0) for name, parameter in model.parameters().items()
    }
    examples = next((total[name] // size for name, size in sizes.items() if size and total.get(name)), 0)
    return {name: flop // examples for name, flop in total.items()} if examples else None


# ---- facts ----------------------------------------------------------------------------------------------------------


def _counted(evidence: OfActivations, name: str, graph: Graph | None) -> bool:
    """Whether this evidence says anything of this layer."""
    if graph is None or (name not in graph.sites and name not in graph.elsewhere):
        return True
    if name not in graph.sites:
        return evidence.everywhere
    return evidence.counted_at(graph.sites[name], output=name in graph.outputs)


def _rows(sums: Mapping[str, Sums], name: str, positions: Mapping[str, int]) -> Tensor:
    """Rows that a layer has seen, by those of the others: it sees each of its own positions of every example. 1 where
    no layer counts any.
    """
    counted = [(layer, own["rows"]) for layer, own in sums.items() if "rows" in own]
    rows = [rows * positions.get(name, 1) // positions.get(layer, 1) for layer, rows in counted]
    return max(rows) if rows else torch.ones((), dtype=torch.int64)


def _positions(method: Method, state: PruneState, name: str, dims: int) -> int:
    if name in state.positions:
        return state.positions[name]
    if method.budget.kind == "flop" and dims > 2:
        raise ObservationError(
            f"a FLOP budget needs the number of output positions of {name}: run observe() or give Pruner(example=...)"
        )
    return 1


def _moments(kinds: Kinds, model: PrunableModel, state: PruneState) -> dict[str, Sums]:
    """Frozen evidence of weights: what the first pruning step has seen."""
    frozen = [each for each in kinds.weights if each.frozen]
    if state.moments or not frozen:
        return state.moments
    return {
        name: {key: value for each in frozen for key, value in each.read(full(parameter)).items()}
        for name, parameter in model.parameters().items()
    }


def _inputs_of_layers(model: PrunableModel, names: Sequence[str], example: Any) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].detach()

        return hook

    root = model.root
    handles = [root.get_submodule(model.layers[name]).register_forward_pre_hook(keep(name)) for name in names]
    args, kwargs = example
    try:
        with quiet(root):
            root(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _resets(model: nn.Module) -> list[Callable[[], Any]]:
    """``reset_parameters`` of every module that has parameters of its own. Raises ModelError for one without it."""
    found = []
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        reset = getattr(module, "reset_parameters", None)
        if reset is None:
            raise ModelError(
                f"cannot re-initialise {name or 'the model'} ({type(module).__name__}): it has parameters but no "
                "reset_parameters(); give it one, or use Rewind()"
            )
        found.append(reset)
    return found
