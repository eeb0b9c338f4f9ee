"""Measured values beside their bars, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def at_least(
    what: str, value: float, bar: float | None, unit: str, text: str, samples: Sequence[float]
) -> Row:
    """bar  None: for information; samples  of which `value` is the median, or nothing"""
    return _row(what, value, bar, "≥", unit, text, samples)


def at_most(
    what: str, value: float, bar: float | None, unit: str, text: str, samples: Sequence[float]
) -> Row:
    return _row(what, value, bar, "≤", unit, text, samples)


def _row(
    what: str, value: float, bar: float | None, side: str, unit: str, text: str, samples: Sequence[float]
) -> Row:
    return {
        "what": what,
        "value": value,
        "bar": bar,
        "side": side,
        "unit": unit,
        "text": text,
        "least": min(samples, default=value),
        "most": max(samples, default=value),
    }


def is_met(row: Row) -> bool:
    return bool(row["value"] >= row["bar"] if row["side"] == "≥" else row["value"] <= row["bar"])


def missed(rows: Iterable[Row]) -> list[str]:
    return [row["what"] for row in rows if row["bar"] is not None and not is_met(row)]


def show(rows: Iterable[Row]) -> None:
    for row in rows:
        value = f"{row['value']:.3g}{row['unit'] and ' ' + row['unit']}"
        spread = f"[{row['least']:.3g}–{row['most']:.3g}]" if row["most"] > row["least"] else ""
        bar = (
            ""
            if row["bar"] is None
            else f"{row['side']} {row['bar']:.4g} {'PASS' if is_met(row) else 'MISS'}"
        )
        print(f"{row['what']:<58} {value:>9} {spread:<16} {bar:<13} {row['text']}", flush=True)
