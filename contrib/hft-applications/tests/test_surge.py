"""The test of a window against those before it is exact, keeps its rate of false alarms, and sees a surge."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact

from hft_applications.surge import SurgeTest, p_value
from hft_applications.windows import Window

TOPICS = {"airlines": 0.65, "apple": 0.35, "claritin": 0.05}
"""The share of negative texts by topic."""
HOUR = timedelta(hours=1)


def window(random: np.random.Generator, shares: dict[str, float], hour: int = 0, volume: float = 20) -> Window:
    """A window with a number of texts that changes from hour to hour, as real ones do."""
    counts: Counter[tuple[str, str]] = Counter()
    for topic, share in shares.items():
        texts = random.poisson(volume * random.uniform(0.2, 3))
        negative = random.binomial(texts, share)
        counts.update({(topic, "negative"): negative, (topic, "positive"): texts - negative})
    return Window(datetime(2026, 1, 1, tzinfo=UTC) + hour * HOUR, HOUR, counts)


@pytest.mark.parametrize("counts", [(9, 12, 20, 100), (0, 5, 3, 10), (5, 5, 0, 40), (3, 3, 0, 0), (0, 0, 4, 9)])
def test_the_p_value_is_that_of_fishers_exact_test(counts: tuple[int, int, int, int]) -> None:
    negative, texts, negative_before, texts_before = counts
    table = [[negative, texts - negative], [negative_before, texts_before - negative_before]]
    assert p_value(*counts) == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_windows_without_a_change_raise_no_more_alarms_than_stated(rate: float) -> None:
    random = np.random.default_rng(0)
    test = SurgeTest(list(TOPICS), "negative", rate=rate, before=24)
    windows = 3000
    alarms = sum(bool(test.check(window(random, TOPICS, hour))) for hour in range(windows))
    assert alarms <= binom.ppf(0.999, windows, rate)
    assert alarms >= windows * rate / 20, "a test that hardly ever alarms sees no surge either"


def test_a_planted_surge_is_seen_at_once_and_under_its_topic() -> None:
    seen = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        test = SurgeTest(list(TOPICS), "negative", rate=0.01, before=24)
        for hour in range(24):
            test.check(window(random, TOPICS, hour))
        texts = {("apple", "negative"): 26, ("apple", "positive"): 14}
        alerts = test.check(Window(datetime(2026, 1, 2, tzinfo=UTC), HOUR, Counter(texts)))
        seen += any(alert.topic == "apple" for alert in alerts)
        assert all(alert.topic == "apple" for alert in alerts)
    assert seen >= 80, "26 of 40 negative, where 35 % are usual"


def test_an_alert_says_what_was_compared_and_old_windows_are_forgotten() -> None:
    test = SurgeTest(["apple"], "negative", rate=0.05, before=2)
    for counts in ((50, 0), (0, 40), (2, 30)):
        assert not test.check(Window(datetime(2026, 1, 1, tzinfo=UTC), HOUR, _counts(*counts)))
    (apple,) = test.check(Window(datetime(2026, 1, 1, 3, tzinfo=UTC), HOUR, _counts(9, 1)))
    assert (apple.topic, apple.negative, apple.texts) == ("apple", 9, 10)
    assert (apple.windows_before, apple.negative_before, apple.texts_before) == (2, 2, 72)


def _counts(negative: int, positive: int) -> Counter[tuple[str, str]]:
    return Counter({("apple", "negative"): negative, ("apple", "positive"): positive})
