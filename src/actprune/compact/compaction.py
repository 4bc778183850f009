"""L4: ``compact``: really remove what is dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from actprune.compact.carry import move_optimizer, move_state, names_held
from actprune.compact.configuration import configured, reconfigure
from actprune.compact.cut import as_module, masked_tensors, small_tensors
from actprune.compact.fit import follow
from actprune.compact.norms import cost, put
from actprune.compact.own import Code, refuse_uncuttable
from actprune.compact.plan import Keeps, Plan, plan
from actprune.compact.report import CompactReport, report
from actprune.compact.sizes import StuckError
from actprune.compact.steps import Steps, as_program
from actprune.compact.verify import EXAMPLES, as_they_are, check, hooks_change, masked_call
from actprune.errors import CompactionError, ModelError, few
from actprune.graph import hooked, unhooked, unwrap
from actprune.program import Program, example_args, export, first_names, outline, refuse_failing
from actprune.pruner.quiet import quiet
from actprune.state import PruneState
from actprune.structure import (
    Inputs,
    Norm,
    Record,
    Sized,
    Structure,
    copied,
    leaves,
    on_other_ways,
    outputs,
    plainly,
    record,
    tensors_of,
)

Form = Literal["module", "graph"]
_Made = tuple[Plan, nn.Module, list[str], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Compaction:
    """A small model, what was done to get it, and the pruning state cut alike (None when only masks were given)."""

    model: nn.Module
    report: CompactReport
    state: PruneState | None


def compaction(
    model: nn.Module,
    state: PruneState | Mapping[str, Tensor] | None = None,
    *,
    example: Any = None,
    form: Form = "module",
    gather: bool = True,
    round_to: int = 1,
    exact: bool = True,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    inplace: bool = False,
    verify: bool = True,
) -> Compaction:
    """``compact`` with its report and the pruning state of the small model. See ``compact`` for the arguments."""
    _check_kinds(model, state, round_to)
    own = unwrap(model)
    _check_options(own, form, round_to, inplace)
    optimizers = _listed(optimizer)
    held = [names_held(each, own) for each in optimizers]
    refuse_uncuttable(own)
    options: dict[str, Any] = {"gather": gather, "round_to": round_to, "exact": exact, "verify": verify}
    example = _example(own, state, example)
    stages = [_compacted(own, state, example, **options)]
    if form == "graph" and not isinstance(own, Program):
        stages += _as_graph(stages[0].made, example, options)
    last = stages[-1].made
    small = _take_over(own, last.model) if inplace else last.model
    for each, names in zip(optimizers, held, strict=True):
        known = names
        for stage in stages:
            target = small if stage is stages[-1] else stage.made.model
            move_optimizer(each, known, target, stage.keeps)
            known = {id(parameter): name for name, parameter in target.named_parameters()}
    report = stages[0].made.report if len(stages) == 1 else stages[0].made.report.then(last.report)
    return Compaction(small, report, last.state)


@dataclass(frozen=True, eq=False)
class _Stage:
    """One compaction, and which indices of every tensor it kept."""

    made: Compaction
    keeps: Keeps


def _compacted(
    own: nn.Module, state: PruneState | Mapping[str, Tensor] | None, example: Any, *, gather: bool, round_to: int,
    exact: bool, verify: bool,
) -> _Stage:  # fmt: skip
    masks = state.masks if isinstance(state, PruneState) else dict(state or {})
    args, kwargs = example_args(example)
    _refuse_empty(args, kwargs)
    given = _some(args, kwargs, EXAMPLES)
    # Hooks that only look are left out of it; those that change values are followed as part of the model.
    computes = not isinstance(own, Program) and hooks_change(own, *given)
    tensors = masked_tensors(own, masks)
    steps = Steps(own) if isinstance(own, Program) else None
    recorded, pair = _recorded(own, args, kwargs, computes, steps)
    recorded, others = (recorded, []) if steps is not None else on_other_ways(own, recorded, *pair, hooks=computes)
    structure = Structure(own, *pair, recorded=recorded, exact=steps is None)
    call = masked_call(own, tensors)

    def tried(folds: bool, attributes: bool) -> _Made:
        code = Code(own, gather)
        job, small, told = _made(
            structure, own, tensors, code, steps, round_to=round_to, exact=exact, every=[pair, *others],
            computes=computes, folds=folds, attributes=attributes,
        )  # fmt: skip
        if not verify:
            return job, small, told, {}
        with quiet(own), quiet(small), nullcontext() if computes else _unhooked(own, small):
            found = check(job, call, own, small, given, pair, others, single=_single(own, pair), exact=exact)
            return job, small, told, found

    job, small, told, differences = _first_that_holds(tried)
    if hooked(own) or not verify:
        as_they_are(call, small, own, given, compare=verify)
    if steps is None and configured(own):
        line = reconfigure(own, small, job.keeps, lambda model: outputs(_caller(model, [pair], computes)()))
        told = told if line is None else [*told, line]
    if (line := cost(small, _given(job))) is not None:
        told = [*told, line]
    if structure.unreached:
        told = [*told, f"not reached by the example, and as before: {few(structure.unreached)}"]
    told_of = report(job, tensors, small, differences, told)
    small.actprune_example = outline(pair)  # so that save() needs none
    moved = move_state(state, job.keeps, first_names(own)) if isinstance(state, PruneState) else None
    return _Stage(Compaction(small, told_of, moved), job.keeps)


def _as_graph(first: Compaction, example: Any, options: Mapping[str, Any]) -> list[_Stage]:
    """The small model as a program, in which more can go: inputs of first convolutions, say."""
    given = _some(*example_args(example), EXAMPLES)
    with nullcontext() if hooks_change(first.model, *given) else unhooked(first.model):
        program = export(first.model, given)
    return [
        _Stage(Compaction(program, first.report, first.state), {}),
        _compacted(program, first.state, example, **options),
    ]


def _first_that_holds(tried: Callable[[bool, bool], _Made]) -> _Made:
    """An attribute may mean something else besides a size (the scale of attention), and a constant may be one for this
    number of examples only (a model that adds a size): where the result differs, it is made without the one, the other.

    Raises the first error where nothing holds.
    """
    first: CompactionError | None = None
    for folds, attributes in ((True, True), (True, False), (False, True), (False, False)):
        try:
            return tried(folds, attributes)
        except CompactionError as error:
            first = first or error
    assert first is not None
    raise first


_TRIES = 50  # sizes that cannot be written are found one after the other


def _made(
    structure: Structure, own: nn.Module, tensors: Mapping[str, Tensor], code: Code, steps: Steps | None, *,
    round_to: int, exact: bool, every: Sequence[Inputs], computes: bool, folds: bool, attributes: bool,
) -> tuple[Plan, nn.Module, list[str]]:  # fmt: skip
    """The plan and the small model. Classes that a size stands in the way of stay, and everything begins anew."""
    fixed: list[Tensor] = []
    for _ in range(_TRIES):
        job = plan(structure, tensors, code, round_to=round_to, fixed=fixed, folds=folds, exact=exact)
        small_ones = small_tensors(job, tensors_of(own))
        try:
            if steps is not None:
                return job, as_program(job, steps, small_ones), []
            small = as_module(job, own, small_ones)
            told = [f"{path}: {put(small, path, _norm_at(structure, path), left, exact)}" for path, left in _left(job)]
            told += follow(small, _caller(small, every, computes), job.fates, attributes=attributes)
            return job, small, told
        except StuckError as error:
            fixed = fixed + _around(error, job)
    raise CompactionError("sizes in the model's own code stand in the way at more places than can be tried")


def _norm_at(structure: Structure, path: str) -> Norm:
    """The norm that a module computes."""
    found = structure.norms[path]
    assert found is not None
    return found


def _left(job: Plan) -> list[tuple[str, int]]:
    """Norms over channels of which some go, and how many are left."""
    return [(path, int(job.fates.alive(mixing.labels).sum())) for path, mixing in job.norms.items()]


def _given(job: Plan) -> Callable[[str], list[tuple[int, ...]]]:
    """Shapes of what a module is given on the two examples, by its path."""
    found = job.fates.found

    def shapes(path: str) -> list[tuple[int, ...]]:
        return [job.fates.shape(found.values[given[0]]) for given, _ in found.record.calls.get(path, []) if given]

    return shapes


_DROPS = frozenset({"native_dropout", "bernoulli", "bernoulli_", "_fused_dropout"})


def _refuse_dropout(found: Record) -> None:
    """Raise ModelError where values are dropped at random in evaluation mode, too: nothing can be compared then."""
    node = next((node for node in found.nodes if node.op in _DROPS), None)
    if node is not None:
        raise ModelError(
            f"the model drops values at random even in evaluation mode ({node.op} in {node.module or 'its own code'}); "
            "use nn.Dropout, or make the dropout depend on self.training"
        )


@contextmanager
def _unhooked(*models: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(unhooked(model))
        yield


def _caller(small: nn.Module, every: Sequence[Inputs], hooks: bool = False) -> Callable[[], list[Any]]:
    """The model on each of these inputs. hooks: the user's own are part of what it computes."""

    def call() -> list[Any]:
        with quiet(small), nullcontext() if hooks else unhooked(small), plainly(small):
            return [small(*args, **kwargs) for args, kwargs in map(copied, every)]

    return call


