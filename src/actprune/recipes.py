"""L2: recipes as plain data. ``to_dict`` / ``from_dict`` round-trip every recipe through JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from actprune import coupled, criteria, evidence, penalties, ranked, repair, schedules, scopes, types
from actprune.errors import RecipeError, unknown_name
from actprune.rank import units

_MODULES = (types, scopes, units, coupled, criteria, evidence, schedules, repair, penalties, ranked)
_CLASSES: dict[str, type[Any]] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}


def parts() -> dict[str, type[Any]]:
    """Every class that a recipe may be made of, by name: what ``eval(repr(recipe))`` needs."""
    return dict(_CLASSES)


def register(cls: type[Any]) -> type[Any]:
    """Class decorator: lets a frozen dataclass of your own (criterion, schedule ...) be stored inside a recipe."""
    if not dataclasses.is_dataclass(cls):
        raise RecipeError(f"{cls.__name__} must be a frozen dataclass to be stored in a recipe")
    if _CLASSES.setdefault(cls.__name__, cls) is not cls:
        raise RecipeError(f"another recipe part is already called {cls.__name__}; choose another class name")
    return cls


def to_dict(part: Any) -> dict[str, Any]:
    """A recipe (or a part of one) as plain values, JSON-ready."""
    values: dict[str, Any] = {"type": type(part).__name__}
    for field in dataclasses.fields(part):
        values[field.name] = _plain(getattr(part, field.name))
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def from_dict(stored: dict[str, Any]) -> Any:
    """Inverse of ``to_dict``. Raises RecipeError on unknown types or fields; never imports or runs anything."""
    values = dict(stored)
    name = values.pop("type", "")
    if name not in _CLASSES:
        raise RecipeError(unknown_name("recipe part", name, _CLASSES))
    cls = _CLASSES[name]
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise RecipeError(f"{name} has no field {unknown}; it has {sorted(known)}")
    return cls(**{key: _restored(value) for key, value in values.items()})


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return from_dict(value)
    return tuple(_restored(item) for item in value) if isinstance(value, list) else value
