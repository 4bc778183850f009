"""L5: how every baseline of a comparison is trained; the one place where these figures stand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from actprune.errors import RecipeError

MOST_PRUNING_STEPS = 8


@dataclass(frozen=True)
class Training:
    """SGD with momentum, a cosine learning rate down to zero, and always all epochs: the same steps for everybody.

    The weights of the last epoch count, neither those of the best one nor an early stop, so that no baseline gains from
    looking at the validation data more often than another. Raises RecipeError for fewer than two epochs, or an empty
    batch.
    """

    epochs: int = 12
    lr: float = 0.1
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.epochs < 2:
            raise RecipeError(
                f"--epochs {self.epochs} cannot be used; expected at least 2: one to prune, one to recover"
            )
        if self.batch_size < 1:  # before anybody divides by it
            raise RecipeError(f"--batch-size {self.batch_size} cannot be used; expected at least 1 example per step")

    @property
    def pruning_steps(self) -> int:
        """Of a gradual baseline: at most one per epoch of the first half."""
        return max(1, min(MOST_PRUNING_STEPS, self.epochs // 2))

    def rounds(self, wanted: int, lengths: int = 1) -> int:
        """Equal shares of the epochs, as many as divide them and lie nearest to ``wanted``."""
        epochs = self.epochs * lengths
        return min((n for n in range(2, epochs + 1) if epochs % n == 0), key=lambda n: abs(n - wanted))

    def settings(self) -> dict[str, Any]:
        """Fields of a ``RunConfig``."""
        return {
            "optimizer": "sgd",
            "momentum": self.momentum,
            "lr": self.lr,
            "lr_schedule": "cosine",
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
            "max_epochs": self.epochs,
            "full_length": True,
            "patience": 0,
            "restore_best": False,
            "threads": 1,
        }

    def __str__(self) -> str:
        return (
            f"{self.epochs} epochs of sgd, lr {self.lr:g} (cosine to 0), momentum {self.momentum:g}, "
            f"weight decay {self.weight_decay:g}, batch {self.batch_size}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