def _around(error: StuckError, job: Plan) -> list[Tensor]:
    """Labels of what goes into a call that cannot be written, and of what comes out of it."""
    values = job.fates.found.values
    what = error.args[0] if error.args else None
    if isinstance(what, Sized):
        slots = [*what.outs, *([] if what.source is None else [what.source])]
        found = [values[slot] for slot in slots]
    else:
        found = list(what or [])
    cut = [labels for value in found for labels in value.labels if not bool(job.fates.alive(labels).all())]
    if not cut:
        where = f"{what.name} in {what.module or 'its own code'}" if isinstance(what, Sized) else "a call"
        cause = error.args[1] if len(error.args) > 1 else error.__cause__
        remedy = "; prune in widths that it takes, as with Channel(round_to=8)" if "multiple of" in str(cause) else ""
        raise CompactionError(
            f"the compacted model does not run: {where} does not take the new sizes: {type(cause).__name__}: "
            f"{cause}{remedy}"
        ) from error
    return cut


def _recorded(
    own: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], computes: bool, steps: Steps | None
) -> tuple[Record, Inputs]:
    """One forward on two of the examples; on all where the model does not take two."""
    failed: Exception | None = None
    for pair in (_some(args, kwargs, 2), (args, kwargs)):
        try:
            around = None if steps is None else steps.watching
            found = record(own, *copied(pair), hooks=computes, around=around)
            _refuse_dropout(found)
            return found, pair
        except ModelError:
            raise
        except Exception as error:  # whatever the model raises
            failed = error
    refuse_failing(own, args, dict(kwargs))
    raise CompactionError(f"{type(own).__name__} cannot be followed: {type(failed).__name__}: {failed}") from failed


