"""What `tuili bench` shows: lines, charts, a picture, a page."""

from __future__ import annotations

from typing import Any

from tuili import _core
from tuili.benchmark import plot
from tuili.benchmark.plot import Chart, Point

_RATES = {
    "prefill_tok_s": ("prefill", "tok/s"),
    "decode_tok_s": ("decode", "tok/s"),
    "decode_deep_tok_s": ("decode, deep", "tok/s"),
    "texts_s": ("mixed lengths, batched", "texts/s"),
    "single_texts_s": ("short, one by one", "texts/s"),
    "long_texts_s": ("long, one by one", "texts/s"),
}
_TIMES = {
    "first_token_ms": "first token",
    "next_token_ms": "next token",
    "text_ms": "a short text alone",
    "long_text_ms": "a long text alone",
}
_MACHINE = {
    "clock_ghz": ("clock", "GHz"),
    "read_gb_s": ("read stream", "GB/s"),
    "float_peak_gmac_s": ("float peak", "GMAC/s"),
    "int8_peak_gmac_s": ("exact int8 peak", "GMAC/s"),
}
_SHARES = {
    "decode_share_of_read": "decode, of the read stream",
    "decode_deep_share_of_read": "deep, of the read stream",
    "prefill_share_of_peak": "prefill, of the {unit} peak",
    "texts_share_of_peak": "batched, of the {unit} peak",
}


def title(result: dict[str, Any]) -> str:
    """The model and the machine."""
    return f"{result['model']} on {result['cpu']}"


def _subtitle(result: dict[str, Any]) -> str:
    return (
        f"tuili {result['tuili']}, {result['isa']}, {result['threads']} threads; "
        f"medians, and the range of the samples"
    )


def _point(label: str, samples: dict[str, float]) -> Point:
    return Point(label, samples["median"], samples["min"], samples["max"])


def charts(result: dict[str, Any]) -> list[Chart]:
    """Rates, the batch curve, latencies, and what was reached of the machine's limits."""
    drawn = []
    rates = [(label, unit, result[name]) for name, (label, unit) in _RATES.items() if name in result]
    for unit in dict.fromkeys(unit for _, unit, _ in rates):
        points = [_point(label, samples) for label, of, samples in rates if of == unit]
        drawn.append(Chart("Speed", unit, points))
    if result.get("batch_tok_s"):
        points = [_point(n, samples) for n, samples in result["batch_tok_s"].items()]
        drawn.append(Chart("Decoding several texts at once", "tok/s of all", points, True, "texts at once"))
    times = [_point(label, result[name]) for name, label in _TIMES.items() if name in result]
    if times:
        drawn.append(Chart("Latency", "ms", times))
    shares = [
        _share(label.format(unit=result.get("prefill_unit", "")), name, result)
        for name, label in _SHARES.items()
        if name in result
    ]
    if shares:
        top = 100.0 if max(point.value for point in shares) <= 100 else None
        drawn.append(Chart("Of what this machine can do", "%", shares, most=top))
    return drawn


def _share(label: str, name: str, result: dict[str, Any]) -> Point:
    """A share in percent; its range is that of the rate, the limit taken as it is."""
    stem = name.split("_share")[0]
    rate = result.get(f"{stem}_tok_s") or result[f"{stem}_s"]
    value = 100 * result[name]
    return Point(label, value, value * rate["min"] / rate["median"], value * rate["max"] / rate["median"])


def facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What is no rate of the model: start-up, memory, the machine."""
    told = [
        ("model", f"{result['model']}, {result['weight_bytes'] / 2**20:.0f} MiB of weights"),
        ("cpu", f"{result['cpu']}, {result['isa']}, {result['threads']} threads"),
        ("load", f"{result['load_s']:.2f} s"),
    ]
    if "start_s" in result:
        told.append(("process, first result", f"{_with_range(result['start_s'])} s"))
    for name, n_bytes in result["memory"].items():
        if isinstance(n_bytes, int) and n_bytes:
            told.append((f"memory: {name}", f"{n_bytes / 2**20:.0f} MiB"))
    told.append(("peak memory", f"{result['peak_memory_bytes'] / 2**20:.0f} MiB"))
    for name, (label, unit) in _MACHINE.items():
        told.append((f"machine: {label}", f"{_with_range(result[name])} {unit}"))
    told.append(("isa tables", ", ".join(_core.available_isas())))
    return told


def _with_range(samples: dict[str, float]) -> str:
    low, high = plot.number(samples["min"]), plot.number(samples["max"])
    return f"{plot.number(samples['median'])}  [{low} – {high}]"


def table(result: dict[str, Any]) -> str:
    """Facts as lines, then the charts."""
    lines = [f"{name:<28}  {value}" for name, value in facts(result)]
    return "\n".join([*lines, "", plot.text(charts(result))])


def svg(result: dict[str, Any]) -> str:
    """The charts as one picture."""
    return plot.svg(title(result), _subtitle(result), charts(result))


def html(result: dict[str, Any]) -> str:
    """The picture in a page, with every number."""
    return plot.html(title(result), svg(result), facts(result), charts(result))
