from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hft_core.studies.statistics import (
    BETTER,
    NO_DIFFERENCE,
    delta_m,
    exact_mcnemar,
    holm,
    paired,
    paired_bootstrap,
    sign_flip_p,
    t_test,
    verdicts,
)

STUDIES = 2_000


def simulated(seeds: int, effect: float, tests: int = 1) -> np.ndarray:
    """The verdict on the first of `tests` comparisons in each of many studies: `[studies]`, or any of them as shown."""
    random = np.random.default_rng((seeds, int(10 * abs(effect)), tests))
    shared = random.normal(scale=3.0, size=(STUDIES, 1, seeds))  # what a seed does to both arms
    reference = shared + random.normal(scale=math.sqrt(0.5), size=(STUDIES, 1, seeds))
    arms = shared + random.normal(scale=math.sqrt(0.5), size=(STUDIES, tests, seeds)) + effect
    differences = arms - reference  # of a standard deviation of 1
    return verdicts(differences.mean(axis=-1), holm(t_test(differences)))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("tests", [1, 6])
def test_equal_arms_show_no_difference_in_95_percent_of_studies(seeds: int, tests: int) -> None:
    nothing = (simulated(seeds, 0.0, tests) == NO_DIFFERENCE).all(axis=-1).mean()
    # Six arms share a reference, so that Holm is on the safe side.
    assert 0.93 <= nothing <= (0.97 if tests == 1 else 1.0)


def test_a_difference_of_two_standard_deviations_is_found_with_five_seeds() -> None:
    assert (simulated(5, 2.0) == BETTER).mean() > 0.9
    assert (simulated(5, -2.0) == BETTER).mean() == 0


def test_the_interval_and_p_are_those_of_scipy() -> None:
    differences = [0.01, 0.03, -0.005, 0.02]
    found, told = paired(differences), stats.ttest_1samp(differences, 0.0)
    interval = told.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, told.pvalue))
    assert found.sign_flip_floor == 2 / 16
    assert found.sign_flip_p == 4 / 16  # of all 16 flips
    power = stats.nct.sf(stats.t.ppf(0.975, 3), 3, found.detectable / np.std(differences, ddof=1) * 2)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_three_seeds_cannot_give_a_small_p_by_flips_and_one_seed_shows_nothing() -> None:
    assert sign_flip_p([1.0, 1.1, 0.9]) == paired([1.0, 1.1, 0.9]).sign_flip_floor == 0.25
    assert (paired([0.5]).p, paired([0.5]).high) == (1.0, math.inf)
    assert paired([0.1, 0.1, 0.1]).p == 0.25  # no spread, no t
    assert paired([0.0, 0.0]).p == 1.0


def test_many_seeds_flip_signs_at_random() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1.0, size=40)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_holm_is_that_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_delta_m_has_the_direction_of_each_metric() -> None:
    mean, parts = delta_m({"a": 0.9, "b": 11.0, "c": 1.0}, {"a": 0.8, "b": 10.0, "c": 0.0}, {"a": True, "b": False})
    assert parts == pytest.approx({"a": 0.125, "b": -0.1})
    assert mean == pytest.approx(0.0125)
    assert delta_m({"c": 1.0}, {"c": 0.0}, {"c": True}) == (None, {})


def test_a_gain_on_a_negative_score_is_a_gain() -> None:
    correlation, _ = delta_m({"a": 0.1}, {"a": -0.2}, {"a": True})
    assert correlation == pytest.approx(1.5)


def test_rows_of_two_models_are_compared_in_pairs() -> None:
    one, other = np.array([True] * 30 + [False] * 10), np.array([True] * 20 + [False] * 18 + [True] * 2)
    p, only_one, only_other = exact_mcnemar(one, other)
    assert (only_one, only_other) == (10, 2)
    assert p == pytest.approx(stats.binomtest(10, 12).pvalue)
    assert exact_mcnemar(one, one) == (1.0, 0, 0)


def test_the_bootstrap_draws_groups_whole() -> None:
    differences = np.repeat(np.random.default_rng(1).normal(0.1, 1.0, size=50), 10)
    by_row, by_group = (paired_bootstrap(differences, g) for g in (None, np.repeat(np.arange(50), 10)))
    assert (by_group[1] - by_group[0]) > 2.5 * (by_row[1] - by_row[0])
    with pytest.raises(ValueError, match="too few for a bootstrap"):
        paired_bootstrap(np.ones(30), np.repeat(np.arange(3), 10))
