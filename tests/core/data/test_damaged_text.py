"""Texts that programs damaged, and texts that look a little like it and are not."""

from __future__ import annotations

import pytest

from hft_core.data.damaged_text import BYTES, CONTROL, ESCAPES, HTML, REPLACED, WRONG_ENCODING, damage


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
        ("привет".encode().decode("latin-1"), WRONG_ENCODING),
        ("你好\uff0c世界".encode().decode("gbk", errors="ignore"), WRONG_ENCODING),
        ("锟斤拷", WRONG_ENCODING),
        ("fish &amp; chips", HTML),
        ("it&#39;s", HTML),
        ("one<br />two", HTML),
        ('see <a href="x">this</a>', HTML),
        (r"one line.\nAnother line", ESCAPES),
        (r"a list:\n- one\n- two", ESCAPES),
        (r"one\r\ntwo", ESCAPES),
        (r"hello\nhow are you", ESCAPES),
        (r"one\n\ntwo", ESCAPES),
        (r"caf\u00e9", ESCAPES),
        (r"\u4f60\u597d", ESCAPES),
        ("the%20bank%20was", ESCAPES),
        ("b'the bank'", BYTES),
        ('b"it\'s"', BYTES),
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
        "联通公司的服务很好\uff0c价格也不贵\uff0c推荐大家使用",
        "привет, мир",
        "Größe, Straße, ÄÖÜ",
        "x<y>z",
        "🙂🙂 smile",
        r"$\nabla f \neq 0$ and \textbf{x}",
        r"C:\new\table",
        r"x\neq y, and a\nu b",
        'print("a\\nb")',
        "print('\\n')\nprint(2)",
        r"é is \u00e9 in JSON",
        "https://x.org/a%20b",
        "20%20 is no number",
        "b'ball, said the boy",
        "banks and 'boats'",
    ],
)
def test_correct_texts_are_left_alone(text: str) -> None:
    assert damage(text) == ""
