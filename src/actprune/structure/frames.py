"""L2: where a forward is: the innermost module that runs, and how many calls of each name its own code has made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Key = tuple[str, str, int]
"""A call: path of the module whose code makes it, name of the function, how many of that name came before it."""


class Frames:
    """The stack of modules that run. Modules that are not the model's own count as part of whoever calls them.

    left  called with path, inputs and output of a module of the model that has returned
    """

    def __init__(self, model: nn.Module, left: Callable[[str, Any, Any], None] | None = None) -> None:
        self._paths = {id(module): path for path, module in reversed(list(model.named_modules()))}
        self._stack: list[tuple[str, Counter[str]]] = [("", Counter())]
        self._told = left

    @property
    def path(self) -> str:
        """Of the innermost module."""
        return self._stack[-1][0]

    def called(self, name: str) -> Key:
        """Count a call of this name."""
        path, made = self._stack[-1]
        made[name] += 1
        return path, name, made[name] - 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Follow every module inside the block."""
        register = torch.nn.modules.module
        handles = [
            register.register_module_forward_pre_hook(self._entered),
            register.register_module_forward_hook(self._left, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entered(self, module: nn.Module, inputs: Any) -> None:
        path = self._paths.get(id(module))
        self._stack.append(self._stack[-1] if path is None else (path, Counter()))

    def _left(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._stack.pop()
        if self._told is not None and id(module) in self._paths:
            self._told(self._paths[id(module)], inputs, output)
