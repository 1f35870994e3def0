"""Test whether a window has more negative texts than the windows before it; imports scipy when it tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hft_applications.windows import Window


class ShareOf(StrEnum):
    """Of which texts the negative ones on a topic are a share."""

    ALL = "all"
    TOPIC = "topic"


@dataclass(frozen=True)
class Alert:
    """A surge of negative texts on a topic, as a share of all texts or of those on the topic."""

    window: Window
    topic: str
    share_of: ShareOf
    negative: int
    texts: int
    negative_before: int
    texts_before: int
    windows_before: int
    p: float


def p_value(negative: int, texts: int, negative_before: int, texts_before: int) -> float:
    """Return the one-sided p-value of Fisher's exact test for a larger share of negative texts than before.

    Given how many of all texts are negative, and if a text's chance of being so has not changed, the number of them in
    the window is hypergeometric: the p-value is the chance of that number or a larger one.
    """
    from scipy.stats import hypergeom

    everything = texts + texts_before
    return float(hypergeom.sf(negative - 1, everything, negative + negative_before, texts))


class SurgeTest:
    """Tests each window, topic by topic, against the windows before it.

    `share_of`: whether the negative texts on a topic are compared as a share of all texts, which changes when the topic
    is talked about more, or as a share of the texts on the topic.

    `rate`: the largest chance of an alert in a window in which nothing has changed. It is divided evenly among the
    tests of a window (Bonferroni). `before`: how many windows are compared with.
    """

    def __init__(self, topics: Sequence[str], negative: str, *, share_of: ShareOf, rate: float, before: int) -> None:
        self.topics = tuple(topics)
        self.share_of = share_of
        self.negative = negative
        self.level = rate / len(self.topics)
        self.earlier: deque[Window] = deque(maxlen=before)

    def check(self, window: Window) -> list[Alert]:
        """Return the surges of a window, and remember it for those that follow."""
        found = [alert for topic in self.topics if (alert := self._test(window, topic)).p <= self.level]
        self.earlier.append(window)
        return found

    def _test(self, window: Window, topic: str) -> Alert:
        negative, texts = self._counts(window, topic)
        before = [self._counts(earlier, topic) for earlier in self.earlier]
        negative_before, texts_before = sum(pair[0] for pair in before), sum(pair[1] for pair in before)
        p = p_value(negative, texts, negative_before, texts_before)
        return Alert(window, topic, self.share_of, negative, texts, negative_before, texts_before, len(before), p)

    def _counts(self, window: Window, topic: str) -> tuple[int, int]:
        return window.counts[topic, self.negative], window.texts(topic if self.share_of is ShareOf.TOPIC else None)
