"""L2: ``Program``, a network as a list of standard operations: a plain ``nn.Module`` without any class of the user's.

Why not a stored ``torch.export`` archive: loading one evaluates expressions found in the file, and its format changes
with torch. Here the graph that ``torch.export`` finds is kept as plain JSON values; only listed operations are called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from actprune.errors import ArtifactError, ModelError
from actprune.program.bound import MAKERS, MOST_STEPS, Bound
from actprune.program.layers import layer_inputs, layer_of, layer_path, settings
from actprune.program.nodes import Ref, Step, decoded, encoded, refs_in
from actprune.program.ops import function
from actprune.program.tree import STATISTICS, grow, tensor_at
from actprune.structure import mapped


class Program(nn.Module):
    """Runs ``steps`` in order. Parameters and buffers have the dotted names they had in the user's model.

    inputs   names of the arguments, in order; keywords are taken by these names too
    result   nested lists and dicts of Refs: what is returned
    buffers  names of floating-point tensors that are not trained (BatchNorm's statistics are known without)
    batch    None: axis 0 of the inputs is free; a number: the only batch size this program takes

    Steps with parameters of their own run as standard layers (``nn.Linear`` at ``fc1``), so hooks, pruners and
    optimizers see what they expect. In training mode BatchNorm updates its statistics; dropout does not come back.
    """

    def __init__(  # noqa: PLR0917  (the six parts that a program consists of)
        self,
        inputs: Sequence[str],
        steps: Sequence[Step],
        result: Any,
        tensors: Mapping[str, Tensor],
        buffers: frozenset[str] = frozenset(),
        batch: int | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.steps, self.result, self.batch = tuple(inputs), tuple(steps), result, batch
        _check(self.inputs, self.steps, result, tensors, batch)
        self._functions = [function(step.op) for step in self.steps]
        self._paths = _paths(self.steps)
        layers = {path: layer_of(step, tensors) for step, path in zip(self.steps, self._paths, strict=True) if path}
        grow(self, layers, tensors, buffers)
        self._dead = _last_uses(self.steps, result)
        self._limits: Bound | None = None
        self.eval()  # what was exported is the network as it is used

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Whatever the exported model returned for such inputs."""
        values = self.bound(args, kwargs)
        for index, step in enumerate(self.steps):
            values[step.name] = self.run_step(index, values)
            for name in self._dead[index]:
                del values[name]
        return mapped(self.result, lambda item: self._value(item, values))

    def structure(self) -> dict[str, Any]:
        """Everything but the tensors, as plain JSON values."""
        steps = [
            [step.name, step.op, encoded(step.args), *([encoded(dict(step.kwargs))] if step.kwargs else [])]
            for step in self.steps
        ]
        found: dict[str, Any] = {"inputs": list(self.inputs), "steps": steps, "result": encoded(self.result)}
        if buffers := sorted(self.plain_buffers()):
            found["buffers"] = buffers
        return found if self.batch is None else {**found, "batch": self.batch}

    @classmethod
    def build(cls, structure: Mapping[str, Any], tensors: Mapping[str, Tensor], growth: float = math.inf) -> Self:
        """Inverse of ``structure()``. Raises ArtifactError for anything unknown or inconsistent; computes nothing.

        growth: bounds what a forward may allocate (see ``program.bound``): what is beyond is refused here where it can
        be told, else by the forward, before it allocates. Infinite: whatever the structure asks for.
        """
        try:
            if growth < math.inf and len(structure["steps"]) > MOST_STEPS:
                raise ArtifactError(
                    f"the program has {len(structure['steps'])} steps; the limit is {MOST_STEPS}. If you trust the "
                    "file, load it with growth=math.inf"
                )
            steps = [_step(row) for row in structure["steps"]]
            buffers = frozenset(structure.get("buffers", ()))
            result = decoded(structure["result"])
            found = cls(structure["inputs"], steps, result, tensors, buffers, structure.get("batch"))
            if growth < math.inf:
                found._limit(growth)
            return found
        except ArtifactError:
            raise
        except Exception as error:  # a hostile structure can go wrong anywhere; to the caller it is one kind of error
            raise ArtifactError(
                f"the stored program is inconsistent: {type(error).__name__}: {str(error)[:200]}"
            ) from error

    def _limit(self, growth: float) -> None:
        tensors = self.tensors()
        names = frozenset(tensors)
        self._limits = Bound(growth, self.inputs, self.steps, self._functions, self._dead, names)
        self._limits.check_unseen(tensors, self.batch)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters (as they are, trainable or not) and buffers by name."""
        return dict(self.state_dict(keep_vars=True))

    def plain_buffers(self) -> frozenset[str]:
        """Names of the floating-point buffers that are no running statistics."""
        floats = (name for name, tensor in self.named_buffers() if tensor.is_floating_point())
        return frozenset(name for name in floats if not name.endswith(STATISTICS))

    def layer_path(self, index: int) -> str | None:
        """Path of the standard layer that runs step ``index``, or None."""
        return self._paths[index]

    def run_step(self, index: int, values: Mapping[str, Any]) -> Any:
        """Result of one step, given the values before it."""
        step, path = self.steps[index], self._paths[index]
        if path is not None:
            return self.get_submodule(path)(self._value(layer_inputs(step), values))
        args = mapped(step.args, lambda item: self._value(item, values))
        kwargs = {
            key: mapped(item, lambda leaf: self._value(leaf, values)) for key, item in (step.kwargs or {}).items()
        }
        if step.op.partition(".")[0] in MAKERS:
            kwargs["device"] = values[self.inputs[0]].device
        return self._functions[index](*args, **kwargs)

    def _value(self, item: Any, values: Mapping[str, Any]) -> Any:
        """What an argument stands for: a value, a parameter, a buffer, or itself."""
        if not isinstance(item, Ref):
            return item
        return values[item.name] if item.name in values else tensor_at(self, item.name)

    def bound(self, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Inputs by name. Raises ModelError when they are too few, too many, or of a batch size that is not taken,
        ArtifactError when a program from a file would allocate too much on them.
        """
        values = dict(zip(self.inputs, args, strict=False)) | dict(kwargs)
        if len(args) + len(kwargs) != len(self.inputs) or set(values) != set(self.inputs):
            raise ModelError(
                f"this program takes {', '.join(self.inputs)}; it was called with {len(args)} positional arguments"
                + (f" and {', '.join(kwargs)}" if kwargs else "")
            )
        if self._limits is not None:
            self._limits.check(values, self.tensors)
        if self.batch is None:  # looking at sizes would fix them where this call is traced
            return values
        sizes = {len(value) for value in values.values() if isinstance(value, Tensor) and value.dim()}
        if sizes != {self.batch}:
            raise ModelError(f"this program was exported for batches of {self.batch}; found {sorted(sizes)}")
        return values


def _step(row: Any) -> Step:
    name, op, args, *kwargs = row
    return Step(str(name), str(op), tuple(decoded(args)), decoded(kwargs[0]) if kwargs else None)


def _check(
    inputs: tuple[str, ...], steps: tuple[Step, ...], result: Any, tensors: Mapping[str, Tensor], batch: int | None
) -> None:
    """Every name is made once, and before it is read."""
    known = set(tensors) | set(inputs)
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ArtifactError(f"a program for batches of {str(batch)[:60]!r} cannot be; batch is a number or left out")
    if not inputs or len(known) != len(tensors) + len(inputs):
        raise ArtifactError("the program has no inputs, or names that mean two things")
    for step in steps:
        for ref in step.refs():
            if ref.name not in known:
                raise ArtifactError(f"step {step.name[:60]!r} reads {ref.name[:80]!r}, which does not exist before it")
        if step.name in known or not isinstance(step.name, str):
            raise ArtifactError(f"the name {step.name[:60]!r} is given twice")
        known.add(step.name)
    for ref in refs_in(result):
        if ref.name not in known:
            raise ArtifactError(f"the program returns {ref.name[:80]!r}, which does not exist")


def _paths(steps: Sequence[Step]) -> list[str | None]:
    """Layer path of every step; None where a path's steps disagree on more than their input."""
    found = [layer_path(step) for step in steps]
    kinds: dict[str | None, set[str]] = {}
    for step, path in zip(steps, found, strict=True):
        kinds.setdefault(path, set()).add(settings(step))
    return [path if len(kinds[path]) == 1 else None for path in found]


def _last_uses(steps: Sequence[Step], result: Any) -> list[list[str]]:
    """For every step: values that nobody reads after it."""
    made = {step.name for step in steps}
    needed = {ref.name for ref in refs_in(result)}
    dead: list[list[str]] = []
    for step in reversed(steps):
        used = {ref.name for ref in step.refs()} | {step.name}
        dead.append(sorted((used & made) - needed))
        needed |= used
    return dead[::-1]
