"""L4: the configuration that a model was built from, brought in line with its new widths, so that what is saved by
``save_pretrained`` is a whole network for ``from_pretrained``. Found by trying: numbers that stand for a width that has
changed are replaced, until a model built from them has the same shapes and computes the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from actprune.compact.plan import Keeps
from actprune.structure import tensors_of

Shapes = dict[str, tuple[int, ...]]
Run = Callable[[nn.Module], list[Tensor]]

_BUILDS = 300  # models built from a configuration at most
_ALIKE = 1e-4  # of the output's scale


@dataclass(frozen=True)
class _Number:
    """A place in a configuration: attribute names and positions in lists, from the configuration itself."""

    path: tuple[str | int, ...]
    value: int | float

    def put(self, config: Any, value: int | float) -> None:
        for step in self.path[:-1]:
            config = config[step] if isinstance(step, int) else getattr(config, step)
        last = self.path[-1]
        if isinstance(last, int):
            config[last] = value
        else:
            setattr(config, last, value)

    def __str__(self) -> str:
        return ".".join(map(str, self.path))


_Settings = dict[_Number, int | float]


def configured(model: nn.Module) -> bool:
    """Whether the model is of the kind that is rebuilt from a configuration."""
    return hasattr(model, "save_pretrained") and hasattr(getattr(model, "config", None), "to_dict")


def reconfigure(own: nn.Module, small: Any, keeps: Keeps, run: Run) -> str | None:
    """Give ``small`` a configuration of its own that says how wide it is.

    keeps: which indices of the axes of every tensor are left. run: outputs of a model on the example.

    Returns a line for the report: what was changed, or why it could not be; None when nothing has to be.
    """
    before, after = _shapes(own), _shapes(small)
    others = _other_modules(own, small)
    if before == after and not others:
        return None
    if others:
        return (
            f"config: stays as it was, so from_pretrained() cannot make the small model: {others}. Where a norm "
            "divides by the width of before, keep that width, by the name of its embedding: "
            "Channel(at_most=(('*embed*', 0.0), ('*', 1.0))); or use exact=False; save() needs no configuration"
        )
    search = _Search(type(small), small.config, small, after, run)
    numbers = list(_numbers(small.config, ()))
    found = search.found(_candidates(numbers, _lines(keeps)), _eps(numbers, own, small))
    if found is None:
        return (
            f"config: stays as it was, so from_pretrained() cannot make the small model: {search.cause}. "
            "Channel(uniform=True) makes the widths of all blocks alike, skip= leaves a layer as wide as it was; "
            "save() needs no configuration"
        )
    small.config = search.with_(found)
    return "config: " + ", ".join(f"{number} {number.value} -> {value}" for number, value in found.items())


def _other_modules(own: nn.Module, small: nn.Module) -> str:
    """Modules that are of another class than they were: no configuration makes those."""
    before = dict(own.named_modules())
    odd = [path for path, module in small.named_modules() if type(module) is not type(before.get(path))]
    return f"{odd[0]} is a {type(small.get_submodule(odd[0])).__name__} now" if odd else ""


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _numbers(config: Any, path: tuple[str | int, ...]) -> Iterator[_Number]:
    """Every number above 1, or below as an eps is, in a configuration and those within it."""
    items = enumerate(config) if isinstance(config, list) else vars(config).items()
    for step, value in items:
        if isinstance(step, str) and step.startswith("_"):
            continue
        here = (*path, step)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield _Number(here, value)
        elif isinstance(value, list) or hasattr(value, "to_dict"):
            yield from _numbers(value, here)


def _lines(keeps: Keeps) -> list[Tensor]:
    """Of every axis that has become shorter, which indices are kept: bool, each pattern once."""
    found: dict[bytes, Tensor] = {}
    for axes in keeps.values():
        for line in axes:
            if line is not None and not bool(line.all()):
                found.setdefault(bytes(line.cpu().numpy()), line.cpu())
    return list(found.values())


def _candidates(numbers: list[_Number], lines: list[Tensor]) -> dict[_Number, list[int]]:
    """What each number might have become: a width, the width of one of equal parts, or the number of such parts."""
    made: dict[_Number, list[int]] = {}
    for number in numbers:
        value = number.value
        if isinstance(value, int) and value > 1:
            found = dict.fromkeys(new for line in lines for new in _became(value, line) if 0 < new != value)
            if found:
                made[number] = list(found)
    return made


def _became(value: int, line: Tensor) -> list[int]:
    """A number that says how long an axis was, as what is left of the axis tells it."""
    if value > len(line) or len(line) % value:
        return []
    found = []
    parts = line.reshape(-1, value)  # of this width
    if bool((parts == parts[:1]).all()):
        found.append(int(parts[0].sum()))
    whole = line.reshape(value, -1)  # so many of them
    if whole.shape[1] > 1 and bool((whole == whole[:, :1]).all()):
        found.append(int(whole[:, 0].sum()))
    return found


def _eps(numbers: list[_Number], own: nn.Module, small: nn.Module) -> dict[_Number, list[float]]:
    """Small numbers of norms that had to be scaled."""
    olds = dict(own.named_modules())
    pairs = {}
    for path, module in small.named_modules():
        for name, new in vars(module).items():
            old = getattr(olds.get(path), name, None)
            if isinstance(new, float) and isinstance(old, float) and new != old:
                pairs[old] = new
    return {number: [pairs[number.value]] for number in numbers if number.value in pairs}


class _Search:
    """``cause``: why the last configuration that was tried does not do."""

    def __init__(self, kind: type[nn.Module], config: Any, small: nn.Module, target: Shapes, run: Run) -> None:
        self._kind, self._config, self._small, self._target, self._run = kind, config, small, target, run
        self._left = _BUILDS
        self.cause = "no number in it stands for the new widths"

    def with_(self, settings: Mapping[_Number, int | float]) -> Any:
        """A copy of the configuration with these numbers."""
        config = copy.deepcopy(self._config)
        for number, value in settings.items():
            number.put(config, value)
        return config

    def found(self, widths: dict[_Number, list[int]], eps: dict[_Number, list[float]]) -> _Settings | None:
        """Settings whose model has the shapes and the outputs of the small one."""
        scaled = {number: found[0] for number, found in eps.items()}
        for shaped in self._shaped(widths):
            # what no shape tells: the eps of a norm, and the number of heads where their width follows from it
            more = [(number, value) for number, found in widths.items() if number not in shaped for value in found]
            for size in (0, 1, 2):
                for chosen in combinations(more, size):
                    settings = {**shaped, **scaled, **dict(chosen)}
                    if len(settings) == len(shaped) + len(scaled) + size and self._same(settings):
                        return settings
        return None

    def _shaped(self, widths: dict[_Number, list[int]]) -> Iterator[_Settings]:
        """Settings that bring every shape in line; several numbers may do (fewer heads, or narrower ones)."""
        at_once: _Settings = {number: found[0] for number, found in widths.items() if len(found) == 1}
        if at_once and self._wrong(at_once) == 0:
            yield self._needed(at_once)
            return
        first = self._descended(widths)
        if first is None:
            return
        yield first
        for number in sorted(first, key=lambda each: each.value):
            other = self._descended({key: found for key, found in widths.items() if key != number})
            if other is not None:
                yield other

    def _descended(self, widths: dict[_Number, list[int]]) -> _Settings | None:
        """One number after the other: always the one that brings most of the shapes in line."""
        settings: _Settings = {}
        wrong = self._wrong(settings)
        while wrong:
            tried = [
                (self._wrong({**settings, number: value}), place, number, value)
                for place, (number, found) in enumerate(widths.items())
                if number not in settings
                for value in found
            ]
            best = min(tried, default=(wrong, 0, None, 0), key=lambda each: each[:2])
            if best[0] >= wrong or best[2] is None:
                self._wrong(settings)  # for the cause
                return None
            wrong, settings = best[0], {**settings, best[2]: best[3]}
        return settings

    def _needed(self, settings: _Settings) -> _Settings:
        """Without what the shapes do not ask for: a number may be equal to a width by chance."""
        for number in list(settings):
            without = {key: value for key, value in settings.items() if key != number}
            if self._wrong(without) == 0:
                settings = without
        return settings

    def _built(self, settings: Mapping[_Number, int | float]) -> nn.Module | None:
        """A model of these settings without any memory; None: its class refuses them."""
        if not self._left:
            self.cause = f"none of {_BUILDS} models built with other numbers was like it"
            return None
        self._left -= 1
        try:
            with torch.device("meta"):
                return self._kind(self.with_(settings))
        except Exception as error:  # whatever the class raises
            self.cause = f"{self._kind.__name__} cannot be built with it ({type(error).__name__}: {error})"
            return None

    def _wrong(self, settings: Mapping[_Number, int | float]) -> int:
        """How many tensors have another shape."""
        built = self._built(settings)
        if built is None:
            return len(self._target) + 1
        shapes = _shapes(built)
        odd = [name for name in {**shapes, **self._target} if shapes.get(name) != self._target.get(name)]
        if odd:
            mine, theirs = self._target.get(odd[0]), shapes.get(odd[0])
            self.cause = f"no number in it makes {odd[0]} {mine or 'go'} (it would be {theirs or 'missing'})"
        return len(odd)

    def _same(self, settings: Mapping[_Number, int | float]) -> bool:
        """Whether the model of these settings computes what the small one does, with its tensors."""
        built = self._built(settings)
        if built is None or _shapes(built) != self._target:
            return False
        mine = tensors_of(self._small)
        built.load_state_dict(self._small.state_dict(), assign=True, strict=False)
        for path, module in built.named_modules():
            for leaf, buffer in module._buffers.items():
                known = mine.get(f"{path}.{leaf}" if path else leaf)
                if buffer is not None and buffer.is_meta and known is not None and known.shape == buffer.shape:
                    module._buffers[leaf] = known
        try:
            expected, got = self._run(self._small), self._run(built.eval())
        except Exception as error:  # whatever the model raises
            self.cause = f"a model built with it does not run ({type(error).__name__}: {error})"
            return False
        self.cause = "a model built with it computes something else (its norms or heads cannot be told by it)"
        return len(expected) == len(got) and all(map(_alike, expected, got))


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = one.detach().abs().max().clamp_min(1e-12) if one.numel() else one.new_ones(())
    return bool(((one - other).abs().max() / scale) <= _ALIKE) if one.numel() else True
