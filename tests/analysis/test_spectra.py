"""Singular values before and after: relative change, its slope, its interval, and which penalty explains it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune import analysis
from actprune.analysis import Interval, fit_penalties, interval, relative_change, slope, verdict
from actprune.analysis.student import t_quantile
from actprune.errors import ModelError, RecipeError


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def ladder(n=20, low=0.5, high=3.0):
    return torch.linspace(high, low, n, dtype=torch.float64)


# ---- singular values ----------------------------------------------------------------------------------------------


def test_singular_values_are_those_of_numpy_also_for_convs_and_half_precision():
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.svd(weight.flatten(1).double().numpy(), compute_uv=False)
    found = analysis.singular_values(weight)
    assert found.dtype == torch.float64
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert torch.equal(analysis.singular_values(weight.half()), analysis.singular_values(weight.half().float()))
    for bad in (torch.ones(3), torch.full((2, 2), torch.nan)):
        with pytest.raises(ModelError):
            analysis.singular_values(bad)


def test_ranks_of_stored_values_are_those_of_the_weight():
    weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)) @ torch.randn(3, 9)
    assert analysis.ranks_of(analysis.singular_values(weight), (6, 9)) == analysis.ranks(weight)
    assert analysis.ranks_of(values(), (0, 4)) == {"numerical": 0, "stable": 0.0, "effective": 0.0}


def test_relative_change_keeps_what_pruning_removed_and_the_article_drops_it():
    before, after = values(10.0, 5.0, 2.0, 0.0005), values(9.0, 2.5, 0.0, 0.0)
    found = relative_change(before, after)
    assert found.percent.tolist() == pytest.approx([-10, -50, -100])
    assert found.position.tolist() == [0, 0.5, 1]
    assert found.dropped == 1
    article = relative_change(before, after, "article")
    assert article.percent.tolist() == pytest.approx([-10, -50])
    assert article.dropped == 2


def test_bad_spectra_are_refused():
    for before, after in ((values(1, 2), values(2, 1)), (values(2, 1), values(1.0)), (values(math.nan), values(1))):
        with pytest.raises(ModelError, match="singular values"):
            relative_change(before, after)
    with pytest.raises(ModelError):
        relative_change(torch.ones(2, 2), torch.ones(2, 2))


# ---- slope and verdict --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.floats(-60, 10), st.floats(-40, 40), st.sampled_from(["least_squares", "theil_sen"]))
def test_the_slope_of_a_line_is_its_rise_from_first_to_last(start, rise, how):
    before = ladder()
    percent = start + rise * torch.linspace(0, 1, 20, dtype=torch.float64)
    change = analysis.Change(torch.arange(20), torch.linspace(0, 1, 20, dtype=torch.float64), percent, 0)
    assert slope(change, how) == pytest.approx(rise, abs=1e-8)
    assert len(relative_change(before, before).percent) == 20


def test_uniform_scaling_has_no_slope_and_constant_drops_a_negative_one():
    before = ladder()
    assert slope(relative_change(before, 0.6 * before)) == pytest.approx(0, abs=1e-9)
    assert slope(relative_change(before, before - 0.3)) < -20  # NNM: the same amount is more of a small value
    assert slope(relative_change(before, before - before.square() / 10)) > 5
    assert math.isnan(slope(relative_change(values(1.0), values(0.5))))


def test_theil_sen_ignores_an_outlier():
    before = ladder(40)
    after = 0.5 * before
    after[0] = before[0]
    change = relative_change(before, after)
    assert abs(slope(change, "theil_sen")) < 1e-9 < 1 < abs(slope(change))


def test_random_masks_of_a_flat_spectrum_shrink_it_evenly():
    torch.manual_seed(0)
    weight = torch.randn(100, 300)
    masked = weight * (torch.rand(100, 300) < 0.5)
    change = relative_change(analysis.singular_values(weight), analysis.singular_values(masked))
    assert abs(slope(change)) < 3
    assert float(change.percent.mean()) == pytest.approx(100 * (0.5**0.5 - 1), abs=2)


def test_t_quantiles_are_those_of_scipy():
    from scipy import stats

    for freedom in range(1, 15):
        for p in (0.8, 0.9, 0.975, 0.995):
            assert t_quantile(p, freedom) == pytest.approx(float(stats.t.ppf(p, freedom)), rel=1e-9)


def test_the_interval_is_students_and_needs_three_seeds():
    found = interval([1.0, 2.0, 4.0])
    half = 4.302652729911275 * np.std([1, 2, 4], ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((7 / 3 - half, 7 / 3 + half))
    assert interval([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 3)
    for bad in ([1.0, 2.0], [1.0, 2.0, math.nan]):
        with pytest.raises(RecipeError, match="three seeds"):
            interval(bad)


def test_verdicts():
    assert verdict(Interval(-10, -15, -5, 3)) == "weighted"
    assert verdict(Interval(10, 5, 15, 3)) == "inverse"
    assert verdict(Interval(0, -5, 5, 3)) == "uniform"
    assert verdict(Interval(0, -5, 5, 3), margin=2) == "undecided"
    assert verdict(Interval(0, -1, 1.5, 3), margin=2) == "uniform"
    assert verdict(Interval(-1, -1.5, -0.5, 3), margin=2) == "uniform"  # real, and too small to matter
    assert verdict(Interval(-3, -5, -1, 3), margin=2) == "weighted"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = sum(found.low <= 3 <= found.high for found in (interval(generator.normal(3, 2, 5)) for _ in range(400)))
    assert 0.91 < hits / 400 < 0.985


# ---- penalties ----------------------------------------------------------------------------------------------------


def test_constant_drops_are_nnm_and_rising_ones_wnnm():
    before = ladder()
    nnm = fit_penalties(before, (before - 0.7).clamp(min=0))
    assert nnm.nnm < 0.01
    assert nnm.constant == pytest.approx(0.7, abs=0.01)
    rising = 0.1 + 0.8 * torch.linspace(0, 1, 20, dtype=torch.float64)
    wnnm = fit_penalties(before, torch.minimum(before, (before - rising).clamp(min=0)))
    assert wnnm.wnnm < 0.02 < 0.2 < wnnm.nnm
    assert (wnnm.start, wnnm.growth) == pytest.approx((0.1, 0.8), abs=0.05)
    assert wnnm.weighted > 0.95


def test_falling_drops_are_neither_and_nothing_lost_is_no_error():
    before = ladder()
    falling = fit_penalties(before, 0.5 * before)  # as random masks do: more off the large ones
    assert falling.growth == pytest.approx(0, abs=1e-6)
    assert falling.weighted == pytest.approx(0, abs=1e-6)
    assert falling.nnm > 0.2
    assert fit_penalties(before, before).nnm == 0
