"""The test of a window against those before it is exact, keeps its rate of false alarms, and sees a surge."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact

from hft_applications.surge import ShareOf, SurgeTest, p_value
from hft_applications.windows import Window

TOPICS = {"airlines": (30, 0.65), "apple": (10, 0.35), "claritin": (10, 0.05)}
"""The number of texts in an average hour and the share of negative ones, by topic."""
BEGIN, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)
SENTIMENTS = ("negative", "positive")
TEST: Any = {"rate": 0.01, "before": 24}


def window(random: np.random.Generator, share_of: ShareOf = ShareOf.ALL) -> Window:
    """A window in which nothing has changed but how many texts there are: in all, or even on each topic."""
    counts: Counter[tuple[str, str]] = Counter()
    busy = random.uniform(0.2, 3)
    for topic, (texts, share) in TOPICS.items():
        count = random.poisson(texts * (busy if share_of is ShareOf.ALL else random.uniform(0.2, 3)))
        negative = random.binomial(count, share)
        counts.update({(topic, "negative"): negative, (topic, "positive"): count - negative})
    return Window(BEGIN, HOUR, counts)


def made(**counts: tuple[int, int]) -> Window:
    """A window with so many negative and positive texts by topic."""
    pairs = {(topic, name): n for topic, both in counts.items() for name, n in zip(SENTIMENTS, both, strict=True)}
    return Window(BEGIN, HOUR, Counter(pairs))


@pytest.mark.parametrize("counts", [(9, 12, 20, 100), (0, 5, 3, 10), (5, 5, 0, 40), (3, 3, 0, 0), (0, 0, 4, 9)])
def test_the_p_value_is_that_of_fishers_exact_test(counts: tuple[int, int, int, int]) -> None:
    negative, texts, negative_before, texts_before = counts
    table = [[negative, texts - negative], [negative_before, texts_before - negative_before]]
    assert p_value(*counts) == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


@pytest.mark.parametrize("share_of", ShareOf)
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_windows_without_a_change_raise_no_more_alarms_than_stated(rate: float, share_of: ShareOf) -> None:
    random = np.random.default_rng(0)
    test = SurgeTest(list(TOPICS), "negative", share_of=share_of, rate=rate, before=24)
    windows = 2000
    alarms = sum(bool(test.check(window(random, share_of))) for _ in range(windows))
    assert alarms <= binom.ppf(0.999, windows, rate)
    assert alarms >= windows * rate / 20, "a test that hardly ever alarms sees no surge either"


@pytest.mark.parametrize(("share_of", "more"), [(ShareOf.ALL, 15), (ShareOf.TOPIC, 50)])
def test_a_planted_surge_is_seen_at_once_and_under_its_topic(share_of: ShareOf, more: int) -> None:
    seen = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        test = SurgeTest(list(TOPICS), "negative", share_of=share_of, **TEST)
        for _ in range(24):
            test.check(window(random))
        surging = made(airlines=(20, 10), apple=(4 + more, 6), claritin=(0, 10))
        alerts = test.check(surging)
        seen += any(alert.topic == "apple" for alert in alerts)
        assert all(alert.topic == "apple" for alert in alerts)
    assert seen >= 45


def test_more_texts_on_a_topic_are_a_surge_of_all_texts_alone() -> None:
    quiet, busy = made(apple=(4, 6), airlines=(20, 10)), made(apple=(40, 60), airlines=(20, 10))
    for share_of, topics in ((ShareOf.ALL, ["apple"]), (ShareOf.TOPIC, [])):
        test = SurgeTest(["apple", "airlines"], "negative", share_of=share_of, **TEST)
        assert not any(test.check(quiet) for _ in range(10))
        assert [alert.topic for alert in test.check(busy)] == topics


def test_an_alert_says_what_was_compared_and_old_windows_are_forgotten() -> None:
    for share_of, texts, texts_before in ((ShareOf.TOPIC, 10, 72), (ShareOf.ALL, 15, 82)):
        test = SurgeTest(["apple"], "negative", share_of=share_of, rate=0.05, before=2)
        for counts in ((50, 0), (0, 40), (2, 30)):
            assert not test.check(made(apple=counts, airlines=(5, 0)))
        (alert,) = test.check(made(apple=(9, 1), airlines=(5, 0)))
        assert (alert.topic, alert.share_of, alert.negative, alert.texts) == ("apple", share_of, 9, texts)
        assert (alert.windows_before, alert.negative_before, alert.texts_before) == (2, 2, texts_before)
