"""Hooks that do not follow the model around: copies and pickles of a hooked model carry an inert one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _nothing(*_: Any) -> None:
    """What a hook becomes in a copy of the model."""


def _inert() -> Callable[..., None]:
    return _nothing


class Hook:
    """A module hook. Deep copies (an EMA model) and pickles of the module get a function that does nothing."""

    def __init__(self, run: Callable[..., None]) -> None:
        self.run = run

    def __call__(self, *args: Any) -> None:
        """Called by the module."""
        self.run(*args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _inert, ()
