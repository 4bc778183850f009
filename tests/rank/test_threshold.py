"""The exact cut: equal to joining and sorting everything, in bounded memory, whatever the layers look like."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.errors import BudgetError, ModelError
from actprune.rank import threshold, ties
from actprune.rank.threshold import Scored, lowest

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def naive(pieces, need, seed):
    """Join, sort by (score, tie key), take the shortest prefix whose cost reaches ``need``."""
    ints = all(not piece.scores.is_floating_point() for piece in pieces)
    scores, keys, costs, places = [], [], [], []
    for number, piece in enumerate(pieces):
        units = piece.scores.numel()
        flat = piece.scores.reshape(-1)
        alive = torch.ones(units, dtype=torch.bool) if piece.alive is None else piece.alive.reshape(-1)
        cost = torch.full((units,), piece.cost) if isinstance(piece.cost, int) else piece.cost.reshape(-1)
        scores.append((flat if ints else flat.double())[alive].numpy())
        keys.append(ties.unit_keys(piece.name, units, seed, torch.device("cpu"))[alive].numpy())
        costs.append(cost[alive].numpy())
        places.append(np.stack([np.full(units, number), np.arange(units)], 1)[alive.numpy()])
    order = np.lexsort((np.concatenate(keys), np.concatenate(scores)))
    reached = np.concatenate(costs)[order].cumsum()
    going = np.concatenate(places)[order[: int(np.searchsorted(reached, need)) + 1]] if need > 0 else []
    removed = {piece.name: torch.zeros(piece.scores.shape, dtype=torch.bool) for piece in pieces}
    for number, unit in going:
        removed[pieces[number].name].view(-1)[unit] = True
    return removed


def same(found, expected):
    return all(torch.equal(found[name], expected[name]) for name in expected) and found.keys() == expected.keys()


@st.composite
def contests(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pieces = []
    for number in range(draw(st.integers(1, 4))):
        shape = (int(rng.integers(1, 40)), int(rng.integers(1, 30)))
        dtype = draw(st.sampled_from(DTYPES))
        kind = draw(st.sampled_from(("normal", "few", "one", "infinite", "expanded")))
        values = torch.tensor(rng.normal(size=shape) * 3)
        if kind == "few":
            values = values.round()
        if kind == "one":
            values = torch.ones(shape, dtype=torch.float64)
        if kind == "expanded":
            values = values[:, :1]
        scores = values.to(dtype)
        if kind == "infinite" and dtype != torch.int64:
            scores[torch.tensor(rng.random(shape) < 0.3)] = math.inf
            scores[torch.tensor(rng.random(shape) < 0.3)] = -math.inf
        scores = scores.expand(shape)
        cost = draw(st.sampled_from((1, 3, None)))
        cost = torch.tensor(rng.integers(1, 9, size=shape)) if cost is None else cost
        alive = torch.tensor(rng.random(shape) < 0.7) if draw(st.booleans()) else None
        pieces.append(Scored(f"layer{number}.weight", scores, cost, alive))
    total = sum(threshold.competing_cost(piece) for piece in pieces)
    return pieces, draw(st.integers(0, total)), draw(st.integers(-3, 2**70))


@settings(max_examples=120, deadline=None)
@given(contests(), st.sampled_from((7, 64, 1 << 17)), st.sampled_from((4, 100, 1 << 20)))
def test_equals_the_naive_reference_for_any_chunk_and_buffer_size(contest, chunk, limit):
    pieces, need, seed = contest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "CHUNK", chunk)
        patch.setattr(threshold, "LIMIT", limit)
        found = lowest(lambda: pieces, need, seed)
    assert same(found.removed, naive(pieces, need, seed))


@pytest.mark.parametrize("levels", [1, 2, 33])
def test_heavy_ties_end_with_a_small_buffer(monkeypatch, levels):
    monkeypatch.setattr(threshold, "LIMIT", 300)
    torch.manual_seed(0)
    pieces = [Scored(f"l{i}", torch.randint(0, levels, (80, 1)).expand(80, 125), 1) for i in range(3)]
    for need in (1, 15_000, 27_000, 29_999, 30_000):
        found = lowest(lambda: pieces, need, 5)
        assert found.cost == need == sum(int(mask.sum()) for mask in found.removed.values())
        assert same(found.removed, naive(pieces, need, 5))


def test_the_buffers_stay_bounded_and_few_reads_suffice(monkeypatch):
    monkeypatch.setattr(threshold, "LIMIT", 20_000)
    sizes = []
    thinned = threshold._Sample.add
    monkeypatch.setattr(
        threshold._Sample, "add", lambda self, *arguments: (thinned(self, *arguments), sizes.append(self._count))[0]
    )
    torch.manual_seed(0)
    layers = {f"l{i}": torch.randn(1000, 500).abs() * (i + 1) for i in range(4)}
    reads = []

    def pieces():
        reads.append(1)
        for name, scores in layers.items():
            yield Scored(name, scores, 1)

    found = lowest(pieces, 1_800_000, 0)
    assert found.cost == 1_800_000
    assert max(sizes) <= 20_000
    assert len(reads) <= 4
    last = max(scores[found.removed[name]].max() for name, scores in layers.items())
    assert last <= min(scores[~found.removed[name]].min() for name, scores in layers.items())


def test_only_one_layer_of_scores_exists_at_a_time():
    alive = []

    def pieces():
        for number in range(4):
            gc.collect()
            assert [ref for ref in alive if ref() is not None] == []
            generator = torch.Generator().manual_seed(number)
            scores = torch.rand(300, 300, generator=generator)
            alive.append(weakref.ref(scores))
            piece = Scored(f"l{number}", scores, 1)
            del scores
            yield piece
            del piece

    assert lowest(pieces, 200_000, 0).cost == 200_000


def test_ties_are_seeded_and_do_not_depend_on_the_order_of_the_layers():
    pieces = [Scored(name, torch.ones(40, 50), 1) for name in ("a", "b", "c")]
    first = lowest(lambda: pieces, 3000, 1).removed
    assert same(lowest(lambda: pieces[::-1], 3000, 1).removed, first)
    assert same(lowest(lambda: pieces, 3000, 1).removed, first)
    assert not same(lowest(lambda: pieces, 3000, 2).removed, first)
    assert all(800 < int(mask.sum()) < 1200 for mask in first.values())  # spread like coin tosses, not by layer


def test_the_lowest_go_first_by_hand():
    pieces = [
        Scored("a", torch.tensor([3.0, -math.inf, 0.5]), 2),
        Scored("b", torch.tensor([1, 4], dtype=torch.int64), torch.tensor([5, 1])),
    ]
    removed = lowest(lambda: pieces, 5, 0)  # -inf (2), 0.5 (2), 1 (5): reached at 9
    assert removed.cost == 9
    assert removed.removed["a"].tolist() == [False, True, True]
    assert removed.removed["b"].tolist() == [True, False]


def test_large_integers_are_compared_exactly():
    big = 2**60
    removed = lowest(lambda: [Scored("a", torch.tensor([big + 1, big, big + 2]), 1)], 1, 0).removed["a"]
    assert removed.tolist() == [False, True, False]


def test_nothing_to_remove_and_everything_to_remove():
    pieces = [Scored("a", torch.randn(5, 5), 1)]
    assert not lowest(lambda: pieces, 0, 0).removed["a"].any()
    assert lowest(lambda: pieces, 25, 0).removed["a"].all()
    with pytest.raises(BudgetError, match="26; only 25"):
        lowest(lambda: pieces, 26, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_nan_scores_name_the_layer(dtype):
    bad = torch.ones(100, 50, dtype=dtype)
    bad[70, 3] = math.nan
    bad[0, 0] = math.inf
    with pytest.raises(ModelError, match=r"1 of 5000 scores of 'fc2' are NaN"):
        lowest(lambda: [Scored("fc1", torch.ones(3, 3), 1), Scored("fc2", bad, 1)], 5, 0)


def test_keys_are_splitmix64():
    # First outputs of splitmix64 started at 0 (Vigna's reference): the state is the seed plus the golden ratio.
    mix = ties._mix_int(0)
    assert mix == 0xE220A8397B1DCDAF
    expected = ties._signed(ties._mix_int((7 + mix) % 2**64))
    assert ties.keys(torch.tensor([7]), 0).item() == expected
    assert len(ties.keys(torch.arange(100_000), 3).unique()) == 100_000


def test_clashing_layer_names_get_slots_of_their_own(monkeypatch):
    monkeypatch.setattr(ties.zlib, "crc32", lambda _: 2**31 - 1)
    assert ties.slots(["b", "a", "c"]) == {"a": 2**31 - 1, "b": 0, "c": 1}
