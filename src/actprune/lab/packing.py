"""L5: ``actprune pack``: a run's network in as few bytes as its validation accuracy allows, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actprune.artifact import Info, SharedWeights, Tried, inspect, pack, save
from actprune.artifact.pack import CANDIDATES
from actprune.errors import RecipeError
from actprune.lab import shipped
from actprune.lab.codebooks import fine_tune
from actprune.lab.evaluate import evaluate
from actprune.lab.shipped import FinishedRun
from actprune.program import Program

TRAINED = ("shared2", "shared3", "shared4", "shared5", "shared6", "fp16", "fp32")  # integers are not fine-tuned
Say = Callable[[str], object]


@dataclass(frozen=True, eq=False)
class PackedRun:
    """What packing came to.

    sizes             bytes of the file after each step, from the dense network to the packed one
    validation, test  accuracy (0..1) before and after packing; the test set is read for these two figures only
    dense             validation accuracy of the network just before its first pruning, which sizes are compared with;
                      None: the run pruned before it trained
    """

    path: Path
    info: Info
    program: Program
    tried: tuple[Tried, ...]
    sizes: dict[str, int]
    validation: tuple[float, float]
    test: tuple[float, float]
    dense: float | None

    @property
    def dense_bytes(self) -> int:
        """Of the network as it was trained, in float32."""
        return next(iter(self.sizes.values()))


def pack_run(
    run: FinishedRun,
    *,
    max_loss: float,
    epochs: int,
    seed: int = 0,
    out: Path | None = None,
    say: Say = lambda _: None,
    refine: float = 0.05,
) -> PackedRun:
    """Compact, then try coarser and coarser codebooks, each fine-tuned; write the smallest file that is good enough.

    max_loss  a fraction of the validation accuracy (0.001 is a tenth of a point)
    epochs    of each fine-tuning; 0: nothing is trained, only rounded
    refine    single tensors with at least this fraction of all values are tried coarser than the rest
    """
    if run.config.task == "autoencode":
        raise RecipeError(
            f"packing goes by accuracy, and the run in {run.folder} is an autoencoder; use actprune.save, or "
            "actprune.artifact.pack with a measure of its own"
        )
    small = shipped.small(run).model
    assert isinstance(small, Program)
    compacted = save(small, run.folder / shipped.SMALL, about=run.about())
    found = pack(
        small,
        lambda program: evaluate(program, run.dataset.validation).accuracy,
        max_loss=max_loss,
        candidates=TRAINED if epochs else CANDIDATES,
        tune=_tuner(run, small, epochs, seed, say) if epochs else None,
        refine=refine,
        about=run.about(),
    )
    path = found.save(out or run.folder / shipped.PACKED)
    trained = (run.folder / "model.safetensors").stat().st_size
    return PackedRun(
        path,
        inspect(path),
        found.program,
        tuple(found.tried),
        {"dense, float32": trained, "masked (zeros stored)": trained, "compacted, float32": compacted.stat().st_size,
         "packed": path.stat().st_size},
        (found.before, found.accuracy),
        (evaluate(small, run.dataset.test).accuracy, evaluate(found.program, run.dataset.test).accuracy),
        (run.summary["dense"] or {}).get("validation_accuracy"),
    )  # fmt: skip


def _tuner(
    run: FinishedRun, small: Program, epochs: int, seed: int, say: Say
) -> Callable[[Program, SharedWeights], None]:
    """Every candidate starts from the weights as they were trained, not from those of a coarser attempt."""
    start: Mapping[str, Any] = {name: tensor.clone() for name, tensor in small.state_dict().items()}

    def tune(program: Program, shared: SharedWeights) -> None:
        widths = sorted(set(shared.bits.values()))
        say(f"fine-tuning codebooks of {' and '.join(map(str, widths))} bits, {epochs} epochs")
        program.load_state_dict(start)
        train, validation = run.dataset.train, run.dataset.validation
        batch = run.config.batch_size
        fine_tune(program, shared.bits, train, validation, epochs=epochs, batch_size=batch, seed=seed)
        shared.reassign()

    return tune
