"""Bars and lines as SVG text, without any library: what goes in is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

# Okabe and Ito's, which colour-blind readers can tell apart; lines beyond them are dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, LEFT, RIGHT = 560, 190, 70
BAR, GAP = 13, 7  # heights


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}">'
    return f"<figure><figcaption>{escape(title)}</figcaption>{head}{''.join(parts)}</svg></figure>"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def bars(title: str, groups: Mapping[str, Sequence[tuple[int, float, str]]], full: float = 0.0) -> str:
    """Horizontal bars.

    Args:
        groups: label -> its bars: number of the colour, length, text behind it.
        full: the length that a line marks; 0 for none.
    """
    most = max([full, *(value for bar in groups.values() for _, value, _ in bar)]) or 1.0
    scale, y, parts = (WIDTH - LEFT - RIGHT) / most, 6.0, []
    for label, each in groups.items():
        parts.append(_text(LEFT - 6, y + (len(each) * BAR + 9) / 2, label, "end"))
        for index, value, said in each:
            long = max(1.0, value * scale)
            parts.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{long:.1f}" height="{BAR - 2}" fill="{colour(index)}"/>')
            parts.append(_text(LEFT + long + 4, y + 10, said))
            y += BAR
        y += GAP
    if full:
        x = LEFT + full * scale
        parts.append(f'<path d="M{x:.1f} 0V{y:.1f}" class="axis"/>')
    return _svg(title, y, parts)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; the powers alone where those are many."""
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)
    return [p * s for p in powers for s in steps if low <= p * s <= high] or [low]


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], below: str, unit: str) -> str:
    """Lines through points (x, y), each above 0, on logarithmic axes; named at the right by a legend below."""
    points = [p for each in series.values() for p in each]
    (x0, x1), (y0, y1) = ((min(p[i] for p in points), max(p[i] for p in points)) for i in (0, 1))
    x0, x1, y0, y1 = x0 / 1.1, x1 * 1.1, y0 / 1.3, y1 * 1.3
    left, height = 60, 260

    def at(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / x0) / math.log(x1 / x0)
        return left + across * (WIDTH - left - 20), height - 10 - math.log(y / y0) / math.log(y1 / y0) * (height - 20)

    parts = []
    for y in _ticks(y0, y1):
        px, py = at(x0, y)
        parts.append(
            f'<path d="M{px:.1f} {py:.1f}H{WIDTH - 20}" class="axis"/>' + _text(left - 6, py + 4, f"{y:g}", "end")
        )
    last = -math.inf
    for x in sorted({p[0] for p in points}):
        px, _ = at(x, y0)
        if px - last > 48:
            last = px
            parts.append(_text(px, height + 6, f"{x:,.0f}", "middle"))
    parts.append(_text(WIDTH - 20, height + 22, below, "end") + _text(left, 8, unit))
    for i, (name, each) in enumerate(series.items()):
        where = [at(*p) for p in sorted(each)]
        dash = ' stroke-dasharray="5 3"' if i >= len(COLOURS) else ""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in where)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour(i)}" stroke-width="1.5"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour(i)}"/>' for x, y in where]
        px, py = left + i % 2 * 250, height + 40 + i // 2 * 16
        parts.append(
            f'<path d="M{px} {py - 4}h22" stroke="{colour(i)}" stroke-width="2"{dash}/>' + _text(px + 28, py, name)
        )
    return _svg(title, height + 44 + (len(series) + 1) // 2 * 16, parts)
