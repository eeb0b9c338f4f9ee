"""One connection: uvicorn's h11 protocol with limits that it lacks.

A request's head has to arrive in time, a body in chunks that are worth their work, a client has to read what
it asked for, and there are only so many connections. A request that is no HTTP gets an error in OpenAI's
shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tuili.server.replies import Refused, error_body, to_json
from tuili.server.settings import Settings

FREE_CHUNKS = 512  # of a body, of any size
MIN_CHUNK_BYTES = 64  # of those beyond, on average: h11 takes 5 µs for each, on the event loop
MAX_HEAD_LINES = 256  # for each of which it takes 1.5 µs
_END_OF_HEAD = re.compile(rb"\n\r?\n")


def limited(settings: Settings) -> type[H11Protocol]:
    """The protocol class of a server with these limits."""

    class Limited(_Limited):
        limits = settings

    return Limited


class _Parser(h11.Connection):
    """h11's, but a head of many lines is refused, and a body in tiny chunks."""

    _n_chunks = _n_bytes = 0

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            head = _END_OF_HEAD.split(self.trailing_data[0], 1)[0]
            if head.count(b"\n") > MAX_HEAD_LINES:
                raise h11.RemoteProtocolError("the head has too many lines", error_status_hint=431)
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._n_chunks = self._n_bytes = 0
        elif isinstance(event, h11.Data):
            self._n_chunks += event.chunk_end
            self._n_bytes += len(event.data)
            if self._n_bytes < (self._n_chunks - FREE_CHUNKS) * MIN_CHUNK_BYTES:
                raise h11.RemoteProtocolError("the body's chunks are too small")
        return event


class _Limited(H11Protocol):
    limits: Settings

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Parser(h11.SERVER, self.limits.max_header_bytes)
        self.access_log = False  # the guard has a log of its own
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_send_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # a part of a head, of this request or the next
            self._await_head()
        else:
            self._stop_head_timer()

    def _await_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.limits.header_timeout_s, self._give_up_on_head)

    def _give_up_on_head(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_send_timer()
        self._send_timer = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles an h11.RemoteProtocolError."""
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
        status = hint if hint < 500 else 400  # clients repeat what got a 5xx
        refused = Refused(status, "the request is not HTTP that this server accepts", code="invalid_http")
        body = to_json(error_body(refused))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is already under way
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True  # what its request would answer has no place any more
        self.transport.close()
