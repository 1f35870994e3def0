"""Draw line charts, dot plots and heat maps as SVG, which follows the page's colors and width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hft_core.reports.markup import Markup, color, number_text, tag

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
MOST_POINTS = 160
"""Points of a series; of more, the means of equal parts are drawn."""
LIGHT_ON_DARK = 0.55
"""Share of a heat map's strongest color from which on its text is light."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear axis: values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """About five round values between the ends."""
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> Axis:
    """Return an axis that holds all values, and 0 if asked for."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if zero else low
    if high - low < 1e-12:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    margin = 0.0 if zero else 0.04 * (high - low)
    return Axis(low - margin, high + margin, start, end)


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    label: str,
    across: str = "step",
    dots: bool = False,
    breaks: Sequence[tuple[float, str]] = (),
    diagonal: bool = False,
) -> Markup:
    """Draw one line for each series over a common axis; `breaks` are named vertical lines, such as starts of stages."""
    points = [point for part in series.values() for point in part]
    x = axis([p[0] for p in points], LEFT, WIDTH - RIGHT, zero=diagonal)
    breaks = [(place, name) for place, name in breaks if x.low <= place <= x.high]
    y = axis([p[1] for p in points], HEIGHT - BOTTOM, TOP + 12 if breaks else TOP, zero=diagonal)
    parts = [_grid(x, y, across)]
    for i, (place, name) in enumerate(breaks):
        parts.append(tag("line", x1=_n(x(place)), x2=_n(x(place)), y1=TOP, y2=HEIGHT - BOTTOM, class_="break"))
        following = x(breaks[i + 1][0]) if i + 1 < len(breaks) else WIDTH - RIGHT
        if following - x(place) > 7 * len(name):  # a name that would lie on the next one is left out
            parts.append(tag("text", name, x=_n(x(place) + 4), y=TOP + 9, class_="small"))
    if diagonal:
        parts.append(tag("line", x1=_n(x(0)), y1=_n(y(0)), x2=_n(x(1)), y2=_n(y(1)), class_="break"))
    for i, part in enumerate(series.values()):
        drawn = thinned(part)
        path = " ".join(f"{_n(x(a))},{_n(y(b))}" for a, b in drawn)
        parts.append(tag("polyline", points=path, class_=f"line c{color(i)}"))
        if dots or len(drawn) == 1:
            parts += [tag("circle", cx=_n(x(a)), cy=_n(y(b)), r=3, class_=f"dot f{color(i)}") for a, b in drawn]
    return _svg(parts, label, HEIGHT)


def dot_plot(rows: Sequence[tuple[str, Sequence[tuple[float, int]]]], *, label: str) -> Markup:
    """Draw one row of dots for each name: values, each with the number of its color; a line joins them."""
    height = TOP + 26 * len(rows) + BOTTOM
    widest = max((len(name) for name, _ in rows), default=0)
    left = min(170, 14 + 7 * widest)
    x = axis([value for _, values in rows for value, _ in values], left, WIDTH - 44)
    parts = []
    for tick in x.ticks:
        parts.append(tag("line", x1=_n(x(tick)), x2=_n(x(tick)), y1=TOP, y2=height - BOTTOM, class_="grid"))
        parts.append(tag("text", number_text(tick), x=_n(x(tick)), y=height - BOTTOM + 16, class_="tick mid"))
    for i, (name, values) in enumerate(rows):
        place = TOP + 13 + 26 * i
        parts.append(tag("text", _cut(name, 23), x=_n(left - 8), y=place + 4, class_="tick end"))
        ends = [x(value) for value, _ in values]
        parts.append(tag("line", x1=_n(min(ends)), x2=_n(max(ends)), y1=place, y2=place, class_="join"))
        parts += [tag("circle", cx=_n(x(v)), cy=place, r=4.5, class_=f"dot f{color(c)}") for v, c in values]
        last = number_text(values[-1][0])
        parts.append(tag("text", last, x=_n(max(ends) + 9), y=place + 4, class_="small"))
    return _svg(parts, label, height)


def scatter(points: Sequence[tuple[str, float, float, int]], *, label: str, across: str) -> Markup:
    """Draw named points `(name, x, y, color)`; x is positive, and on a logarithmic axis."""
    x = axis([math.log10(p[1]) for p in points], LEFT, WIDTH - RIGHT)
    y = axis([p[2] for p in points], HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in y.ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y(tick)), y2=_n(y(tick)), class_="grid"))
        parts.append(tag("text", number_text(tick), x=LEFT - 6, y=_n(y(tick) + 4), class_="tick end"))
    below = HEIGHT - BOTTOM + 16
    ticks = ((tick, number_text(float(f"{10**tick:.2g}"))) for tick in x.ticks)
    parts += [tag("text", shown, x=_n(x(tick)), y=below, class_="tick mid") for tick, shown in ticks]
    names: list[tuple[float, float]] = []
    for name, across_value, value, c in points:
        place, height = x(math.log10(across_value)), y(value)
        title = tag("title", f"{name}: {number_text(value)}, {across} {number_text(across_value)}")
        parts.append(tag("circle", title, cx=_n(place), cy=_n(height), r=5, class_=f"dot f{color(c)}"))
        right = place < WIDTH - 7 * min(len(name), 18) - 16
        line = height + 4
        while any(abs(line - taken) < 11 and abs(place - at) < 110 for at, taken in names):  # not on another name
            line -= 12
        names.append((place, line))
        at, side = (place + 9, "small") if right else (place - 9, "small end")
        parts.append(tag("text", _cut(name, 18), x=_n(at), y=_n(line), class_=side))
    parts.append(tag("text", across, x=WIDTH - RIGHT, y=HEIGHT - 3, class_="small end"))
    return _svg(parts, label, HEIGHT)


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]], *, label: str) -> Markup:
    """Draw a confusion matrix: rows are references, columns predictions, shades are shares of the row."""
    label_width = min(120.0, 14 + 7 * max(map(len, names), default=0))
    size = min(60.0, (WIDTH - label_width - 6) / max(len(names), 1))
    left, top = (WIDTH + label_width - size * len(names)) / 2, 22
    height = top + size * len(names) + 62
    parts = [tag("text", "predicted", x=_n(left + size * len(names) / 2), y=14, class_="small mid")]
    for i, row in enumerate(counts):
        total = sum(row) or 1
        place = top + size * (i + 0.5)
        parts.append(tag("text", _cut(names[i], 16), x=_n(left - 7), y=_n(place + 4), class_="tick end"))
        for j, count in enumerate(row):
            share = count / total
            at = left + size * j
            title = tag("title", f"{names[i]} → {names[j]}: {count} of {sum(row)}")
            parts.append(
                tag("rect", title, x=_n(at), y=_n(top + size * i), width=_n(size - 1.5), height=_n(size - 1.5), rx=2,
                    class_="cell", style=f"--share:{share:.3f}")
            )  # fmt: skip
            if size >= 16:
                shade = "tick mid inverse" if share > LIGHT_ON_DARK else "tick mid"
                parts.append(tag("text", count, x=_n(at + size / 2 - 0.75), y=_n(place + 3.5), class_=shade))
    for j, name in enumerate(names):
        at, below = left + size * (j + 0.5), top + size * len(names) + 10
        turn = f"rotate(-40 {_n(at)} {_n(below)})"
        parts.append(tag("text", _cut(name, 10), x=_n(at), y=_n(below), transform=turn, class_="tick end"))
    return _svg(parts, label, height)


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Return the points, or the means of equal parts of more than can be told apart."""
    if len(points) <= MOST_POINTS:
        return points
    bounds = [round(i * len(points) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    parts = [points[a:b] for a, b in pairwise(bounds)]
    return [(sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)) for part in parts]


def _grid(x: Axis, y: Axis, across: str) -> Markup:
    parts = []
    for tick in y.ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y(tick)), y2=_n(y(tick)), class_="grid"))
        parts.append(tag("text", number_text(tick), x=LEFT - 6, y=_n(y(tick) + 4), class_="tick end"))
    below = HEIGHT - BOTTOM + 16
    parts += [tag("text", number_text(tick), x=_n(x(tick)), y=below, class_="tick mid") for tick in x.ticks]
    parts.append(tag("text", across, x=WIDTH - RIGHT, y=HEIGHT - 3, class_="small end"))
    return tag("g", *parts)


def _svg(parts: Sequence[Markup], label: str, height: float) -> Markup:
    return tag("svg", tag("title", label), *parts, viewBox=f"0 0 {WIDTH} {_n(height)}", role="img")


def _n(value: float) -> str:
    """Write a coordinate shortly."""
    return f"{value:.1f}".removesuffix(".0")


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
