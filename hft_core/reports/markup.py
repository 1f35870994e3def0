"""Build HTML and SVG in which whatever comes from elsewhere is escaped; light (standard library only)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from hft_core.sanitize import without_controls, without_passwords

EMPTY = ("line", "rect", "circle", "path", "polyline", "br", "meta", "link")
"""Elements without content, as they are written in HTML or SVG."""


class Markup(str):
    """Text that is HTML already. Only this module and literals make it."""

    __slots__ = ()


Content = str | int | float | None
"""What an element may hold; everything that is not `Markup` is escaped."""


def text(value: object) -> Markup:
    """Escape any value, without control and direction characters and without passwords."""
    return Markup(html.escape(without_passwords(without_controls(str(value)))))


def tag(name: str, /, *content: Content, **attributes: object) -> Markup:
    """Return an element. `class_` and `data_x` stand for `class` and `data-x`; None leaves an attribute out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{text(value)}"' for key, value in named.items())
    if name in EMPTY and not content:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{joined(content)}</{name}>")


def joined(parts: Iterable[Content]) -> Markup:
    """Return parts one after another; None is nothing."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts if part is not None))


def table(headings: Sequence[Content], rows: Iterable[Sequence[Content]], *, caption: str = "") -> Markup:
    """Return a table, whose columns of numbers are aligned to the right; on a narrow page it scrolls sideways."""
    rows = list(rows)
    numeric = [all(_is_number(row[i]) for row in rows if row[i] is not None) for i in range(len(headings))]
    heads = zip(headings, numeric, strict=True)
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col", class_="n" if n else None) for cell, n in heads)))
    body = tag("tbody", *(tag("tr", *map(_cell, row, numeric)) for row in rows))
    named = tag("caption", caption) if caption else None
    return tag("div", tag("table", named, head, body), class_="scroll", tabindex="0", role="region", aria_label=caption)


def _is_number(value: Content) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Content, numeric: bool) -> Markup:
    if value is None:
        value = "–"
    elif _is_number(value):
        value = number_text(value) if isinstance(value, float) else f"{value:,}"
    return tag("td", value, class_="n" if numeric else None)


def number_text(value: float) -> str:
    """Write a number with four significant digits."""
    if value != value:
        return "–"
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def figure(title: str, drawing: Markup, data: Markup, *, note: Content = None, legend: Markup | None = None) -> Markup:
    """Return a figure with its table, which opens below it."""
    numbers = tag("details", tag("summary", "Table"), data)
    head = tag("figcaption", tag("strong", title), tag("span", note, class_="note") if note else None)
    return tag("figure", head, legend, drawing, numbers)


def legend(names: Sequence[str]) -> Markup:
    """Return the names of series beside their colors; color `i` is that of the class `c{i}`."""
    items = (tag("li", tag("i", class_=f"k{color(i)}"), name) for i, name in enumerate(names))
    return tag("ul", *items, class_="legend")


COLORS = 8


def color(index: int) -> int:
    return index % COLORS
