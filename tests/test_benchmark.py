"""The charts of `tuili bench`: whole, well-formed, true to the numbers, and escaped."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from pathlib import Path
from types import SimpleNamespace

import pytest

import tuili
from tuili.benchmark import Plan, machine, measure, plot, report
from tuili.benchmark.measure import _computes_in_int8
from tuili.benchmark.plot import Chart, Point

MODELS = Path(__file__).parent / "models"
SVG = "{http://www.w3.org/2000/svg}"


def samples(value: float) -> dict[str, float]:
    return machine.summary([0.9 * value, value, 1.2 * value])


def result() -> dict[str, object]:
    """What a decoder's measurement looks like."""
    return {
        "tuili": "0", "cpu": "a <CPU> & more", "isa": "avx2", "threads": 2, "model": "llama",
        "kind": "decoder", "weight_bytes": 1 << 27, "memory": {"weights": 1 << 27}, "load_s": 0.5,
        "peak_memory_bytes": 1 << 28, "prefill_unit": "int8",
        "prefill_tok_s": samples(1000), "decode_tok_s": samples(100), "first_token_ms": samples(500),
        "next_token_ms": samples(10), "batch_tok_s": {"1": samples(100), "2": samples(190)},
        "decode_share_of_read": 0.85, "prefill_share_of_peak": 0.6, "start_s": samples(0.6),
        "clock_ghz": samples(3), "read_gb_s": samples(30),
        "float_peak_gmac_s": samples(60), "int8_peak_gmac_s": samples(200),
    }  # fmt: skip


def test_the_picture_is_well_formed_and_shows_every_number():
    root = xml.fromstring(report.svg(result()))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "llama on a <CPU> & more" in texts
    for chart in report.charts(result()):
        for point in chart.points:
            assert point.label in texts and plot.number(point.value) in texts
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter(f"{SVG}text"):
        assert 0 <= float(element.attrib["x"]) <= width and 0 <= float(element.attrib["y"]) <= height


def test_the_page_holds_the_picture_and_a_row_per_number():
    page = report.html(result())
    assert "<svg" in page and "a &lt;CPU&gt; &amp; more" in page and "<CPU>" not in page
    n_points = sum(len(chart.points) for chart in report.charts(result()))
    assert page.split("<h2>Numbers</h2>")[1].count("<tr>") == n_points + 1


def test_the_terminal_shows_what_the_picture_shows():
    text = report.table(result())
    assert "1,000" in text and "85.0" in text and "machine: read stream" in text
    assert max(len(line) for line in text.splitlines()) < 110


@pytest.mark.parametrize(
    "value, last", [(0.9, 1.0), (1.0, 1.0), (1109, 1250), (668, 800), (100, 100), (5.01, 6)]
)
def test_an_axis_ends_at_a_round_number(value, last):
    steps = plot.ticks(value)
    assert steps[0] == 0 and steps[-1] == pytest.approx(last) and 2 <= len(steps) <= 6


def test_a_bar_is_as_long_as_its_share():
    for eighths in range(81):
        drawn = plot.bar(eighths / 80, 10).rstrip()
        ink = sum(8 if c == "█" else plot.EIGHTHS.index(c) for c in drawn)
        assert ink == eighths
    assert plot.bar(7.0, 4) == "████" and plot.bar(-1.0, 4) == "    "


def test_a_curve_of_zeros_and_of_one_point_is_drawn():
    for points in ([Point("1", 0.0, 0.0, 0.0)], [Point("1", 5.0, 4.0, 6.0)]):
        chart = Chart("c", "u", points, True, "x")
        assert plot.text([chart]) and xml.fromstring(plot.svg("t", "s", [chart])) is not None


def test_interleaved_samples_take_turns():
    order: list[str] = []

    def job(name: str) -> float:
        order.append(name)
        return 1.0

    got = machine.interleaved({"a": lambda: job("a"), "b": lambda: job("b")}, 3)
    assert order == ["a", "b"] * 3 and got == {"a": [1.0] * 3, "b": [1.0] * 3}


@pytest.mark.parametrize(
    "compute, formats, in_int8",
    [
        ("auto", {"q8_0": 9, "f32": 1}, True),
        ("int8", {"q8_0": 9, "f32": 1}, True),
        ("float32", {"q8_0": 9}, False),
        ("int8", {"bf16": 9}, False),
    ],
)
def test_shares_of_the_peak_are_of_the_products_that_are_made(compute, formats, in_int8):
    llm = SimpleNamespace(config={"compute": compute, "weight_bytes": formats})
    assert _computes_in_int8(llm) == in_int8


def test_models_that_read_sources_and_those_of_a_few_tokens_are_measured():
    plan = Plan(repeats=1, n_prompt=16, n_new=4, depth=99, batches=(1, 2))
    result = measure(lambda: tuili.LLM(MODELS / "marian-numbers", num_threads=1), plan)
    assert result["kind"] == "encoder-decoder" and result["decode_deep_tok_s"]["median"] > 0
    assert "prefill" in report.table(result) and list(result["batch_tok_s"]) == ["1", "2"]
    with pytest.raises(tuili.InvalidParameterError, match="model's 16; --new-tokens"):
        measure(lambda: tuili.LLM(MODELS / "adder", num_threads=1), Plan())
