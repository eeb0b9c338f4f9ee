"""A span per request where OpenTelemetry is installed and set up by whoever runs the server; otherwise
nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

try:
    from opentelemetry import trace  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    trace = None

if TYPE_CHECKING:
    from tuili.server.guard import Exchange


@contextlib.contextmanager
def span(exchange: Exchange) -> Iterator[None]:
    """Around one request: its route, status and numbers of tokens, and nothing that a user wrote."""
    if trace is None:
        yield
        return
    with trace.get_tracer("tuili.server").start_as_current_span(
        f"{exchange.method} {exchange.route}"
    ) as current:
        try:
            yield
        finally:
            values = {
                "http.route": exchange.route,
                "http.response.status_code": exchange.status,
                "gen_ai.usage.input_tokens": exchange.n_prompt,
                "gen_ai.usage.output_tokens": exchange.n_generated,
            }
            current.set_attributes({name: value for name, value in values.items() if value is not None})
