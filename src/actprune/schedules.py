"""L1: when to prune and how far. Pure functions of ``Progress``; every class is frozen and serialisable."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from actprune.errors import ObservationError, RecipeError
from actprune.types import Progress


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecipeError(message)


@dataclass(frozen=True)
class OneShot:
    """All at once: when ``prune()`` is called, or by itself after ``at_step`` optimizer steps."""

    at_step: int | None = None

    @property
    def pruning_steps(self) -> int:
        """One."""
        return 1

    def due(self, progress: Progress) -> bool:
        """True once ``at_step`` is reached."""
        return self.at_step is not None and progress.pruning_step == 0 and progress.step >= self.at_step

    def target(self, progress: Progress, final: float) -> float:
        """The whole budget."""
        return final


@dataclass(frozen=True)
class Cubic:
    """Gradual pruning, s_t = s_f - s_f (1 - (t - begin)/(end - begin))^3, every ``every`` steps.

    Source: Zhu & Gupta 2017 (arXiv 1710.01878), equation 1 with s_i = 0.
    """

    begin: int
    end: int
    every: int = 100

    def __post_init__(self) -> None:
        ok = 0 <= self.begin < self.end and 1 <= self.every <= self.end - self.begin
        _require(ok, f"cubic schedule needs 0 <= begin < end and 1 <= every <= end - begin; found {self}")

    @property
    def pruning_steps(self) -> int:
        """Number of pruning steps between begin and end."""
        return -(-(self.end - self.begin) // self.every)

    def _step_of(self, pruning_step: int) -> int:
        return min(self.begin + (pruning_step + 1) * self.every, self.end)

    def due(self, progress: Progress) -> bool:
        """True when the step of the next pruning step is reached."""
        return progress.pruning_step < self.pruning_steps and progress.step >= self._step_of(progress.pruning_step)

    def target(self, progress: Progress, final: float) -> float:
        """Sparsity on the cubic curve at the planned step of this pruning step."""
        done = (self._step_of(min(progress.pruning_step, self.pruning_steps - 1)) - self.begin) / (
            self.end - self.begin
        )
        return final * (1.0 - (1.0 - done) ** 3)


@dataclass(frozen=True)
class Every:
    """The whole budget at once, then the masks again and again at the same sparsity (RigL, SET).

    The first pruning step is due at step 0: call ``prune()`` before training, or it comes after the first step. The
    others follow every ``every`` steps, up to step ``until``.
    """

    every: int
    until: int

    def __post_init__(self) -> None:
        _require(self.every >= 1, f"schedule needs every >= 1; found {self}")
        _require(self.until >= 0, f"schedule needs until >= 0; found {self}")

    @property
    def pruning_steps(self) -> int:
        """The first, and those that follow."""
        return 1 + self.until // self.every

    def due(self, progress: Progress) -> bool:
        """True when the step of the next pruning step is reached."""
        return progress.pruning_step < self.pruning_steps and progress.step >= progress.pruning_step * self.every

    def target(self, progress: Progress, final: float) -> float:
        """The whole budget."""
        return final


@dataclass(frozen=True)
class EqualSurvivors:
    """The same share of the SURVIVORS is removed in each pruning step: kept = (1 - final)^(i / pruning_steps).

    Source: iterative magnitude pruning, Frankle & Carbin 2019 (arXiv 1803.03635). Due every ``every`` steps, or only
    when ``prune()`` is called (``every=None``).
    """

    pruning_steps: int
    every: int | None = None

    def __post_init__(self) -> None:
        ok = self.pruning_steps >= 1 and (self.every is None or self.every >= 1)
        _require(ok, f"equal-survivors schedule needs pruning_steps >= 1 and every >= 1; found {self}")

    def due(self, progress: Progress) -> bool:
        """True when the step of the next pruning step is reached."""
        if self.every is None or progress.pruning_step >= self.pruning_steps:
            return False
        return progress.step >= (progress.pruning_step + 1) * self.every

    def target(self, progress: Progress, final: float) -> float:
        """1 - (1 - final)^((pruning_step + 1)/pruning_steps); exactly ``final`` in the last pruning step."""
        done = min(progress.pruning_step + 1, self.pruning_steps)
        return final if done == self.pruning_steps else 1.0 - (1.0 - final) ** (done / self.pruning_steps)


@dataclass(frozen=True)
class Decaying:
    """Masks chosen anew again and again, ever more rarely: at step t with probability (1 + gamma t)^(-power).

    Between ``begin`` and ``stop`` (steps), t counted from ``begin``, tried every ``every`` steps; the last time is
    ``stop`` itself. The target rises on a cubic curve during the first ``ramp`` steps (0: it is there at once). Draws
    are a function of seed and step, so that a resumed run makes the same ones.

    Source: dynamic network surgery, Guo et al. 2016 (arXiv 1608.04493) and the authors' code.
    """

    begin: int
    stop: int
    ramp: int = 0
    every: int = 1
    gamma: float = 1e-4
    power: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        ok = 0 <= self.begin < self.stop and 0 <= self.ramp < self.stop - self.begin
        ok = ok and self.every >= 1 and self.gamma >= 0 and self.power >= 0
        _require(ok, f"decaying schedule needs 0 <= begin < stop, 0 <= ramp < stop - begin, every >= 1; found {self}")

    @property
    def pruning_steps(self) -> int:
        """Number of draws that fall on an update."""
        return _hits(self)

    def hits(self, step: int) -> bool:
        """Whether the masks are chosen anew after this step."""
        since = step - self.begin
        if since < 0 or step < 1 or step > self.stop or (since % self.every and step != self.stop):
            return False
        return step == self.stop or _draw(self.seed, step).random() < (1.0 + self.gamma * since) ** -self.power

    def due(self, progress: Progress) -> bool:
        """True at the steps that the draws have chosen."""
        return progress.pruning_step < self.pruning_steps and self.hits(progress.step)

    def target(self, progress: Progress, final: float) -> float:
        """On the cubic curve until ``begin + ramp``, then ``final``."""
        done = 1.0 if not self.ramp else min(1.0, max(0.0, (progress.step - self.begin) / self.ramp))
        return final if done == 1.0 else final * (1.0 - (1.0 - done) ** 3)


def _draw(seed: int, step: int) -> random.Random:
    """A generator of its own for every step."""
    return random.Random(f"{seed}/{step}")  # a text is hashed with SHA-512: the same everywhere


@functools.lru_cache(maxsize=64)
def _hits(schedule: Decaying) -> int:
    return sum(schedule.hits(step) for step in range(schedule.begin, schedule.stop + 1))


def _accuracy(metric: float) -> float:
    """The metric, to compare with accuracies. Raises ObservationError for a percentage, which reaches them all."""
    if metric > 1.0 + 1e-6:
        raise ObservationError(
            f"the reported metric is {metric:g}, and this schedule prunes at accuracies 0..1; report a fraction, such "
            f"as {metric / 100:g} for {metric:g} %"
        )
    return metric


@dataclass(frozen=True)
class AccuracyTriggered:
    """The founding method: pruning i when the training accuracy reaches start + i (stop - start)/pruning_steps.

    Amounts are proportional to decay^i (29.75, 23.80, 19.04, 15.23, 12.18 % of the target for five steps and 0.8).
    Source: Ganguli & Chong 2024, Algorithms 17(1):48, and the authors' code (global scope).
    """

    pruning_steps: int = 5
    start: float = 0.80
    stop: float = 0.98
    decay: float = 0.8

    def __post_init__(self) -> None:
        ok = self.pruning_steps >= 1 and 0.0 <= self.start <= self.stop <= 1.0 and self.decay > 0
        _require(
            ok,
            f"accuracy-triggered schedule needs pruning_steps >= 1, 0 <= start <= stop <= 1, decay > 0; found {self}",
        )

    def threshold(self, pruning_step: int) -> float:
        """Training accuracy (0..1) that triggers pruning number ``pruning_step``."""
        return self.start + pruning_step * (self.stop - self.start) / self.pruning_steps

    def due(self, progress: Progress) -> bool:
        """True when the reported accuracy has reached the next threshold."""
        if progress.metric is None or progress.pruning_step >= self.pruning_steps:
            return False
        return _accuracy(progress.metric) >= self.threshold(progress.pruning_step)

    def target(self, progress: Progress, final: float) -> float:
        """Final * (sum of decay^i up to this pruning step) / (sum over all pruning steps)."""
        done = min(progress.pruning_step + 1, self.pruning_steps)
        if done == self.pruning_steps:
            return final
        return final * sum(self.decay**i for i in range(done)) / sum(self.decay**i for i in range(self.pruning_steps))


@dataclass(frozen=True)
class LayerByLayer:
    """The founding method's local scope: one layer per pruning step.

    Each is due as soon as the accuracy of the last pruning is regained; the first waits for ``start``. Use with
    ``allocation="staged"``. Source: authors' code, ``layer_wise``.
    """

    start: float = 0.80

    def __post_init__(self) -> None:
        _require(0.0 <= self.start <= 1.0, f"layer-by-layer schedule needs 0 <= start <= 1; found {self}")

    @property
    def pruning_steps(self) -> None:
        """One per layer."""
        return None

    def due(self, progress: Progress) -> bool:
        """True when the accuracy is back at the level of the last pruning."""
        wanted = self.start if progress.metric_at_last_prune is None else progress.metric_at_last_prune
        return progress.metric is not None and _accuracy(progress.metric) >= wanted

    def target(self, progress: Progress, final: float) -> float:
        """The full budget for the layer whose turn it is (the allocation picks the layer)."""
        return final
