"""A server on a thread, over a tiny model; and clients that say exactly what they like."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tuili
from patience import least, slowness
from tuili.server.app import App
from tuili.server.process import SWITCH_INTERVAL_S, Server, bind
from tuili.server.settings import Settings

KEY, OTHER_KEY = "sk-test-0123456789", "sk-other-9876543210"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error, which must have OpenAI's shape."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error["code"]

    def events(self) -> list[Any]:
        """The values of a stream, which must end with [DONE] once."""
        lines = self.body.decode().split("\n\n")
        assert lines.pop() == "" and all(line.startswith("data: ") for line in lines)
        values = [line.removeprefix("data: ") for line in lines]
        assert values.pop() == "[DONE]" and "[DONE]" not in values
        return [json.loads(value) for value in values]


@dataclass
class Running:
    """A server that runs; its loop for what must be done there."""

    app: App
    port: int
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 60.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def send(self, data: bytes, timeout: float = 60.0) -> Answer | None:
        """The answer to these bytes; None if the server closes without one, perhaps before all were sent."""
        with self.connect(timeout) as connection:
            with contextlib.suppress(ConnectionError):  # what it has said by then can be read
                connection.sendall(data)
            return read_answer(connection)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        host: str | None = None,
        **headers: str,
    ) -> Answer:
        """One request. body: bytes as they are, anything else as JSON. Names of headers: _ stands for -."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1"]
        given = {"Host": host or f"127.0.0.1:{self.port}", "Connection": "close"}
        if body is not None:
            given |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines += [f"{name}: {value}" for name, value in given.items()]
        answer = self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + data)
        assert answer is not None, "the server closed without an answer"
        return answer

    def stats(self) -> dict[str, Any]:
        return self.app.llm.stats()


def read_answer(connection: socket.socket) -> Answer | None:
    """A whole answer, to the end of the connection or as long as it says."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = b""
        with contextlib.suppress(ConnectionResetError):
            part = connection.recv(1 << 16)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", -1))
    with contextlib.suppress(ConnectionResetError):
        while (length < 0 or len(body) < length) and (part := connection.recv(1 << 16)):
            body += part
    body = body if length < 0 else body[:length]
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Answer(int(first.split()[1]), headers, body)


def _unchunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        n = int(size, 16)
        whole, data = whole + rest[:n], rest[n + 2 :]
    return whole


@contextlib.contextmanager
def running(llm: tuili.LLM, **settings: Any) -> Iterator[Running]:
    """Serve `llm` on a thread."""
    chosen = Settings(**{"port": 0, **settings})
    app, listener = App(llm, chosen), bind(chosen)
    server, loop = Server(app), asyncio.new_event_loop()
    listener.listen(512)
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve([listener]),))
    thread.start()
    try:
        yield Running(app, listener.getsockname()[1], loop)
    finally:
        loop.call_soon_threadsafe(app.abort_all)
        server.should_exit = server.force_exit = True
        thread.join(60)
        loop.close()
        listener.close()
        app.close()
        assert not thread.is_alive()


def hold_up(server: Running, path: str, body: Any, *statuses: int) -> str:
    """How long the event loop stood still while this was answered with one of `statuses`; empty if not long:
    20 ms, on a slow machine in proportion.
    """
    gc.collect()
    gc.freeze()  # as `tuili serve` does
    limit_s = 0.02 * slowness()
    lag_s = least(lambda: _lag_s(server, path, body, statuses), limit_s)
    return "" if lag_s <= limit_s else f"the loop stood still for {1000 * lag_s:.0f} ms"


def queued_s() -> float:
    """For how long this thread, ready to run, has had no processor; 0 where the system does not tell."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


def _lag_s(server: Running, path: str, body: Any, statuses: tuple[int, ...]) -> float:
    """The longest time on the clock without its waits for a processor, or of this process's processors:
    whichever is less, since the machine's other work is not ours.
    """
    lags = [0.0]
    stop = threading.Event()

    async def watch() -> None:
        while not stop.is_set():
            before, cpu = time.monotonic() - queued_s(), time.process_time()
            await asyncio.sleep(0.001)
            here_s = time.monotonic() - queued_s() - before - 0.001
            lags.append(min(here_s, time.process_time() - cpu))

    watching = asyncio.run_coroutine_threadsafe(watch(), server.loop)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        assert server.ask(path, body).status in statuses
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        watching.result(60)
    return max(lags)
