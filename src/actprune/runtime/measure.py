"""L4: timing several callables fairly: in one process, interleaved, in random order, medians and not minima."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

SAMPLE = 100e-6  # seconds one sample should last: a clock's own cost and its steps vanish in it
FEWEST, MOST = 5, 2000  # rounds


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median and 95th percentile over ``samples`` samples of ``calls`` calls each."""

    median: float
    p95: float
    samples: int
    calls: int


def measure(
    runs: Mapping[str, Callable[[Any], object]],
    inputs: Sequence[Any],
    *,
    min_seconds: float = 0.2,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every callable on the same inputs.

    Each round takes one sample of each callable, in a new random order, so that whatever else the machine does hits all
    of them. A sample starts with a call that is not timed, so that everybody runs with warm caches. Calls of some
    microseconds are averaged over an inner loop of at least 100 us; its inputs take turns, for the branch predictor
    would learn a single one by heart. Garbage collection waits meanwhile.

    runs         by name; called with one input
    inputs       at least one
    min_seconds  time to spend per callable, on average; 5 rounds are taken whatever they last

    Raises ValueError without inputs, and whatever a callable raises.
    """
    if not inputs:
        raise ValueError("measure was given no inputs; pass at least one")
    calls = {name: _calls(run, inputs, clock) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, chance = list(runs), random.Random(seed)
    with _no_garbage_collection():
        end = clock() + min_seconds * len(order)
        while order and _go_on(len(samples[order[0]]), clock() < end):
            chance.shuffle(order)
            for name in order:
                feed = _feed(inputs, len(samples[name]), calls[name])
                runs[name](feed[-1])  # not timed: the one before it has emptied the caches, the longer call would pay
                samples[name].append(_sample(runs[name], feed, clock))
    return {name: _timing(found, calls[name]) for name, found in samples.items()}


def _go_on(rounds: int, time_left: bool) -> bool:
    return rounds < FEWEST or (time_left and rounds < MOST)


def _calls(run: Callable[[Any], object], inputs: Sequence[Any], clock: Callable[[], float]) -> int:
    """Warm up, then how many calls one sample needs."""
    for x in islice(cycle(inputs), 3):
        run(x)
    once = min(_sample(run, [x], clock) for x in islice(cycle(inputs), 3))
    return max(1, min(10_000, math.ceil(SAMPLE / max(once, 1e-9))))


def _feed(inputs: Sequence[Any], sample: int, calls: int) -> list[Any]:
    """Inputs of one sample: they go on where those of the sample before it ended."""
    start = sample * calls % len(inputs)
    return list(islice(cycle(inputs), start, start + calls))


def _sample(run: Callable[[Any], object], feed: Sequence[Any], clock: Callable[[], float]) -> float:
    """Seconds per call."""
    start = clock()
    for x in feed:
        run(x)
    return (clock() - start) / len(feed)


def _timing(samples: Sequence[float], calls: int) -> Timing:
    median, p95 = np.percentile(samples, [50, 95])
    return Timing(float(median), float(p95), len(samples), calls)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
