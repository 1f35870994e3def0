"""Texts that programs damaged, and texts that look a little like it and are not."""

from __future__ import annotations

import pytest

from hft_core.data.damaged_text import CONTROL, HTML, REPLACED, WRONG_ENCODING, damage


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\x00b", CONTROL),
        ("bell \x07", CONTROL),
        ("caf\ufffd", REPLACED),
        ("cafÃ© crÃ¨me", WRONG_ENCODING),
        ("itâ€™s fine", WRONG_ENCODING),
        ("naïve, but cafÃ©", WRONG_ENCODING),
        ("price: Â£5", WRONG_ENCODING),
        ("fish &amp; chips", HTML),
        ("it&#39;s", HTML),
        ("one<br />two", HTML),
        ('see <a href="x">this</a>', HTML),
    ],
)
def test_damage_is_found(text: str, found: str) -> None:
    assert damage(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "fish & chips; and more",
        "AT&T;",
        "if a < b and c > d",
        "tab\there\nline\r\n",
        "café crème – “quoted” … naïve",
        "SÃO PAULO",
        "Ã is a letter of Portuguese",
        "情感分析\uff0c很好\u3002",
        "Größe, Straße, ÄÖÜ",
        "x<y>z",
        "🙂🙂 smile",
    ],
)
def test_correct_texts_are_left_alone(text: str) -> None:
    assert damage(text) == ""
