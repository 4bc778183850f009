"""L2: from any model that ``torch.export`` understands to a ``Program``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actprune.errors import ModelError
from actprune.program.module import Program
from actprune.program.nodes import Ref, Step, refs_in
from actprune.program.ops import base, is_known, name_of
from actprune.program.tracing import fixed_batch, traced
from actprune.program.tree import first_names
from actprune.structure import mapped

_DROPPED = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async.msg", "sym_constrain_range",
                      "sym_constrain_range_for_size"})  # fmt: skip
_EVAL_NORM = "_native_batch_norm_legit_no_training"  # BatchNorm, once in-place operations are rewritten
_IGNORED = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})
_DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "dropout_"})
_IDENTITIES = frozenset({"dropout", "feature_dropout", "alpha_dropout", "contiguous", "detach", "alias",
                         "lift_fresh_copy", "clone", "dropout_", "detach_"})  # fmt: skip


def example_args(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` from one tensor, a tuple of positional arguments, or ``(args, kwargs)`` itself."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, (tuple, list)):
        pair = len(example) == 2 and isinstance(example[0], (tuple, list)) and isinstance(example[1], Mapping)
        return (tuple(example[0]), dict(example[1])) if pair else (tuple(example), {})
    if isinstance(example, Mapping):
        return (), dict(example)
    raise ModelError(f"an example is a tensor or a tuple of positional arguments; got a {type(example).__name__}")


def outline(inputs: Any) -> Any:
    """Zeros of the shapes, types and devices of the tensors in tuples, lists and dicts, in a single number's memory.

    What follows an input through a model looks at shapes only, and nobody wants their data in a copy of the model.
    """
    if isinstance(inputs, Tensor):
        return torch.zeros((), dtype=inputs.dtype, device=inputs.device).expand(inputs.shape)
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(map(outline, inputs))
    return {name: outline(item) for name, item in inputs.items()} if isinstance(inputs, Mapping) else inputs


def export(model: nn.Module, example: Any) -> Program:
    """The program of ``model`` in evaluation mode, for any batch size (axis 0 of every input).

    example: one input (tensor, or tuple of positional arguments), of two or more examples where possible. The model is
    not changed; the program has its own copies of the tensors.

    Raises ModelError naming the cause: control flow that depends on values, inputs that are no tensors, operations that
    a program may not contain.
    """
    if isinstance(model, Program):
        return copy.deepcopy(model)
    args, kwargs = example_args(example)
    if (not args and not kwargs) or not all(isinstance(item, Tensor) for item in (*args, *kwargs.values())):
        raise ModelError("the model's inputs must be plain tensors; wrap the model in a module that takes tensors only")
    if empty := [tuple(item.shape) for item in (*args, *kwargs.values()) if not item.numel()]:
        raise ModelError(f"the example is empty: its shape is {empty[0]}; give one of at least one input")
    exported = traced(model, args, kwargs)
    return _Reader(exported, first_names(model)).program(frozenset(name for name, _ in model.named_buffers()))


def needed(steps: Sequence[Step], result: Any) -> list[Step]:
    """The steps whose results are used."""
    used = {ref.name for ref in refs_in(result)}
    kept: list[Step] = []
    for step in reversed(steps):
        if step.name in used:
            used |= {ref.name for ref in step.refs()}
            kept.append(step)
    return kept[::-1]


def _keeps_dtype(op: str, node: Any) -> bool:
    """Whether it is a conversion to what its input is already, such as ``x.float()``: a float64 copy would break it."""
    if base(op) not in ("to", "_to_copy", "type_as"):
        return False
    before, after = node.args[0].meta.get("val"), node.meta.get("val")
    return isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype


def _refuse_dropout(step: Step) -> None:
    """Raise ModelError where values are dropped at random in evaluation mode, too: as programs, they never would be."""
    name = step.op.partition(".")[0]
    attends = name == "scaled_dot_product_attention" and step.arg(4, "dropout_p", 0.0) != 0
    if attends or (name in _DROPOUTS and step.arg(2, "train", True)):
        raise ModelError(
            f"the model drops values at random even in evaluation mode (step {step.name}); use nn.Dropout, or make "
            "the dropout depend on self.training"
        )


def _plain(result: Any) -> Any:
    """What the model returns as lists, tuples and dicts. Raises ModelError for containers of other kinds."""
    if isinstance(result, (list, tuple)):
        return [_plain(item) for item in result] if isinstance(result, list) else tuple(map(_plain, result))
    if isinstance(result, Mapping):
        return {str(key): _plain(item) for key, item in result.items()}
    if result is not None and not isinstance(result, (Ref, bool, int, float, str)):
        raise ModelError(f"the model returns a {type(result).__name__}; let it return tensors, lists, tuples or dicts")
    return result


class _Reader:
    """Reads one exported program: its signature names the tensors, its graph becomes steps."""

    def __init__(self, exported: Any, first: Mapping[str, str]) -> None:
        self.exported, self.first = exported, first
        self.renamed: dict[str, Any] = {}  # FX name -> Ref, or the value of a constant argument
        self.tensors: dict[str, Tensor] = {}
        self.inputs: list[str] = []
        self.steps: list[Step] = []
        self.norms: list[Ref] = []

    def program(self, buffers: frozenset[str]) -> Program:
        self._read_signature()
        batch = fixed_batch(self.exported)
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self._read_call(node)
            elif node.op not in ("placeholder", "output"):
                raise ModelError(f"the model contains a {node.op} ({node.target}), which a program cannot hold")
        specs = self.exported.graph_signature.output_specs
        if changed := [spec.target for spec in specs if spec.kind.name != "USER_OUTPUT"]:
            raise ModelError(f"the model changes {changed[0]} while it is evaluated; a program cannot do that")
        flat = [spec.arg.value if hasattr(spec.arg, "value") else self.renamed[spec.arg.name] for spec in specs]
        result = _plain(torch.utils._pytree.tree_unflatten(flat, self.exported.call_spec.out_spec))
        extra = frozenset(name for name in self.tensors if name not in dict(self.exported.named_parameters()))
        floats = frozenset(name for name in buffers | extra if name in self.tensors)
        return Program(self.inputs, needed(self.steps, result), result, self.tensors, floats, batch)

    def _read_signature(self) -> None:
        state, constants = self.exported.state_dict, self.exported.constants
        for spec in self.exported.graph_signature.input_specs:
            kind, name = spec.kind.name, spec.arg.name
            if kind == "USER_INPUT":
                self.inputs.append(name)
                self.renamed[name] = Ref(name)
            else:
                tensor = state[spec.target] if spec.target in state else constants[spec.target]
                if not isinstance(tensor, Tensor):
                    raise ModelError(
                        f"the model holds {spec.target}, a {type(tensor).__name__}; only tensors can be kept"
                    )
                target = self.first.get(spec.target, spec.target)
                self.renamed[name] = Ref(target)
                if target not in self.tensors:
                    kept = tensor.detach().clone()
                    own = isinstance(tensor, nn.Parameter)
                    self.tensors[target] = nn.Parameter(kept, tensor.requires_grad) if own else kept
        self.inputs = [self._fresh(name) for name in self.inputs]

    def _fresh(self, name: str) -> str:
        """A name that no tensor has."""
        while name in self.tensors:
            name += "_"
        return name

    def _read_call(self, node: Any) -> None:
        op = name_of(node.target)
        if op.partition(".")[0] in _DROPPED or op in _DROPPED:
            return
        if not is_known(op) and op != _EVAL_NORM:
            raise ModelError(
                f"the model calls {op} (step {node.name}), which a program may not contain; compaction and shipping "
                "support the usual layers, activations, pooling, reshapes and arithmetic"
            )
        args = mapped(tuple(node.args), self._leaf)
        if op == "operator.getitem" and args[0] in self.norms:  # what it returned is a tensor now, not a tuple
            self.renamed[node.name] = args[0]
            return
        if op == _EVAL_NORM:
            op, args = "batch_norm", (*args[:5], False, *args[5:], False)
            self.norms.append(Ref(self._fresh(node.name)))
        kwargs = {key: mapped(value, self._leaf) for key, value in node.kwargs.items() if key not in _IGNORED}
        _refuse_dropout(Step(node.name, op, args, kwargs))
        if op.partition(".")[0] in _IDENTITIES or _keeps_dtype(op, node):
            self.renamed[node.name] = args[0]
            return
        name = self._fresh(node.name)
        self.renamed[node.name] = Ref(name)
        # A view may need memory in order, which a reshape does not: copies made for that sake were dropped above.
        self.steps.append(Step(name, "reshape" if op in ("view", "_unsafe_view") else op, args, kwargs or None))

    def _leaf(self, item: Any) -> Any:
        if isinstance(item, torch.fx.Node):
            return self.renamed[item.name]
        if isinstance(item, (torch.device, torch.layout, torch.memory_format)):
            return None
        return item
