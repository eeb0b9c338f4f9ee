"""The application: endpoints over one LLM, behind the guard."""

from __future__ import annotations

import asyncio
import contextlib
import time
import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import PurePath
from typing import Any, TypeVar
from weakref import WeakSet

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from tuili.chat.completions import in_names
from tuili.errors import DeadlineExceeded, ModelUnsupportedError, RequestCancelled
from tuili.generation.outputs import Chunk
from tuili.generation.request import Handle
from tuili.llm import LLM
from tuili.server.document import document
from tuili.server.fields import Served
from tuili.server.guard import Exchange, Guard, closing
from tuili.server.metrics import Metrics
from tuili.server.replies import EncodedJson, Events, Json, Refused, large_to_json
from tuili.server.settings import Settings
from tuili.server.text_requests import Job, TextRequests, Widen
from tuili.server.vector_requests import KeepOn, VectorRequests

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

TEXT_THREADS = 2  # for JSON, templates and tokenizing
LONG_BODY_BYTES = 64 << 10  # a body that is longer waits for those like it, and not the others for it
VECTOR_THREADS = 8  # these wait for the encoder

_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class App:
    """ASGI. `drain` and `abort_all` end its work, on the loop's thread; `close` its threads, not the LLM."""

    def __init__(self, llm: LLM, settings: Settings) -> None:
        name = settings.served_model_name or model_name(llm)
        self.llm, self.settings, self.metrics = llm, settings, Metrics()
        self.served = Served(llm, name)
        self.texts = TextRequests(self.served, settings.request_timeout_s)
        self.vectors = VectorRequests(self.served)
        self._created = int(time.time())
        self._text_threads = ThreadPoolExecutor(TEXT_THREADS, "tuili-http-text")
        self._long_threads = ThreadPoolExecutor(1, "tuili-http-long")
        self._vector_threads = ThreadPoolExecutor(VECTOR_THREADS, "tuili-http-vectors")
        self._handles: WeakSet[Handle] = WeakSet()
        self.routes = self._routes()
        self.methods = {
            route.path.replace("{model:path}", "{name}"): tuple(sorted(route.methods or ()))
            for route in self.routes
        }
        router = Router(self.routes, redirect_slashes=False)
        self._document = document(name, llm.kind)
        self._guard = Guard(router, self.methods, settings, self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guard(scope, receive, send)

    def drain(self) -> None:
        """Take nothing new."""
        self._guard.drain()

    def abort_all(self) -> None:
        """End what is under way: clients see finish_reason "error", or 503."""
        self._guard.end()
        for handle in list(self._handles):
            handle.abort()

    def close(self) -> None:
        for pool in (self._text_threads, self._long_threads, self._vector_threads):
            pool.shutdown(wait=False, cancel_futures=True)

    def _routes(self) -> list[Route]:
        get: dict[str, Endpoint] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v1/models": self._models,
            "/v1/models/{model:path}": self._model,
        }
        if self.settings.page:
            get |= {path: partial(_page, *file) for path, file in _PAGE.items()}
        post: dict[str, Endpoint] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._text,
            "/v1/embeddings": self._embeddings,
            "/v1/rerank": self._rerank,
            "/rerank": self._rerank,  # this, /score and /classify are where vLLM has them
            "/v1/score": self._score,
            "/score": self._score,
            "/v1/classify": self._classify,
            "/classify": self._classify,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
        }
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
        ]

    # --- about the server -------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        self._check_engine()
        return Json({"status": "ok"})

    def _check_engine(self) -> None:
        if not self.llm.stats().get("healthy", True):
            raise Refused(503, "the engine is closed, or a step of it does not end", code="unhealthy")
        self.llm.check_usable()

    async def _ready(self, request: Request) -> Response:
        if self._guard.draining:
            raise closing()
        self._check_engine()
        return Json({"status": "ready"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(self.llm.stats()), media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        return Json(self._document)

    async def _models(self, request: Request) -> Response:
        return Json({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self.served.check_model(request.path_params["model"])
        return Json(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "tuili",
            "root": self.served.name,
            "parent": None,
            "kind": self.llm.kind,
            "max_model_len": self.llm.config["max_model_len"],
        }

    # --- text -------------------------------------------------------------------------------------------

    async def _chat(self, request: Request) -> Response:
        exchange = _exchange(request)
        return await self._respond(exchange, self.texts.chat)

    async def _text(self, request: Request) -> Response:
        exchange = _exchange(request)
        return await self._respond(exchange, self.texts.text)

    async def _respond(self, exchange: Exchange, make: Callable[[bytes, str | None, Widen], Job]) -> Response:
        if self.llm.kind == "encoder":
            raise ModelUnsupportedError("this model makes vectors, not text", code="wrong_kind")
        job = await self._read(
            exchange, lambda: make(exchange.body, exchange.tenant.salt, exchange.place.widen)
        )
        exchange.hand_on()
        self._handles.update(job.handles)
        if not job.stream:
            return EncodedJson(await self._whole(exchange, job))
        events = self._events(exchange, job)
        first = await anext(events)  # what goes wrong before the first token has a status of its own
        return Events(_resumed(first, events))

    async def _whole(self, exchange: Exchange, job: Job) -> bytes:
        try:
            for handle in job.handles:
                await handle.ended()
            outputs = await self._off_loop(lambda: [handle.result() for handle in job.handles])
            return await self._off_loop(lambda: large_to_json(job.format.whole(outputs)))
        finally:
            self._end(exchange, job)

    async def _events(self, exchange: Exchange, job: Job) -> AsyncGenerator[dict[str, Any] | bytes]:
        last: dict[tuple[int, int], float] = {}  # when each continuation had news
        try:
            async for prompt, chunk in _merged(job.handles):
                now, whose = time.monotonic(), (prompt, chunk.index)
                if whose in last and chunk.token_ids:
                    n = len(chunk.token_ids)
                    self.metrics.inter_token_latency_seconds.observe((now - last[whose]) / n, n)
                last[whose] = now
                if job.format.is_long(prompt, chunk):
                    for written in await self._off_loop(partial(_written, job, prompt, chunk)):
                        yield written
                else:
                    for piece in _pieces(job, prompt, chunk):
                        yield piece
            for handle in job.handles:
                await handle.ended()
            if job.include_usage:
                yield job.format.usage([handle.totals() for handle in job.handles])
        finally:
            self._end(exchange, job)

    def _end(self, exchange: Exchange, job: Job) -> None:
        """Whatever happened: what is left of it ends, and all that there was is counted."""
        for handle in job.handles:
            handle.abort()
        totals = [handle.totals() for handle in job.handles]
        exchange.n_prompt = sum(each.n_prompt for each in totals)
        exchange.n_generated = sum(each.n_generated for each in totals)
        exchange.place.use_tokens(exchange.n_prompt + exchange.n_generated)
        for each in totals:
            if each.metrics and each.n_generated:
                self.metrics.finished(each.metrics, list(each.finish_reasons))

    # --- vectors and tokens -----------------------------------------------------------------------------

    async def _embeddings(self, request: Request) -> Response:
        return await self._vectors(_exchange(request), self.vectors.embed)

    async def _rerank(self, request: Request) -> Response:
        return await self._vectors(_exchange(request), self.vectors.rerank)

    async def _score(self, request: Request) -> Response:
        return await self._vectors(_exchange(request), self.vectors.score)

    async def _classify(self, request: Request) -> Response:
        return await self._vectors(_exchange(request), self.vectors.classify)

    async def _vectors(self, exchange: Exchange, make: Callable[[bytes, KeepOn], dict[str, Any]]) -> Response:
        left = False

        def keep_on(done: int, total: int) -> None:
            if left:
                raise RequestCancelled("the client left")

        def work() -> bytes:
            answer = make(exchange.body, keep_on)
            exchange.n_prompt = answer["usage"]["prompt_tokens"]
            return large_to_json(answer)

        try:
            async with self._in_time():
                return EncodedJson(await self._off_loop(work, self._vector_threads))
        finally:
            left = True
            exchange.place.use_tokens(exchange.n_prompt or 0)

    async def _tokenize(self, request: Request) -> Response:
        exchange = _exchange(request)
        work = self.texts.tokenize
        return EncodedJson(await self._read(exchange, lambda: large_to_json(work(exchange.body))))

    async def _detokenize(self, request: Request) -> Response:
        exchange = _exchange(request)
        work = self.texts.detokenize
        return EncodedJson(await self._read(exchange, lambda: large_to_json(work(exchange.body))))

    async def _read(self, exchange: Exchange, function: Callable[[], T]) -> T:
        """Work that begins with the body."""
        is_long = len(exchange.body) > LONG_BODY_BYTES
        async with self._in_time():
            return await self._off_loop(function, self._long_threads if is_long else self._text_threads)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None]:
        """For what has no deadline in the engine. raises  DeadlineExceeded"""
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline passed before the engine was asked, or by its vectors"
            ) from None

    async def _off_loop(self, function: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool or self._text_threads, function)


def model_name(llm: LLM) -> str:
    """The last part of where the model came from."""
    last = PurePath(llm.name).name.removesuffix(".gguf")
    name = unicodedata.normalize("NFC", last)  # as keyboards write it
    return "".join(c if in_names(c) else "-" for c in name) or "model"


def _exchange(request: Request) -> Exchange:
    exchange: Exchange = request.scope["exchange"]
    return exchange


async def _page(file: str, media_type: str, request: Request) -> Response:
    content = resources.files("tuili.server").joinpath("static", file).read_bytes()
    return Response(content, media_type=media_type, headers=_PAGE_HEADERS)


def _pieces(job: Job, prompt: int, chunk: Chunk) -> list[dict[str, Any]]:
    pieces = job.format.pieces(prompt, chunk)
    return [{**piece, "usage": None} for piece in pieces] if job.include_usage else pieces


def _written(job: Job, prompt: int, chunk: Chunk) -> list[bytes]:
    return [large_to_json(piece) for piece in _pieces(job, prompt, chunk)]


async def _resumed(first: T, rest: AsyncGenerator[T]) -> AsyncGenerator[T]:
    try:
        yield first
        async for item in rest:
            yield item
    finally:
        await rest.aclose()


async def _merged(handles: list[Handle]) -> AsyncGenerator[tuple[int, Chunk]]:
    """The chunks of several requests as they come, each with the index of its request."""
    if len(handles) == 1:
        async for chunk in handles[0]:
            yield 0, chunk
        return
    arrived: asyncio.Queue[tuple[int, Chunk] | Exception | None] = asyncio.Queue()

    async def pump(index: int, handle: Handle) -> None:
        try:
            async for chunk in handle:
                arrived.put_nowait((index, chunk))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.ensure_future(pump(i, handle)) for i, handle in enumerate(handles)]
    try:
        n_open = len(tasks)
        while n_open:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                n_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
