"""The measured limits: of the right order, and errors where nothing can be measured."""

from __future__ import annotations

import pytest

from tuili import _core, errors


@pytest.mark.timing
def test_peaks_are_multiply_adds_of_a_core(isa):
    """From a fraction of one a cycle to the widest units there are; int8 is no slower than float."""
    clock = _core.limits.clock_hz()
    assert 2e8 < clock < 2e10
    in_float, in_int8 = _core.limits.float_peak(1, isa) / clock, _core.limits.int8_peak(1, isa) / clock
    assert 0.5 < in_float < 100 and 0.5 < in_int8 < 600


def test_a_read_stream_needs_bytes():
    with pytest.raises(errors.InvalidParameterError, match="too few"):
        _core.limits.read_bandwidth(1, 63)
    assert _core.limits.read_bandwidth(1, 1 << 24) > 1e8


def test_an_unknown_table_has_no_peak():
    with pytest.raises(errors.InvalidParameterError, match="sse9"):
        _core.limits.int8_peak(1, "sse9")
