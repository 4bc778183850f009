"""L2: recipes as plain data. ``to_dict`` / ``from_dict`` round-trip every recipe through JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from actprune import criteria, penalties, recover, schedules, types
from actprune.errors import RecipeError, unknown_name

_MODULES = (types, criteria, schedules, recover, penalties)
_CLASSES: dict[str, type[Any]] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}


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
        value = getattr(part, field.name)
        plain = to_dict(value) if dataclasses.is_dataclass(value) else value
        values[field.name] = _listed(plain)
    return values


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


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
