"""The tables of the bars as text, and the whole comparison as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bars import WORKS, Bar, Contestant, Side, Verdict
from rounds import Measurements

HEADINGS = ("work", "tuili", "best peer", "ratio [of a round]", "required", "verdict")


def text(verdicts: Sequence[Verdict], measured: Measurements) -> str:
    """Tables in Markdown, each followed by what in it was not measured."""
    blocks = []
    for table in dict.fromkeys(verdict.bar.table for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.bar.table == table]
        notes = [
            f"- {verdict.bar.label}: {verdict.status}: {verdict.reason}" for verdict in own if verdict.reason
        ]
        absent = dict.fromkeys(name for verdict in own if not verdict.reason for name in verdict.absent)
        notes += [f"- not measured: {name}" for name in absent]
        blocks.append(f"## {table}\n\n{_rows([_cells(verdict) for verdict in own])}")
        if notes:
            blocks.append("\n".join(notes))
    if measured.disturbed:
        blocks.append(
            f"{measured.disturbed} of {measured.runs} runs were disturbed: "
            "other programs or a hypervisor used the processors, again and again."
        )
    return "\n\n".join([*blocks, summary(verdicts)])


def summary(verdicts: Sequence[Verdict]) -> str:
    counts = dict.fromkeys(("met", "missed", "not measured"), 0)
    for verdict in verdicts:
        counts[verdict.status] += 1
    return f"{len(verdicts)} bars: " + ", ".join(f"{n} {status}" for status, n in counts.items())


def _cells(verdict: Verdict) -> tuple[str, ...]:
    bar = verdict.bar
    higher = WORKS[bar.work].better == "higher"
    ratio = "–"
    if verdict.ratio is not None and verdict.ratios is not None:
        low, high = verdict.ratios
        ratio = f"{_number(verdict.ratio, bar)} [{_number(low, bar)}–{_number(high, bar)}]"
    required = f"{'≥' if higher else '≤'} {bar.required:g}" + (" ×" if bar.judged == "ratio" else "")
    return bar.label, _side(verdict.ours, bar), _side(verdict.theirs, bar), ratio, required, verdict.status


def _side(side: Side | None, bar: Bar) -> str:
    if side is None:
        return "–"
    median, low, high = (_number(value, bar) for value in (side.median, min(side.values), max(side.values)))
    return f"{median} [{low}–{high}] ({' '.join(side.contestant)})"


def _number(value: float, bar: Bar) -> str:
    """Three digits, of cosines four after the point."""
    if WORKS[bar.work].unit == "cosine":
        return f"{value:.4f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _rows(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(HEADINGS, *cells, strict=True)]
    lines = [HEADINGS, tuple("-" * width for width in widths), *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def as_json(verdicts: Sequence[Verdict], measured: Measurements, about: dict[str, Any]) -> dict[str, Any]:
    """`about` says where and how; values are those of each round."""
    return {
        **about,
        "completed": measured.completed,
        "runs": measured.runs,
        "disturbed": measured.disturbed,
        "versions": measured.versions,
        "bars": [_bar(verdict) for verdict in verdicts],
        "values": _named(measured.values),
        "not_measured": _named(measured.reasons),
    }


def _bar(verdict: Verdict) -> dict[str, Any]:
    bar = verdict.bar
    return {
        "table": bar.table,
        "label": bar.label,
        "unit": WORKS[bar.work].unit,
        "better": WORKS[bar.work].better,
        "required": bar.required,
        "status": verdict.status,
        "reason": verdict.reason,
        "ratio": verdict.ratio,
        "ratios": verdict.ratios,
        "tuili": _values(verdict.ours),
        "peer": _values(verdict.theirs),
    }


def _values(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "who": " ".join(side.contestant),
        "median": side.median,
        "min": min(side.values),
        "max": max(side.values),
    }


def _named(by_contestant: dict[Contestant, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {" ".join(one): dict(entries) for one, entries in by_contestant.items() if entries}
