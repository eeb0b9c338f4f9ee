"""A request that is being worked on, and what a caller holds of it: a handle, and streams of chunks.

A `Request` is shared by the engine's thread, which appends to it, and by any number of consumers, which read
it. The outputs are the only buffer: a stream is a cursor into them, so a slow consumer costs nothing and
never blocks the engine. Text is made of token ids by the consumer, on its own thread, unless the engine had
to look for stop strings in it.
"""

from __future__ import annotations

import copy
import math
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from tuili.checks import number
from tuili.errors import GrammarError, RequestCancelled
from tuili.generation.outputs import (
    Chunk,
    CompletionOutput,
    FinishReason,
    Logprobs,
    RequestOutput,
    TokenLogprob,
    Totals,
)
from tuili.generation.params import SamplingParams
from tuili.generation.spelling import Spelling, TextDecoder
from tuili.generation.structure import form_of
from tuili.generation.worker import Waitable

if TYPE_CHECKING:
    import asyncio

    import numpy as np

    from tuili.generation.engine import Engine


@dataclass(slots=True)
class Track:
    """One continuation as it grows.

    spelling  how its ids become text; None: the engine makes the text, which is in `pieces`
    """

    spelling: Spelling | None = None
    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] | None = None  # of these tokens
    beam_logprob: float | None = None
    score: float | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class Times:
    """Moments of a request on time.monotonic()'s clock; None has not come."""

    submitted: float
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None

    def metrics(self, cached_tokens: int, preemptions: int) -> dict[str, float | None]:
        def between(start: float | None, end: float | None) -> float | None:
            return None if start is None or end is None else end - start

        return {
            "queue_s": between(self.submitted, self.admitted),
            "prefill_s": between(self.admitted, self.first_token),
            "first_token_s": between(self.submitted, self.first_token),
            "decode_s": between(self.first_token, self.finished),
            "total_s": between(self.submitted, self.finished),
            "cached_tokens": cached_tokens,
            "preemptions": preemptions,
            "first_token_time": self.first_token,
            "finished_time": self.finished,
        }


@dataclass(slots=True)
class Waiter:
    """A coroutine that waits for a request to change."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    request: Request


class Request(Waitable):
    """A request between submission and consumption. The engine's thread writes, under `lock`; consumers
    read.
    """

    def __init__(
        self,
        request_id: int,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        submitted: float,
        prompt: str | None = None,
        truncated: bool = False,
        spelling: Spelling | None = None,
        make_decoder: Callable[[], TextDecoder] | None = None,
        lock: threading.RLock | None = None,
    ) -> None:
        super().__init__(lock or threading.RLock())
        self.id = request_id  # the larger, the later
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.truncated = truncated
        self.make_decoder = make_decoder
        self.tracks = [
            Track(spelling, logprobs=None if params.logprobs is None else []) for _ in range(params.n)
        ]
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.collected: np.ndarray | None = None
        self.times = Times(submitted=submitted)
        seconds = params.deadline_s
        self.deadline = math.inf if seconds is None else submitted + seconds  # on the same clock
        self.metrics: dict[str, float | None] = {}
        self.error: BaseException | None = None
        self.done = False
        self.waiters: list[Waiter] = []
        self.streamed = False  # whether somebody reads chunks: others wait for the end and need no waking

    # --- the engine's side ----------------------------------------------------------------------------------

    def append(self, index: int, text: str, token_ids: list[int], logprobs: Sequence[Logprobs]) -> None:
        """Add to a continuation; consumers see it with the next `wake`."""
        track = self.tracks[index]
        with self.lock:
            if text:
                track.pieces.append(text)
            track.token_ids += token_ids
            if logprobs and track.logprobs is not None:
                track.logprobs += logprobs

    def keep(self, n: int) -> None:
        """Forget the continuations after the first n, none of which has begun."""
        with self.lock:
            del self.tracks[n:]

    def finish(self, index: int, reason: FinishReason, stop_reason: str | int | None) -> None:
        with self.lock:
            self.tracks[index].finish_reason = reason
            self.tracks[index].stop_reason = stop_reason

    def settle(self, metrics: dict[str, float | None], error: BaseException | None = None) -> None:
        """The end: nothing is written after this. With an error, consumers get it in place of an output."""
        if isinstance(error, GrammarError) and error.param is None:
            form = form_of(self.params)
            error.param = None if form is None else form.kind
        with self.lock:
            if not self.done:
                self.metrics, self.error, self.done = metrics, error, True

    def wake(self) -> list[Waiter]:
        """Wake waiting threads; returns the coroutines to wake, which `wake_loops` does."""
        with self.lock:
            self.notify()
            waiters, self.waiters = self.waiters, []
            return waiters

    def is_orphan(self) -> bool:
        """Whether only coroutines wait for it whose event loops are closed."""
        with self.lock:
            loops = [waiter.loop for waiter in self.waiters]
            return bool(loops) and not self.waiting and all(loop.is_closed() for loop in loops)

    # --- the consumers' side --------------------------------------------------------------------------------

    def output(self) -> RequestOutput:
        """Once done. Raises the request's error, or the tokenizer's if it cannot make the text."""
        if self.error is not None:
            raise fresh(self.error)
        outputs = [Reader(self, index, track).output() for index, track in enumerate(self.tracks)]
        return RequestOutput(
            self.id,
            self.prompt,
            list(self.prompt_token_ids),
            outputs,
            self.prompt_logprobs,
            self.truncated,
            dict(self.metrics),
        )


class Reader:
    """One consumer's place in one continuation, for one thread at a time."""

    def __init__(self, request: Request, index: int, track: Track) -> None:
        self._lock, self._track, self._index = request.lock, track, index
        spelling = self._track.spelling
        self._decoder = None if spelling is None else spelling.make_decoder()
        self._n_pieces = self._n_ids = 0
        self._ended = False

    def has_news(self) -> bool:
        track = self._track
        if self._ended:
            return False
        grown = len(track.pieces) > self._n_pieces or len(track.token_ids) > self._n_ids
        return grown or track.finish_reason is not None

    def take(self) -> Chunk:
        """What has come since the last look. An error leaves the place where it was."""
        track, begin = self._track, self._n_ids
        with self._lock:
            ids, n_pieces = track.token_ids[begin:], len(track.pieces)
            text = "".join(track.pieces[self._n_pieces :])
            entries = None if track.logprobs is None else track.logprobs[begin : begin + len(ids)]
            reason, stop_reason = track.finish_reason, track.stop_reason
        decoder = copy.copy(self._decoder)  # it goes on once all has gone well
        if decoder is not None and track.spelling is not None:
            n_shown = track.spelling.n_shown(begin, ids)
            text = decoder.push_many(ids[:n_shown])
            if reason is not None:
                text += decoder.flush()
        self._decoder, self._n_ids, self._n_pieces = decoder, begin + len(ids), n_pieces
        self._ended = reason is not None
        logprobs = None
        if entries is not None:
            logprobs = [TokenLogprob(i, own, list(top)) for i, (own, top) in zip(ids, entries, strict=False)]
        return Chunk(self._index, text, ids, logprobs, reason, stop_reason)

    def output(self) -> CompletionOutput:
        """All of a continuation that has ended, to a reader at its beginning."""
        track = self._track
        chunk, total = self.take(), track.beam_logprob
        if chunk.logprobs is not None:
            total = sum(entry.logprob for entry in chunk.logprobs)
        return CompletionOutput(
            self._index,
            chunk.text,
            chunk.token_ids,
            chunk.finish_reason,
            chunk.stop_reason,
            chunk.logprobs,
            total,
            track.score,
        )


