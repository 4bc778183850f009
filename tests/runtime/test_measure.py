"""Timing with callables whose durations are known, on a clock that only they move."""

import gc

import pytest

from actprune.runtime.measure import FEWEST, MOST, SAMPLE, measure


class World:
    """A clock and callables that take known times."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def takes(self, name, *seconds):
        turn = iter(range(10**9))

        def run(x):
            self.calls.append((name, x))
            self.now += seconds[next(turn) % len(seconds)]

        return run


def test_medians_are_the_known_durations():
    world = World()
    runs = {"fast": world.takes("fast", 2e-6), "slow": world.takes("slow", 3e-3)}
    times = measure(runs, ["x"], min_seconds=0.5, clock=world.clock)
    assert times["fast"].median == pytest.approx(2e-6)
    assert times["slow"].p95 == pytest.approx(3e-3)
    assert times["slow"].calls == 1
    assert times["fast"].calls * 2e-6 >= SAMPLE * 0.99
    assert world.now >= 1.0


def test_rounds_are_interleaved_and_everybody_is_sampled_alike():
    world = World()
    runs = {name: world.takes(name, 1e-3) for name in "abc"}
    times = measure(runs, [0], min_seconds=0.1, clock=world.clock)
    assert len({time.samples for time in times.values()}) == 1
    rounds = [name for name, _ in world.calls[-60:]]
    assert rounds[::2] == rounds[1::2]  # one call to warm up, one that is timed
    trios = [tuple(rounds[i : i + 6 : 2]) for i in range(0, 60, 6)]
    assert all(sorted(trio) == ["a", "b", "c"] for trio in trios)
    assert len(set(trios)) > 1  # in a new order each round


def test_percentiles_see_the_outliers_and_medians_do_not():
    world = World()
    times = measure({"a": world.takes("a", *[1e-3] * 8, 9e-3)}, [0], min_seconds=2.0, clock=world.clock)
    assert times["a"].median == pytest.approx(1e-3)
    assert times["a"].p95 == pytest.approx(9e-3)


def test_the_first_call_of_a_sample_is_not_timed():
    world = World()
    times = measure({"cold then warm": world.takes("a", 9e-3, 1e-3)}, [0], min_seconds=0.5, clock=world.clock)
    assert times["cold then warm"].p95 == pytest.approx(1e-3)


def test_slow_calls_get_few_rounds_and_fast_ones_end():
    world = World()
    assert measure({"a": world.takes("a", 5.0)}, [0], min_seconds=0.1, clock=world.clock)["a"].samples == FEWEST
    assert measure({"a": world.takes("a", 1e-4)}, [0], min_seconds=1e9, clock=world.clock)["a"].samples == MOST


def test_inputs_take_turns():
    world = World()
    measure({"a": world.takes("a", 1e-6)}, ["x", "y", "z"], min_seconds=0.001, clock=world.clock)
    tail = [x for _, x in world.calls[-20:]]
    assert set(tail) == {"x", "y", "z"}


def test_garbage_collection_waits_and_comes_back_even_after_an_error():
    seen = []

    def run(_):
        seen.append(gc.isenabled())
        if len(seen) > 20:
            raise KeyError("broken")

    with pytest.raises(KeyError):
        measure({"a": run}, [0], min_seconds=1.0)
    assert not seen[-1]
    assert gc.isenabled()


def test_nothing_to_time():
    assert measure({}, [0]) == {}
    with pytest.raises(ValueError, match="no inputs"):
        measure({"a": print}, [])