def compact(
    model: nn.Module,
    state: PruneState | Mapping[str, Tensor] | None = None,
    *,
    example: Any = None,
    form: Form = "module",
    gather: bool = True,
    round_to: int = 1,
    exact: bool = True,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    inplace: bool = False,
    verify: bool = True,
) -> nn.Module:
    """A smaller model that computes what ``model`` computes with its masks applied.

    Removed are neurons and channels without weights (the constant that they still send moves into the next biases, also
    through BatchNorm and pooling), those that nobody reads, and inputs that no first layer uses; over and over, until
    nothing more can go. Channels that meet in sums, concatenations, depthwise or grouped convolutions and attention
    heads go together or not at all. (A grouped convolution that this leaves depthwise or plain is one from then on, and
    an attention that is left with one head has none to keep alike: a second call may find more in them.)

    state      ``pruner.state``, masks by weight name (True = kept), or None: the weights that are zero already
    example    one input (tensor or tuple of positional arguments); left out, the one that the pruner has seen
    form       "module": a copy of your own class with smaller layers; sizes in its code are followed to attributes, or
               rewritten on the fly; "graph": a ``Program`` of standard operations, in which they are numbers of steps
    gather     leave inputs out that no first layer reads, by an index (False: the first layer keeps all its columns)
    round_to   make widths multiples of this, as some hardware wants
    exact      norms over channels of which some go (LayerNorm, GroupNorm, RMSNorm) stay the same function: they are
               rescaled, or divide by the number of before; False: they are plain norms over what is left, and the
               report says how far the outputs are off
    optimizer  one or several: their states are cut along and they are pointed at the small model, so that training goes
               on; one whose state cannot be cut (LBFGS, preconditioners) is refused
    inplace    change ``model`` itself (form "module" only)
    verify     compare with the masked model on the example and on noise (float64 1e-5, float32 1e-4 of the output's
               scale), and as both are, in their own types and with the hooks that you have put on

    Every tensor keeps its type; the result carries no data of the example. Your hooks see the example, at most 32 of
    its examples, once on either model and nothing else.

    Raises CompactionError (a difference, masks that do not fit, another model's optimizer), ModelError (NaN weights, a
    model that cannot be turned into a graph). Nothing is changed then.
    """
    return compaction(
        model, state, example=example, form=form, gather=gather, round_to=round_to, exact=exact, optimizer=optimizer,
        inplace=inplace, verify=verify,
    ).model  # fmt: skip


