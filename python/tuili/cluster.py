"""An LLM on a Ray cluster: replicas behind Ray Serve, one model in each. Needs tuili[ray].

Ray does what is distributed: placing, health, restarts with back-off, scaling on the queue's length. A
request goes to a replica that saw the same beginning of a conversation, where its keys and values are cached.
Anybody who reaches Ray's ports can run code (CVE-2023-48022): use it on networks that you trust alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError

from tuili import __version__
from tuili.device import named
from tuili.errors import EngineClosedError, InvalidParameterError
from tuili.generation.prefix import identity
from tuili.llm import LLM
from tuili.server.app import model_name
from tuili.server.fields import Served
from tuili.server.replies import Refused
from tuili.server.text_requests import Job, TextRequests

T = TypeVar("T")

PREFIX_CHARS = 512  # of a conversation, by which its replica is chosen
MAX_PREFIXES = 256  # that a replica is known for
TIMEOUT_S = 600.0


def fingerprint(llm: LLM) -> str:
    """What decides an answer's bits: tuili's version, and sha256 of the model as it is computed."""
    settings = {"compute": llm.config["compute"], "device": named(llm.config["device"])}
    return f"{__version__}-{identity(llm.loaded.model, settings).hex()}"


def application(
    model: str,
    *,
    expected: str | None = None,
    replicas: tuple[int, int] = (1, 4),
    queue: int = 16,
    **options: Any,
) -> serve.Application:
    """What `serve.run` takes; its handle goes into `Client`.

    model     as LLM takes it; the same files on every node
    expected  a `fingerprint`: a node with another version or other files is refused when it joins
    replicas  least and most; Ray adds one where more than `queue` requests wait or run in each
    options   of LLM

    A replica takes up to 4 × queue requests; beyond that Ray makes callers wait.
    """
    scaling = {"min_replicas": replicas[0], "max_replicas": replicas[1], "target_ongoing_requests": queue}
    deployment = serve.deployment(Replica, name="tuili").options(
        autoscaling_config=scaling, max_ongoing_requests=4 * queue, health_check_period_s=1.0
    )
    return deployment.bind(model, expected, options)


class Replica:
    """One LLM in an actor. Bodies are those of /v1/chat/completions, as bytes of JSON."""

    def __init__(self, model: str, expected: str | None, options: dict[str, Any]) -> None:
        self._llm = LLM(model, **options)
        found = fingerprint(self._llm)
        if expected is not None and found != expected:
            self._llm.close()
            raise InvalidParameterError(
                f"this node computes {found[:24]}…, the cluster {expected[:24]}…: use one version of tuili "
                "and one model",
                param="expected",
                code="node_differs",
            )
        self._requests = TextRequests(Served(self._llm, model_name(self._llm)), TIMEOUT_S)

    def check_health(self) -> None:
        """Called by Ray; raises once the engine is closed."""
        self._llm.check_usable()

    async def fingerprint(self) -> str:
        return fingerprint(self._llm)

    async def chat(self, body: bytes) -> dict[str, Any]:
        """The whole answer."""
        job = await self._job(body)
        return job.format.whole([await handle for handle in job.handles])

    async def stream(self, body: bytes) -> AsyncGenerator[dict[str, Any]]:
        """Its pieces, as the events of /v1/chat/completions have them."""
        job = await self._job(body)
        async for chunk in job.handles[0]:
            for piece in job.format.pieces(0, chunk):
                yield piece

    async def _job(self, body: bytes) -> Job:
        await self._prefix(serve.get_multiplexed_model_id())
        try:
            return await asyncio.to_thread(self._requests.chat, body, None, lambda n_sequences: None)
        except Refused as refused:  # which belongs to HTTP and does not travel
            raise InvalidParameterError(refused.message, code=refused.code, param=refused.param) from None

    @serve.multiplexed(max_num_models_per_replica=MAX_PREFIXES)  # type: ignore[untyped-decorator]
    async def _prefix(self, prefix_id: str) -> str:
        """Tells Ray's router that this replica knows the prefix; what is cached is the engine's business."""
        return prefix_id


class Client:
    """Asks the replicas. handle: what `serve.run(application(…))` returns.

    raises  TuiliError as LLM does; EngineClosedError with code "replica_lost" if a replica ended meanwhile:
            ask again, the answer has the same bits
    """

    def __init__(self, handle: serve.handle.DeploymentHandle) -> None:
        self._handle = handle

    def chat(self, **fields: Any) -> dict[str, Any]:
        """As `LLM.create_chat_completion`."""
        handle = self._handle.options(multiplexed_model_id=_prefix_id(fields))
        return _unwrapped(lambda: handle.chat.remote(json.dumps(fields).encode()).result())

    def chat_all(self, requests: list[dict[str, Any]]) -> list[dict[str, Any] | EngineClosedError]:
        """Many at once, in order; an error in the place of an answer that was lost with its replica."""
        responses = [
            self._handle.options(multiplexed_model_id=_prefix_id(fields)).chat.remote(
                json.dumps(fields).encode()
            )
            for fields in requests
        ]
        answers: list[dict[str, Any] | EngineClosedError] = []
        for response in responses:
            try:
                answers.append(_unwrapped(response.result))
            except EngineClosedError as error:
                answers.append(error)
        return answers


def _prefix_id(fields: dict[str, Any]) -> str:
    start = json.dumps(fields.get("messages"), ensure_ascii=False)[:PREFIX_CHARS]
    return hashlib.sha256(start.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _unwrapped(call: Callable[[], T]) -> T:
    try:
        return call()
    except RayActorError:
        lost = "the replica that computed the answer is gone; ask again"
        raise EngineClosedError(lost, code="replica_lost") from None
    except RayError as error:
        cause = getattr(error, "cause", None)
        if cause is None:
            raise
        raise cause from None
