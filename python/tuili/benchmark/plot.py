"""Charts as text of block characters, as SVG, and as a page around it, without a plotting library.

Bars show a median; the thin line through a bar's end goes from the smallest to the largest sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

EIGHTHS = " ▏▎▍▌▋▊▉█"
BARS = "▁▂▃▄▅▆▇█"
TEXT_LABEL, TEXT_BAR = 28, 34
CURVE_ROWS = 8

INK, GREY, FAINT, BLUE, ORANGE = "#1f2933", "#52606d", "#e4e7eb", "#2f6fb5", "#d9822b"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
WIDTH, MARGIN, LABEL, ROW, NUMBER = 760, 24, 190, 26, 84
CURVE_HEIGHT = 220


@dataclass(frozen=True)
class Point:
    """A median and the extremes of its samples."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """Horizontal bars, or a curve over evenly spaced labels.

    most   where the axis ends; None: at the largest value
    """

    title: str
    unit: str
    points: Sequence[Point]
    is_curve: bool = False
    x_label: str = ""
    most: float | None = None

    @property
    def ticks(self) -> list[float]:
        """The axis's ticks, from 0 to its end."""
        return ticks(self.most or max(max(point.value, point.high) for point in self.points))

    @property
    def top(self) -> float:
        """The end of the axis."""
        return self.ticks[-1]


def ticks(value: float) -> list[float]:
    """0 and up to 5 round steps, the last of them at `value` or above."""
    if not 0 < value < math.inf:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(value / 5))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 5 >= value * (1 - 1e-9))
    return [i * step for i in range(math.ceil(value / step * (1 - 1e-9)) + 1)]


def number(value: float) -> str:
    """Three digits, more if there are more before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# --- text ---------------------------------------------------------------------------------------------------


def text(charts: Sequence[Chart]) -> str:
    """Every chart in characters, for a terminal."""
    blocks = []
    for chart in charts:
        lines = [f"{chart.title}, {chart.unit}"]
        lines += _text_curve(chart) if chart.is_curve else _text_bars(chart)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def bar(share: float, width: int) -> str:
    """A bar of `share` of `width` characters, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(width)


def _text_bars(chart: Chart) -> list[str]:
    return [
        f"  {point.label[: TEXT_LABEL - 1]:<{TEXT_LABEL}}{bar(point.value / chart.top, TEXT_BAR)} "
        f"{number(point.value):>7}  [{number(point.low)} – {number(point.high)}]"
        for point in chart.points
    ]


def _text_curve(chart: Chart) -> list[str]:
    """Columns, the values on top of them and the labels below."""
    width = 8
    heights = [round(point.value / chart.top * CURVE_ROWS * 8) for point in chart.points]
    rows = []
    for row in reversed(range(CURVE_ROWS + 1)):
        cells = []
        for height, point in zip(heights, chart.points, strict=True):
            filled = height - 8 * row
            above = math.ceil(height / 8) == row
            cells.append(
                number(point.value).center(width)
                if above
                else ("███" if filled >= 8 else BARS[filled - 1] * 3 if filled > 0 else "").center(width)
            )
        rows.append("  " + "".join(cells).rstrip())
    rows = [row for row in rows if row.strip()]
    rows.append("  " + "".join("─" * width for _ in chart.points))
    rows.append("  " + "".join(point.label.center(width) for point in chart.points) + f"  {chart.x_label}")
    return rows


# --- SVG ----------------------------------------------------------------------------------------------------


def svg(title: str, subtitle: str, charts: Sequence[Chart]) -> str:
    """One picture of all charts, below each other."""
    parts: list[str] = []
    y = 34.0
    parts.append(_label(MARGIN, y, title, size=19, weight="600"))
    y += 22
    parts.append(_label(MARGIN, y, subtitle, size=12.5, fill=GREY))
    y += 34
    for chart in charts:
        parts.append(_label(MARGIN, y, chart.title, size=14.5, weight="600"))
        parts.append(_label(WIDTH - MARGIN, y, chart.unit, size=12, fill=GREY, anchor="end"))
        y += 26 if chart.is_curve else 16
        drawn, height = _svg_curve(chart, y) if chart.is_curve else _svg_bars(chart, y)
        parts += drawn
        y += height + 38
    height_all = round(y - 14)
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height_all}' "
            f"viewBox='0 0 {WIDTH} {height_all}' role='img' aria-label='{escape(title, quote=True)}' {FONT}>",
            f"<rect width='{WIDTH}' height='{height_all}' fill='#ffffff'/>",
            *parts,
            "</svg>\n",
        ]
    )


