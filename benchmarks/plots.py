"""Plots as SVG: bars for what was measured once, lines for what grows. Both axes of lines are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.figures import Spread

__all__ = ["bars", "lines"]

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 210, 30, 50
_COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#66489b", "#00798c", "#8d5524", "#555555")
_BAR = 24


def bars(title: str, values: Mapping[str, Spread]) -> str:
    """Return horizontal bars, from zero, with the spread as a line."""
    height = _TOP + _BAR * len(values) + 10
    most = max(value.high for value in values.values()) or 1
    left, room = 230, _WIDTH - 230 - 90
    parts = [_text(10, 18, title, "start", is_bold=True)]
    for number, (name, value) in enumerate(values.items()):
        top = _TOP + number * _BAR
        colour = _COLOURS[0] if number else "#999999"
        low, middle, high = (left + room * each / most for each in (value.low, value.median, value.high))
        parts += [
            _text(left - 8, top + 15, name, "end"),
            f'<rect x="{left}" y="{top + 3}" width="{middle - left:.1f}" height="{_BAR - 8}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {top + 11}H{high:.1f}" stroke="#000" stroke-width="1.5"/>',
            _text(high + 6, top + 15, _short(value.median), "start"),
        ]
    return _svg(height, parts)


def lines(title: str, axis: str, values: Mapping[str, Sequence[tuple[float, Spread]]]) -> str:
    """Return lines over a logarithmic axis, each point with its spread."""
    places = [place for points in values.values() for place, _ in points]
    heights = [height for points in values.values() for _, each in points for height in (each.low, each.high)]
    across = _Scale(places, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(heights, _HEIGHT - _BOTTOM, _TOP)
    parts = [_text(10, 18, title, "start", is_bold=True), _text(_LEFT, _HEIGHT - 12, axis, "start")]
    for tick in up.ticks():
        y = up(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, _short(tick), "end"))
    parts += [_text(across(place), _HEIGHT - 32, _short(place), "middle") for place in sorted(set(places))]
    names = sorted(values, key=lambda name: -values[name][-1][1].median)
    for number, name in enumerate(names):
        colour = _COLOURS[list(values).index(name) % len(_COLOURS)]
        path = " ".join(f"{across(place):.1f},{up(each.median):.1f}" for place, each in values[name])
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for place, each in values[name]:
            x = across(place)
            parts.append(f'<circle cx="{x:.1f}" cy="{up(each.median):.1f}" r="3" fill="{colour}"/>')
            parts.append(f'<path d="M{x:.1f} {up(each.low):.1f}V{up(each.high):.1f}" stroke="{colour}"/>')
        y = _TOP + 10 + 18 * number
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 16}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 32, y, name, "start"))
    return _svg(_HEIGHT, parts)


class _Scale:
    """A logarithmic axis; zero stands at its beginning."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self._low, self._high = min(positive), max(positive)
        if 0 in values:
            self._low /= 2
        if self._high / self._low < 1.2:
            self._low, self._high = self._low / 1.5, self._high * 1.5
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        return self._start + (self._end - self._start) * share

    def ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        found = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        return [tick for tick in found if self._low <= tick <= self._high * 1.001]


def _text(x: float, y: float, text: str, anchor: str, *, is_bold: bool = False) -> str:
    weight = ' font-weight="bold"' if is_bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