def fresh(error: BaseException) -> BaseException:
    """A copy to raise: the stored one would gather the frames, hence the requests, of all who raise it."""
    try:
        twin = copy.copy(error)
    except Exception:
        return error
    twin.__cause__ = error.__cause__
    return twin.with_traceback(None)


def wake_loops(waiters: Iterable[Waiter]) -> list[Request]:
    """Wake coroutines with one call per event loop; returns the requests that only coroutines waited for
    whose loops are closed.
    """
    orphans: list[Request] = []
    awaited: set[Request] = set()
    by_loop: dict[Any, list[Waiter]] = {}
    for waiter in waiters:
        by_loop.setdefault(waiter.loop, []).append(waiter)
    for loop, group in by_loop.items():
        requests = [waiter.request for waiter in group]
        try:
            loop.call_soon_threadsafe(_set_all, [waiter.future for waiter in group])
            awaited.update(requests)
        except RuntimeError:  # closed
            orphans += requests
    return [request for request in orphans if request not in awaited and not request.waiting]


def _set_all(futures: list[Any]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Handle:
    """A submitted request: wait for it, await it, iterate over its chunks (`for` and `async for`), or abort
    it.

    Safe from any thread. A handle that nobody holds any more aborts its request, and so does a task that is
    cancelled while it awaits one. Iterating twice gives the chunks twice.
    """

    __slots__ = ("__weakref__", "_engine", "_request")

    def __init__(self, request: Request, engine: Engine) -> None:
        self._request = request
        self._engine = engine

    @property
    def request_id(self) -> int:
        """The id that its RequestOutput has; the later, the larger."""
        return self._request.id

    @property
    def done(self) -> bool:
        """Whether `result` returns, or raises, at once."""
        return self._request.done

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Wait for the output. After `abort` or a deadline it holds what there was by then.

        raises  TimeoutError after `timeout` seconds (the request goes on); RequestCancelled, DeadlineExceeded
                if it ended before its first token; NumericError, EngineClosedError and what else befell it;
                InvalidParameterError for a timeout that is negative or no finite number
        """
        timeout = None if timeout is None else number("timeout", timeout, 0.0, sys.float_info.max)
        request = self._request
        self._engine.check_may_wait()

        def ready() -> bool:
            return request.done

        if not ready():
            self._engine.while_awaited(lambda: request.wait_until(ready, timeout, "the output"), ready)
        return request.output()

    def asked(self) -> RequestOutput:
        """The prompt, in an output that has nothing else; log-probabilities of it once a stream has begun."""
        request = self._request
        ids = list(request.prompt_token_ids)
        return RequestOutput(
            request.id, request.prompt, ids, [], request.prompt_logprobs, request.truncated, {}
        )

    def decoder(self) -> TextDecoder:
        """An incremental detokenizer at the beginning of an answer."""
        assert self._request.make_decoder is not None
        return self._request.make_decoder()

    def collected(self) -> np.ndarray:
        """What `Engine.collect` asked for, once there is a result."""
        assert self._request.collected is not None
        return self._request.collected

    async def ended(self) -> None:
        """Wait for the end. Making the output's text is left to `result`, on whatever thread."""
        self._engine.check_process()  # a lock may have been held when the process was forked
        while not self._request.done:
            await self._change(None)

    def totals(self) -> Totals:
        """The numbers as they are now."""
        self._engine.check_process()  # as above
        request = self._request
        with request.lock:
            n_generated = sum(len(track.token_ids) for track in request.tracks)
            reasons = [track.finish_reason for track in request.tracks]
            return Totals(len(request.prompt_token_ids), n_generated, reasons, dict(request.metrics))

    def abort(self) -> None:
        """End the request within one step of the engine. Harmless when repeated or too late."""
        if not self._request.done:
            self._engine.abort(self._request)

    def __iter__(self) -> Stream:
        return Stream(self)

    def __aiter__(self) -> Stream:
        return Stream(self)

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self._output_later().__await__()

    async def _output_later(self) -> RequestOutput:
        await self.ended()
        return self._request.output()

    async def _change(self, stream: Stream | None) -> None:
        """Return when the request may have changed since the caller looked; abort it if the wait is
        cancelled.
        """
        import asyncio

        request = self._request
        self._engine.check_process()
        loop = asyncio.get_running_loop()
        with request.lock:
            if request.done or (stream is not None and stream.has_news()):
                return
            future = loop.create_future()
            request.waiters.append(Waiter(loop, future, request))
        try:
            await future
        except BaseException:
            self.abort()
            raise

    def __del__(self) -> None:
        request = getattr(self, "_request", None)
        if request is not None and not request.done:
            self._engine.abort(request)

    def __repr__(self) -> str:
        return f"<tuili request {self._request.id}, {'done' if self._request.done else 'running'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Handle cannot be pickled or copied: it belongs to an engine of this process")


