"""L4: sizes that the user's own code insists on: found by running the small model, followed to the attributes that hold
them, and rewritten on the fly where there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actprune.compact.attention import WidthAttention
from actprune.compact.fates import Fates
from actprune.compact.gathered import GatheredLinear
from actprune.compact.sizes import Around, Averaged, Chained, Edited, Multiplied, StuckError, Written, rewritten
from actprune.errors import CompactionError
from actprune.structure import CONVOLUTIONS, Frames, Key, Sized, Value, WidthNorm, factor, sized, tensors


@dataclass(frozen=True)
class Change:
    """One call that has to read otherwise.

    It is told by its name and place, since a table that is made once and kept is read without what has made it later.
    """

    key: Key
    edit: Edited


def changes(small: nn.Module, call: Callable[[], Any], fates: Fates) -> list[Change]:
    """Run the small model; every call whose written sizes do not fit is carried out with those that do, and noted.

    Raises StuckError (with the ``Sized``) where none fit.
    """
    expected: dict[Key, list[Sized]] = {}
    for each in fates.found.record.sized:
        expected.setdefault(each.key, []).append(each)
    for known in _rewritings(small):
        known.stale = set()
    mode = _Fitting(small, expected, fates)
    try:
        with mode.frames.running(), mode:
            call()
    except StuckError:
        raise
    except Exception as error:
        raise StuckError(_touched(mode.place, fates), error) from error
    return list(mode.found.values())


def _rewritings(small: nn.Module) -> list[Rewriting]:
    """Those of earlier compactions, and of this one."""
    found = (module.__dict__.get("actprune_sizes") for module in small.modules())
    return [each for each in found if isinstance(each, Rewriting)]


def _touched(path: str, fates: Fates) -> list[Value]:
    """Values that the code of a module handles itself, where something goes from them."""
    slots = {slot for node in fates.found.record.nodes if node.module == path for slot in (*node.slots(), *node.outs)}
    values = [fates.found.values[slot] for slot in sorted(slots)]
    return [value for value in values if any(line is not None for line in fates.lines(value))]


def around(call: Sized, fates: Fates) -> Around:
    """Shapes and kept lines around a call."""
    values = fates.found.values
    outs = [values[slot] for slot in call.outs]
    source = None if call.source is None else values[call.source]
    return Around(
        () if source is None else source.shape,
        [] if source is None else fates.lines(source),
        tuple(each.shape for each in outs),
        tuple(fates.lines(each) for each in outs),
    )


class _Fitting(TorchFunctionMode):
    def __init__(self, small: nn.Module, expected: Mapping[Key, list[Sized]], fates: Fates) -> None:
        super().__init__()
        self.found: dict[Key, Change] = {}
        self.frames = Frames(small)
        self._expected, self._fates = expected, fates
        self._norms = {mixing.module for mixing in fates.found.mixings}
        ours = (WidthNorm, WidthAttention, GatheredLinear)  # they stand where other code was
        self._replaced = {path for path, module in small.named_modules() if isinstance(module, ours)}
        self._calls: dict[Key, int] = {}
        self.place = ""  # the innermost module when something went wrong

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self.place = self.frames.path
        if not sized(name, args, kwargs):
            return func(*args, **kwargs)
        key = self.frames.called(name)
        number = self._calls.get(key, 0)
        self._calls[key] = number + 1
        known = self._expected.get(key, [])
        call = known[number] if number < len(known) else None
        if call is None or key[0] in self._replaced:
            return func(*args, **kwargs)
        return self._fitted(key, call, func, args, kwargs)

    def _fitted(self, key: Key, call: Sized, func: Any, args: Any, kwargs: Any) -> Any:
        """The call as it stands, or as it has to be carried out."""
        by = factor(call.name, args, kwargs)
        if by is not None:
            return self._by_number(key, call, by, func, args, kwargs)
        if call.name == "mean":
            return self._mean(key, call, func, args, kwargs)
        concerned = self._concerned(call)
        try:
            out = func(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return self._again(key, call, func, args, kwargs)
        if not concerned or self._fits(out, call):
            return out
        return self._again(key, call, func, args, kwargs)

    def _by_number(  # noqa: PLR0917  (a call)
        self, key: Key, call: Sized, by: float, func: Any, args: Any, kwargs: Any
    ) -> Any:
        """A scale that is made of a size which has changed stays what it was."""
        before = factor(call.name, call.args, call.kwargs)
        if before is None or by in (before, 0):
            return func(*args, **kwargs)
        edit = self._noted(key, call, Multiplied(before / by))
        source, now = written(call.name, args, kwargs)
        return carried_out(edit.of(now), source)

    def _mean(self, key: Key, call: Sized, func: Any, args: Any, kwargs: Any) -> Any:
        """A mean over an axis of which some goes stays one over all there were (norms are seen to by themselves)."""
        out = func(*args, **kwargs)
        if call.source is None or call.module in self._norms:
            return out
        value = self._fates.found.values[call.source]
        given = kwargs.get("dim", args[1] if len(args) > 1 else None)
        axes = range(len(value.shape)) if given is None else [given] if isinstance(given, int) else given
        ratio = 1.0
        for axis in axes:
            line = self._fates.lines(value)[axis]
            ratio *= 1.0 if line is None else float(line.double().mean())
        if ratio == 1:
            return out
        self._noted(key, call, Averaged(ratio))
        return out * ratio

    def _noted(self, key: Key, call: Sized, edit: Edited) -> Edited:
        """The change; a module that is called several times must need the same each time."""
        known = self.found.setdefault(key, Change(key, edit))
        if known.edit != edit:
            raise StuckError(call)
        return edit

    def _concerned(self, call: Sized) -> bool:
        """Whether anything goes from what the call is made on, or gives."""
        slots = [*call.outs, *([] if call.source is None else [call.source])]
        values = [self._fates.found.values[slot] for slot in slots]
        return any(line is not None for value in values for line in self._fates.lines(value))

    def _fits(self, out: Any, call: Sized) -> bool:
        shapes = [tuple(each.shape) for each in tensors(out)]
        return shapes == [self._fates.shape(self._fates.found.values[slot]) for slot in call.outs]

    def _again(self, key: Key, call: Sized, func: Any, args: Any, kwargs: Any) -> Any:
        source, before = written(call.name, args, kwargs)
        original = Written(call.name, call.args[1:] if source is not None else call.args, call.kwargs)
        try:
            edit = rewritten(before, original, around(call, self._fates))
            out = carried_out(edit.of(before), source)
        except (StuckError, RuntimeError, ValueError, IndexError, TypeError) as error:
            raise StuckError(call) from error
        if not self._fits(out, call):
            raise StuckError(call)
        self._noted(key, call, edit)
        return out


def written(name: str, args: Any, kwargs: Any) -> tuple[Tensor | None, Written]:
    """The tensor that a call is made on, and the call."""
    if args and isinstance(args[0], Tensor):
        return args[0], Written(name, tuple(args[1:]), dict(kwargs))
    if isinstance(kwargs.get("input"), Tensor):
        rest = {key: item for key, item in kwargs.items() if key != "input"}
        return kwargs["input"], Written(name, tuple(args), rest)
    return None, Written(name, tuple(args), dict(kwargs))


def carried_out(call: Written, source: Tensor | None) -> Any:
    """The call itself."""
    if call.name == "pad" or call.name in CONVOLUTIONS:
        out = getattr(nn.functional, call.name)(source, *call.args, **call.kwargs)
    else:
        out = getattr(torch if source is None else source, call.name)(*call.args, **call.kwargs)
    return out if call.scale == 1 else out * call.scale


def follow(small: nn.Module, call: Callable[[], Any], fates: Fates, *, attributes: bool = True) -> list[str]:
    """Bring the sizes in the code of ``small`` in line: by attributes where they explain all changes of a module,
    otherwise (or always) on the fly. Returns a line for the report for each kind of change. Raises StuckError.
    """
    try:
        return _followed(small, call, fates, attributes)
    finally:
        for known in _rewritings(small):
            known.stale = None


def _followed(small: nn.Module, call: Callable[[], Any], fates: Fates, attributes: bool) -> list[str]:
    wanted = changes(small, call, fates)
    if not wanted:
        return []
    by_module: dict[str, list[Change]] = {}
    for change in wanted:
        by_module.setdefault(change.key[0], []).append(change)
    set_: dict[str, dict[str, tuple[int, int]]] = {}
    for path, found in by_module.items():
        module = small.get_submodule(path)
        set_[path] = _attributes(module, found) if attributes else {}
        for name, (_, new) in set_[path].items():
            setattr(module, name, new)
    try:
        left = changes(small, call, fates) if any(set_.values()) else wanted
    except StuckError:
        left = None
    spoiled = set(by_module) if left is None else {change.key[0] for change in left}
    for path in spoiled & set(by_module):
        for name, (old, _) in set_[path].items():
            setattr(small.get_submodule(path), name, old)
        set_[path] = {}
    last = left if left is not None and not (spoiled & set(by_module)) else changes(small, call, fates)
    shims: dict[str, dict[tuple[str, int], Edited]] = {}
    for change in last:
        path, name, number = change.key
        shims.setdefault(path, {})[name, number] = change.edit
    for path, calls in shims.items():
        Rewriting.on(small.get_submodule(path), calls)
    return _told(set_, shims)


def _told(set_: Mapping[str, Mapping[str, tuple[int, int]]], shims: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{path or 'the model'}: " + ", ".join(f"{name} {old} -> {new}" for name, (old, new) in found.items())
        for path, found in set_.items()
        if found
    ]
    return lines + [f"{path or 'the model'}: sizes in its code are rewritten on the fly" for path in shims]


def _attributes(module: nn.Module, found: list[Change]) -> dict[str, tuple[int, int]]:
    """Attributes whose numbers stand in the calls that change, with their new ones."""
    pairs: dict[int, set[int]] = {}
    for change in found:
        for old, new in change.edit.numbers:
            pairs.setdefault(old, set()).add(new)
    new_ones: dict[str, tuple[int, int]] = {}
    for name, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, bool) and len(pairs.get(value, ())) == 1:
            new = next(iter(pairs[value]))
            if new != value:
                new_ones[name] = (value, new)
    return new_ones


@dataclass(eq=False)
class Rewriting:
    """Carries out some calls of a module's own code with other sizes than are written there, by name and number.

    depth  how many modules within it are running: their calls are not its own
    stale  while the model is fitted: calls that an earlier compaction has changed, and whose sizes are others now
    """

    calls: dict[tuple[str, int], Edited]
    depth: int = 0
    stale: set[tuple[str, int]] | None = None
    _modes: list[Any] = field(default_factory=list)

    @classmethod
    def on(cls, module: nn.Module, calls: dict[tuple[str, int], Edited]) -> None:
        """Put it on a module; copies of the module have it as well."""
        known = getattr(module, "actprune_sizes", None)
        if isinstance(known, Rewriting):
            for place, edit in calls.items():
                goes_on = place in known.calls and place not in (known.stale or ())
                known.calls[place] = Chained(known.calls[place], edit) if goes_on else edit
            return
        made = cls(calls)
        module.__dict__["actprune_sizes"] = made
        module.register_forward_pre_hook(_enter, prepend=True)
        module.register_forward_hook(_leave, always_call=True)
        for inner in module.modules():
            if inner is not module:
                made._watch(inner)

    def _watch(self, inner: nn.Module) -> None:
        if "actprune_within" not in inner.__dict__:
            inner.__dict__["actprune_within"] = []
            inner.register_forward_pre_hook(_deeper, prepend=True)
            inner.register_forward_hook(_higher, always_call=True)
        inner.__dict__["actprune_within"].append(self)


def _enter(module: nn.Module, inputs: Any) -> None:
    own = module.actprune_sizes
    assert isinstance(own, Rewriting)
    mode = _Rewritten(own)
    own._modes.append((mode, own.depth))
    own.depth = 0
    mode.__enter__()  # type: ignore[no-untyped-call]


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    own = module.actprune_sizes
    assert isinstance(own, Rewriting)
    mode, own.depth = own._modes.pop()
    mode.__exit__(None, None, None)


def _deeper(module: nn.Module, inputs: Any) -> None:
    for each in module.__dict__["actprune_within"]:
        each.depth += 1


def _higher(module: nn.Module, inputs: Any, output: Any) -> None:
    for each in module.__dict__["actprune_within"]:
        each.depth -= 1


class _Rewritten(TorchFunctionMode):
    def __init__(self, own: Rewriting) -> None:
        super().__init__()
        self._own, self._made = own, Counter[str]()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self._own.depth or not sized(name, args, kwargs or {}):
            return func(*args, **(kwargs or {}))
        place = name, self._made[name]
        edit = self._own.calls.get(place)
        self._made[name] += 1
        if edit is None:
            return func(*args, **(kwargs or {}))
        source, call = written(name, args, kwargs or {})
        try:
            call = edit.of(call)
        except StuckError:
            if self._own.stale is None:
                raise CompactionError(
                    f"{name}{tuple(call.args)} stands in code whose sizes compact() has rewritten, and does not go "
                    "with them; send inputs like the example, or compact with an example like this one"
                ) from None
            self._own.stale.add(place)  # as it stands: it is fitted anew
            return func(*args, **(kwargs or {}))
        return carried_out(call, source)
