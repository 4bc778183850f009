"""Hooks of ours that do not follow the model around, and forwards of ours that the user's hooks do not see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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


@contextmanager
def unhooked(root: nn.Module, home: str | None = None) -> Iterator[None]:
    """Inside the block a forward of ``root`` does not call the user's hooks, which may collect or print what they see.

    Those that are part of a layer stay: weight_norm and spectral_norm make the weight in one, FSDP gathers it.
    home: only the hooks of this package go.
    """
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    everywhere = nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks
    own = [hooks for module in root.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks)]
    for hooks in (*everywhere, *own):
        before = dict(hooks)
        for key, hook in before.items():
            if not _of_a_layer(hook) if home is None else _home(hook).startswith(home):
                del hooks[key]
        taken.append((hooks, before))
    try:
        yield
    finally:
        for hooks, before in taken:
            added = {key: hook for key, hook in hooks.items() if key not in before}
            hooks.clear()
            hooks.update({**before, **added})


def hooked(root: nn.Module) -> list[str]:
    """Paths of modules on which the user has put forward hooks."""
    return [
        path
        for path, module in root.named_modules()
        if any(
            not _of_a_layer(hook) and not isinstance(hook, Hook)
            for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        )
    ]


def _of_a_layer(hook: Any) -> bool:
    """Whether PyTorch or we have put the hook on as part of what a layer computes; an observer's ``Hook`` is not."""
    return _home(hook).partition(".")[0] in ("torch", "actprune") and not isinstance(hook, Hook)


def _home(hook: Any) -> str:
    """The package that a hook is from."""
    function = getattr(hook, "__func__", hook)
    return getattr(function, "__module__", None) or type(hook).__module__