def _label(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12.5,
    fill: str = INK,
    anchor: str = "start",
    weight: str = "400",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{fill}' text-anchor='{anchor}' "
        f"font-weight='{weight}' stroke='#ffffff' stroke-width='3' paint-order='stroke'>{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1) -> str:
    return (
        f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{stroke}' "
        f"stroke-width='{width}'/>"
    )


def _svg_bars(chart: Chart, top: float) -> tuple[list[str], float]:
    left, right = MARGIN + LABEL, WIDTH - MARGIN - NUMBER
    scale = (right - left) / chart.top
    height = ROW * len(chart.points)
    parts = []
    for tick in chart.ticks:
        x = left + tick * scale
        parts.append(_line(x, top, x, top + height, FAINT))
        parts.append(_label(x, top + height + 14, f"{tick:,.6g}", size=10.5, fill=GREY, anchor="middle"))
    for i, point in enumerate(chart.points):
        y = top + ROW * i
        middle, width = y + ROW / 2, min(point.value, chart.top) * scale
        parts.append(_label(left - 10, middle + 4.5, point.label, anchor="end"))
        parts.append(
            f"<rect x='{left}' y='{y + 5:.1f}' width='{width:.1f}' height='{ROW - 10}' rx='2' fill='{BLUE}'/>"
        )
        low, high = (left + min(value, chart.top) * scale for value in (point.low, point.high))
        parts.append(_line(low, middle, high, middle, ORANGE, 1.6))
        parts += [_line(x, middle - 4, x, middle + 4, ORANGE, 1.6) for x in (low, high)]
        parts.append(_label(WIDTH - MARGIN, middle + 4.5, number(point.value), anchor="end", weight="600"))
    return parts, height + 14


def _svg_curve(chart: Chart, top: float) -> tuple[list[str], float]:
    left, right = MARGIN + 56, WIDTH - MARGIN - 16
    height = CURVE_HEIGHT
    parts = []
    for tick in chart.ticks:
        y = top + height * (1 - tick / chart.top)
        parts.append(_line(left, y, right, y, FAINT))
        parts.append(_label(left - 8, y + 4, f"{tick:,.6g}", size=10.5, fill=GREY, anchor="end"))
    step = (right - left) / max(len(chart.points), 1)

    def at(i: int, value: float) -> tuple[float, float]:
        return left + step * (i + 0.5), top + height * (1 - min(value, chart.top) / chart.top)

    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(i, p.value) for i, p in enumerate(chart.points)))
    parts.append(f"<polyline points='{path}' fill='none' stroke='{BLUE}' stroke-width='2'/>")
    for i, point in enumerate(chart.points):
        x, y = at(i, point.value)
        low, high = at(i, point.low)[1], at(i, point.high)[1]
        parts.append(_line(x, low, x, high, ORANGE, 1.6))
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{BLUE}'/>")
        parts.append(_label(x, min(y, high) - 9, number(point.value), anchor="middle", weight="600"))
        parts.append(_label(x, top + height + 17, point.label, size=11.5, anchor="middle"))
    parts.append(
        _label((left + right) / 2, top + height + 34, chart.x_label, size=11.5, fill=GREY, anchor="middle")
    )
    return parts, height + 34


# --- HTML ---------------------------------------------------------------------------------------------------

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:800px;margin:2rem auto;padding:0 1rem}"
    "svg{max-width:100%;height:auto}table{border-collapse:collapse;width:100%;font-size:14px}"
    "td,th{padding:.3rem .6rem;border-bottom:1px solid #e4e7eb;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
)


def html(title: str, picture: str, facts: Sequence[tuple[str, str]], charts: Sequence[Chart]) -> str:
    """A page that needs nothing else: the picture, what was run, and every number."""
    rows = [
        f"<tr><td>{escape(chart.title)}: {escape(point.label)}</td><td>{number(point.value)}</td>"
        f"<td>{number(point.low)}</td><td>{number(point.high)}</td><td>{escape(chart.unit)}</td></tr>"
        for chart in charts
        for point in chart.points
    ]
    told = [f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts]
    return "\n".join(
        [
            "<!doctype html>",
            f"<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>",
            f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>",
            picture,
            f"<h2>What was run</h2><table>{''.join(told)}</table>",
            "<h2>Numbers</h2><table><tr><th>measurement</th><th>median</th><th>least</th><th>most</th>"
            f"<th>unit</th></tr>{''.join(rows)}</table>",
            "</body></html>\n",
        ]
    )