def _example(model: nn.Module, state: Any, example: Any) -> Any:
    if example is not None:
        return example
    if isinstance(state, PruneState) and state.example is not None:
        return state.example
    known = getattr(model, "actprune_example", None)
    if known is None:
        raise CompactionError(
            "compact() follows one input through the model, and none is known; give example=, such as the first batch"
        )
    return known


def _listed(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    if optimizer is None:
        return []
    found = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for each in found:
        if not isinstance(each, Optimizer):
            raise CompactionError(
                f"optimizer holds a {type(each).__name__}; give torch optimizers, and make anything else anew for the "
                "small model"
            )
    return found


def _some(args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> Inputs:
    """At most so many of the examples, where all tensors have equally many; otherwise they are no batch of examples."""
    counts = {len(item) if item.dim() else None for item in leaves((args, kwargs))}
    if len(counts) != 1 or None in counts:
        return args, kwargs
    if all(count is not None and count <= most for count in counts):
        return args, kwargs
    cut: Inputs = tree_map(lambda item: item[:most] if isinstance(item, Tensor) else item, (tuple(args), dict(kwargs)))
    return cut


def _single(own: nn.Module, pair: Inputs) -> Inputs | None:
    """One of two examples; None where they may be two steps of one sequence, as before a recurrent layer."""
    if any(isinstance(module, (nn.RNNBase, nn.RNNCellBase)) for module in own.modules()):
        return None
    single = _some(*pair, 1)
    return None if single[0] is pair[0] and single[1] is pair[1] else single


def _refuse_empty(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if empty := [tuple(item.shape) for item in leaves((args, kwargs)) if not item.numel()]:
        raise ModelError(f"the example is empty: its shape is {empty[0]}; give one of at least one input")


def _check_kinds(model: Any, state: Any, round_to: Any) -> None:
    if not isinstance(model, nn.Module):
        raise CompactionError(f"compact() takes a model (nn.Module); got a {type(model).__name__}")
    if state is not None and not isinstance(state, (PruneState, Mapping)):
        raise CompactionError(f"state is a {type(state).__name__}; give pruner.state, masks by weight name, or nothing")
    if isinstance(round_to, bool) or not isinstance(round_to, int):
        raise CompactionError(f"round_to={round_to!r}: use a whole number, round_to >= 1")


def _check_options(model: nn.Module, form: str, round_to: int, inplace: bool) -> None:
    if form not in ("module", "graph") or round_to < 1:
        raise CompactionError(f"form={form!r}, round_to={round_to}: use form='module' or 'graph' and round_to >= 1")
    if inplace and form == "graph" and not isinstance(model, Program):
        raise CompactionError("inplace=True keeps your own class; it cannot be used with form='graph'")


def _take_over(model: nn.Module, small: nn.Module) -> nn.Module:
    """``model`` itself, with the contents of ``small``."""
    model.__dict__.clear()
    model.__dict__.update(small.__dict__)
    return model