class Stream(Iterator[Chunk], AsyncIterator[Chunk]):
    """The chunks of a request, from its beginning, to one consumer. Tokens that came between two looks come
    as one. `contextlib.closing` and `aclosing` end it where a block ends.
    """

    def __init__(self, handle: Handle) -> None:
        handle._engine.check_process()
        self._handle = handle
        self._request = handle._request
        if not self._request.streamed:
            self._request.streamed = True
            handle._engine.interrupt()
        tracks = [*self._request.tracks]  # a beam search may `keep` fewer
        self._readers = [Reader(self._request, index, track) for index, track in enumerate(tracks)]
        self._turn = threading.RLock()  # of the threads that read this stream; taken before the request's
        self._closed = False

    def has_news(self) -> bool:
        """Whether a chunk is there."""
        return any(reader.has_news() for reader in self._readers)

    def close(self) -> None:
        """Abort the request, and end: no chunk follows, not of what came before either. Harmless when
        repeated, from any thread.
        """
        self._closed = True
        self._handle.abort()

    async def aclose(self) -> None:
        """`close`."""
        self.close()

    def _next(self) -> Chunk | None:
        """The next chunk; None at the end. Raises the request's error after the last chunk before it."""
        if self._closed:
            return None
        with self._turn:
            reader = next((reader for reader in self._readers if reader.has_news()), None)
            chunk = None if reader is None else reader.take()
            if reader is not None:  # its siblings are next; another thread may be looking at the list
                self._readers = [*(other for other in self._readers if other is not reader), reader]
        if chunk is None and self._request.error is not None:
            raise fresh(self._request.error)
        return chunk

    def __iter__(self) -> Stream:
        return self

    def __aiter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        request, engine = self._request, self._handle._engine

        def ready() -> bool:
            return request.done or self._closed or self.has_news()

        while True:  # another thread may have taken what this one waited for
            engine.check_may_wait()
            if not ready():
                engine.while_awaited(lambda: request.wait_until(ready, None, "the next chunk"), ready)
            done = request.done or self._closed  # before the look: what comes in between is there at the next
            chunk = self._next()
            if chunk is not None:
                return chunk
            if done:
                raise StopIteration

    async def __anext__(self) -> Chunk:
        self._handle._engine.check_process()
        while True:
            done = self._request.done or self._closed  # before the look, as above
            chunk = self._next()
            if chunk is not None:
                return chunk
            if done:
                raise StopAsyncIteration
            await self._handle._change(self)


def cancelled() -> RequestCancelled:
    return RequestCancelled("the request was aborted before its first token")
