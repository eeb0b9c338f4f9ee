"""Answers of the server: JSON, events, and errors in OpenAI's shape.

Messages of errors come from `tuili.errors`, which never hold a prompt, or from the fixed texts here: what is
ours to mend, and how busy the server is, is not told.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tuili import errors

RETRY_AFTER_S = 1
SPLIT_LEVELS = 5  # of an answer: itself, its choices, one, its logprobs, their tokens
SPLIT_ITEMS = 1024  # numbers
SENT_BYTES = 256 << 10


class Refused(Exception):
    """An HTTP error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}


# In order: the first class that an error is an instance of says its status; a text of ours where theirs would
# tell what is not the client's business.
_STATUS: tuple[tuple[type[errors.TuiliError], int, str | None], ...] = (
    (errors.QueueFullError, 429, "the server is full; try again later"),
    (errors.DeadlineExceeded, 408, "the deadline passed, or could not be met, before the answer began"),
    (errors.RequestCancelled, 503, "the server ended the request; try again"),
    (errors.EngineClosedError, 503, "the server is closing; try again"),
    (errors.EngineOutOfMemoryError, 503, "the server is out of memory; try again later"),
    (errors.NumericError, 500, "the model's numbers overflowed on this request"),
    (errors.KVCacheExhaustedError, 400, None),  # told at submission alone: no waiting would make it fit
    (errors.InvalidParameterError, 400, None),
    (errors.PromptTooLongError, 400, None),
    (errors.TokenIdError, 400, None),
    (errors.GrammarError, 400, None),
    (errors.TemplateError, 400, None),
    (errors.ModelUnsupportedError, 400, None),
    (errors.TokenizerError, 400, None),
)
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
_KINDS |= {404: "invalid_request_error", 408: "timeout_error", 429: "rate_limit_error"}


def refusal(error: Exception) -> Refused:
    """The answer to an error, whatever it is."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, errors.NumericError) and error.code == errors.NO_TOKEN_ALLOWED:
        return Refused(400, str(error), code=error.code)  # of what was asked for, and no fault of the model
    if isinstance(error, errors.TuiliError):
        for kind, status, message in _STATUS:
            if isinstance(error, kind):
                headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
                if status == 408:  # clients of OpenAI's ask again on this status, with the same deadline
                    headers = {"X-Should-Retry": "false"}
                return Refused(
                    status,
                    message or str(error).removesuffix(errors.CUTTING_HELPS),
                    code=error.code,
                    param=error.param,
                    headers=headers,
                )
    if isinstance(error, MemoryError):
        return refusal(errors.EngineOutOfMemoryError(""))
    return Refused(500, "the server failed on this request", code="internal")


def error_body(refused: Refused) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = _KINDS.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """UTF-8 on one line, also for readers that break lines at U+0085, U+2028 and U+2029."""
    text = _encode(value)
    for character in ("\x85", "\u2028", "\u2029"):
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace")


def large_to_json(value: Any) -> bytes:
    """`to_json` in many short calls: each keeps the event loop from running, on whatever thread it is."""
    return b"".join(_parts(value, SPLIT_LEVELS))


def _parts(value: Any, levels: int) -> Iterator[bytes]:
    if not levels or not value or not isinstance(value, dict | list):
        yield to_json(value)
    elif isinstance(value, dict):
        for i, (key, item) in enumerate(value.items()):
            yield (b"," if i else b"{") + to_json(key) + b":"
            yield from _parts(item, levels - 1)
        yield b"}"
    elif isinstance(value[-1], dict | list):  # the first may be null
        for i, item in enumerate(value):
            yield b"," if i else b"["
            yield from _parts(item, levels - 1)
        yield b"]"
    else:
        for at in range(0, len(value), SPLIT_ITEMS):
            yield (b"," if at else b"[") + to_json(value[at : at + SPLIT_ITEMS])[1:-1]
        yield b"]"


class Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return to_json(content)


class EncodedJson(JSONResponse):
    """A body that was already made, off the event loop, and is sent as fast as it is read."""

    def render(self, content: Any) -> bytes:
        return bytes(content)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for at in range(0, len(self.body), SENT_BYTES):
            part, more = self.body[at : at + SENT_BYTES], at + SENT_BYTES < len(self.body)
            await send({"type": "http.response.body", "body": part, "more_body": more})


def error_response(error: Exception) -> Json:
    refused = refusal(error)
    return Json(error_body(refused), status_code=refused.status, headers=refused.headers)


class Events(Response):
    """Server-sent events, one JSON value each, which may be written already. An error becomes the last value;
    then, in any case, [DONE].
    """

    media_type = "text/event-stream"

    def __init__(self, values: AsyncGenerator[dict[str, Any] | bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._values = values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_event(data: bytes) -> None:
            event = b"data: " + data + b"\n\n"
            for at in range(0, len(event), SENT_BYTES):
                part = event[at : at + SENT_BYTES]
                await send({"type": "http.response.body", "body": part, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for value in self._values:
                await send_event(value if isinstance(value, bytes) else to_json(value))
        except Exception as error:
            await send_event(to_json(error_body(refusal(error))))
        finally:
            await self._values.aclose()
        await send_event(b"[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
