"""Count texts that hold what looks like personal data: by form, so that some are none and some are missed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_CHINESE_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def kinds_in(texts: Iterable[str]) -> dict[str, int]:
    """Return the number of texts with each kind of personal data, of those that occur."""
    counts = Counter(kind for text in texts for kind in found_in(text))
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def found_in(text: str) -> list[str]:
    """Return the kinds of personal data in a text."""
    if "@" not in text and sum(map(str.isdigit, text)) < FEWEST_DIGITS:
        return []
    found = []
    for kind, (form, real) in KINDS.items():
        matches = [match[0] for match in form.finditer(text) if real(match[0])]
        for match in matches:
            text = text.replace(match, "; ")  # what is an account number is no phone number
        if matches:
            found.append(kind)
    return found


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()][::-1]
    doubled = [2 * d - 9 * (2 * d > 9) for d in digits[1::2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    plain = re.sub(r"\s", "", text)
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _chinese_id(text: str) -> bool:
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], _CHINESE_WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == text[-1].upper()


def _phone(text: str) -> bool:
    return 9 <= sum(map(str.isdigit, text)) <= 15


def _any(text: str) -> bool:
    return True


FEWEST_DIGITS = 9
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "e-mail address": (re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), _any),
    "Chinese identity number": (re.compile(r"(?<!\d)[1-9]\d{16}[\dXx](?!\w)", re.ASCII), _chinese_id),
    "US social security number": (re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"), _any),
    "bank account (IBAN)": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban),
    "payment card number": (re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])", re.ASCII), _luhn),
    "phone number": (
        re.compile(r"(?<![\w.,-])"
                   r"(?:(?:\+|00)\d{1,3}[ ./-]?(?:\(0\))?|\(?0\d{1,4}\)?[ ./-])\d(?:[ ./-]?\d){6,12}(?![\w-])"
                   r"|(?<!\d)1[3-9]\d{9}(?!\d)|(?<!\d)\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"),
        _phone,
    ),
}  # fmt: skip
"""By name: the form, and whether a text of that form can be one (check digits)."""
