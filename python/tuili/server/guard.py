"""A request's life around its endpoint: who may come in, how much, how long; what is logged and counted.

The body is read here, under its limits, before a request counts against anybody's share. While the endpoint
works, the client's leaving cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuili.errors import DeadlineExceeded, TuiliError
from tuili.server.access import ANYBODY, OPEN_PATHS, Access, Tenant
from tuili.server.metrics import Metrics
from tuili.server.replies import Refused, error_response, refusal
from tuili.server.settings import Settings
from tuili.server.shares import Place, Shares
from tuili.server.tracing import span

log = logging.getLogger("tuili.server")
request_log = logging.getLogger("tuili.server.requests")

METHODS = ("GET", "HEAD", "POST")
LINGER_S = 0.3  # for a body that is not wanted: a client that still sends hears no answer
CLIENT_LEFT = 499
_JSON = re.compile(rb"application/json(?:\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE)


class ClientLeft(Exception):
    """The client closed the connection."""


@dataclass(slots=True)
class Exchange:
    """A request as its endpoint sees it, and what the log says of it."""

    method: str
    route: str  # one of the server's own, or "other"
    place: Place
    tenant: Tenant = ANYBODY
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    body: bytes = b""
    unread: bool = False  # whether there is a body that nobody read to its end
    status: int = 0
    answered: bool = False
    refused: bool = False  # its answer is an error, which may be on its way
    work: asyncio.Task[Any] | None = None  # the endpoint's
    n_prompt: int | None = None
    n_generated: int | None = None
    begin: float = field(default_factory=time.monotonic)

    def hand_on(self) -> None:
        """The body was read, or is no longer wanted."""
        self.body = b""
        self.place.hand_on()


class Guard:
    """ASGI around a router. routes: the methods of each path; one that ends in {name} takes any."""

    def __init__(
        self, router: ASGIApp, routes: Mapping[str, tuple[str, ...]], settings: Settings, metrics: Metrics
    ) -> None:
        self._router, self._routes, self._settings, self._metrics = router, routes, settings, metrics
        self._access = Access(settings)
        self._shares = Shares(settings)
        self._open: dict[asyncio.Task[Any], Exchange] = {}
        self.draining = False

    def drain(self) -> None:
        """Take nothing new; a request whose body is not here yet is."""
        self.draining = True
        self._refuse(lambda exchange: exchange.unread)

    def end(self) -> None:
        """Refuse, too, whatever has no answer yet; answers that have begun end with what they hold."""
        self.draining = True
        self._refuse(lambda exchange: True)

    def _refuse(self, whom: Callable[[Exchange], bool]) -> None:
        for task, exchange in self._open.items():
            if whom(exchange) and not exchange.status and not exchange.refused:
                exchange.refused = True
                (exchange.work or task).cancel()  # no endpoint begins an answer that its guard then drops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("this server speaks HTTP alone")
        method = scope["method"] if scope["method"] in METHODS else "other"
        place = Place(self._shares, ANYBODY)
        exchange = Exchange(method, self._route(scope["path"]) or "other", place)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = [(b"x-request-id", exchange.id.encode()), (b"x-content-type-options", b"nosniff")]
                if exchange.unread:  # or a client could send it for ever
                    own.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *own]
            elif not message.get("more_body", False):
                exchange.answered = True
            await send(message)

        scope["exchange"] = exchange
        task = _this_task()
        self._open[task] = exchange
        with span(exchange):
            try:
                await self._answer(scope, receive, noted, exchange)
            except ClientLeft:
                exchange.status = CLIENT_LEFT
                self._metrics.disconnects_total.add()
            except asyncio.CancelledError:
                exchange.status = exchange.status or CLIENT_LEFT
                raise
            finally:
                del self._open[task]
                self._note(exchange)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        try:
            await self._serve(scope, receive, send, exchange)
        except ClientLeft:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if not exchange.refused:
                    raise
                _this_task().uncancel()  # or what follows may have no time limit of its own, before 3.11.3
                error = closing()
            exchange.refused = True
            _log_ours(error)
            if isinstance(error, DeadlineExceeded):  # which comes before the first token, or never
                self._metrics.deadline_misses_total.add()
            if exchange.status:  # an answer has begun; the connection ends with it
                return
            if exchange.unread and all(name != b"expect" for name, _ in scope["headers"]):
                await _let_linger(receive, min(LINGER_S, self._settings.body_timeout_s))
            await error_response(error)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        exchange.unread = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in scope["headers"]
        )
        exchange.tenant = self._access.check(scope)
        exchange.place = Place(self._shares, exchange.tenant)
        self._check_route(scope, exchange)
        if self.draining and scope["path"] not in OPEN_PATHS:
            raise closing()
        if exchange.method != "POST":
            await self._router(scope, _no_body, send)
            return
        try:
            exchange.body = await self._read_body(scope, receive, exchange.place)
            exchange.unread = False
            exchange.place.enter()
            await _unless_client_leaves(self._router(scope, _no_body, send), receive, exchange)
        finally:
            exchange.hand_on()  # work that is cancelled may wait for its thread for long
            exchange.place.leave()

    # --- before the endpoint ----------------------------------------------------------------------------

    def _route(self, path: str) -> str | None:
        if path in self._routes:
            return path
        for template in self._routes:
            start = template.removesuffix("{name}")
            if start != template and path.startswith(start) and path != start:
                return template
        return None

    def _check_route(self, scope: Scope, exchange: Exchange) -> None:
        if exchange.route == "other":
            raise Refused(404, "there is nothing at this path", code="not_found")
        allowed = self._routes[exchange.route]
        if exchange.method not in allowed:
            raise Refused(
                405, "not a method of this path", code="method", headers={"Allow": ", ".join(allowed)}
            )

    async def _read_body(self, scope: Scope, receive: Receive, place: Place) -> bytes:
        """A POST's body.

        raises  Refused: 400 for what is not JSON in one piece and without compression, 408, 413, 429;
                ClientLeft
        """
        headers = dict(scope["headers"])
        kinds = [_JSON.fullmatch(value) for name, value in scope["headers"] if name == b"content-type"]
        if kinds in ([], [None]) or len(kinds) > 1:
            raise Refused(400, "Content-Type must be application/json, in UTF-8", code="content_type")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(400, "Content-Encoding is not supported", code="content_encoding")
        most = self._settings.max_body_bytes
        try:
            if int(headers.get(b"content-length", b"0")) > most:
                raise _too_large(most)
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await _receive_body(receive, most, place)
        except TimeoutError:
            raise Refused(408, "the body did not arrive in time", code="body_timeout") from None

    # --- after it ---------------------------------------------------------------------------------------

    def _note(self, exchange: Exchange) -> None:
        self._metrics.http_requests_total.add(exchange.route, str(exchange.status))
        if exchange.route in (*OPEN_PATHS, "/metrics") and exchange.status < 400:
            return
        if request_log.isEnabledFor(logging.INFO):
            line = {
                "event": "request",
                "id": exchange.id,
                "tenant": exchange.tenant.name,
                "method": exchange.method,
                "route": exchange.route,
                "status": exchange.status,
                "seconds": round(time.monotonic() - exchange.begin, 6),
                "prompt_tokens": exchange.n_prompt,
                "completion_tokens": exchange.n_generated,
            }
            request_log.info("%s", json.dumps(line))


async def _receive_body(receive: Receive, most: int, place: Place) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        place.buffer(len(parts[-1]))
        if not message.get("more_body", False):
            return b"".join(parts)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def closing() -> Refused:
    return Refused(503, "the server is closing", code="closing", headers={"Retry-After": "1"})


def _too_large(most: int) -> Refused:
    return Refused(413, f"a body may have {most} bytes", code="body_size")


def _log_ours(error: Exception) -> None:
    """Where a failure of ours arose: never what an exception says, which may be what a user wrote."""
    if refusal(error).status == 500:
        frames = "".join(traceback.format_tb(error.__traceback__))
        code = f" ({error.code})" if isinstance(error, TuiliError) else ""
        log.error("a request failed with %s%s\n%s", type(error).__name__, code, frames)


async def _no_body() -> Message:
    """The body was read before; the client's leaving is seen elsewhere."""
    await asyncio.Event().wait()
    raise AssertionError


async def _let_linger(receive: Receive, limit_s: float) -> None:
    """Take what a client still sends, so that it hears the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


async def _unless_client_leaves(work: object, receive: Receive, exchange: Exchange) -> None:
    """Run the coroutine `work`; cancel it and raise ClientLeft when the connection closes before its end."""
    exchange.work = task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not exchange.answered:
            raise ClientLeft
        await task
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
