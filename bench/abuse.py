"""Good streams beside whoever does not mean well.

    python bench/abuse.py [--seconds 20] [--check]

8 good streams are read from `tuili serve` (the engine on one thread), first in quiet, then while 100 invalid
requests a second, 50 slow connections and hostile schemas arrive. Bars: the good streams' p99 gap between two
events grows by at most a half; the server lives; its memory comes back within 20 MB; no answer is a 5xx.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter
from typing import Any

from http_streams import Read, ServerProcess, ask, free_port, percentile, request, tuili_command
from peers.inputs import prompt_ids
from verdicts import Row, at_least, at_most, missed, show

MODEL = "smollm2-135m-instruct"
N_STREAMS, INVALID_PER_S, N_SLOW, HOSTILE_EACH_S = 8, 100, 50, 0.25
N_NEW = 64
COMMAND = ("--threads", "1", "--max-model-len", "1024", "--kv-cache-bytes", str(40 << 20))

INVALID: list[tuple[str, Any]] = [
    ("/v1/completions", {"prompt": "a", "max_tokens": -1}),
    ("/v1/completions", {"prompt": [10**9]}),
    ("/v1/completions", b'{"prompt": '),
    ("/v1/completions", b"[" * 5000),
    ("/v1/chat/completions", {"messages": [{"role": "boss", "content": "x"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 100_000}]}),
    ("/v1/nowhere", {}),
    ("/v1/models/%2e%2e", None),
]
HOSTILE: list[dict[str, Any]] = [
    {"regex": "(" * 60 + "a" + ")*" * 60},
    {"regex": "(a|b|ab)*c{1,1000}" * 8},
    {"json_schema": {"allOf": [{"pattern": f"a{{{i},99}}b*"} for i in range(6)]}},
    {"json_schema": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(900)}}},
    {"grammar": 'start: start "a" | start start | "b"'},
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two parts")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    arguments = parser.parse_args()
    port = free_port()
    with ServerProcess(tuili_command(MODEL, port, *COMMAND), port) as server:
        rows = asyncio.run(measure(server, arguments.seconds))
    show(rows)
    return 1 if arguments.check and missed(rows) else 0


async def measure(server: ServerProcess, seconds: float) -> list[Row]:
    await abuse(server.port, 3.0, Counter())  # what is loaded on first use: grammars, templates
    quiet = await good(server.port, seconds, 0)
    before = server.rss_bytes()  # all of the KV cache was used by now
    statuses: Counter[int] = Counter()
    loud, _ = await asyncio.gather(good(server.port, seconds, 1000), abuse(server.port, seconds, statuses))
    await asyncio.sleep(6.0)  # slow connections are closed by then
    grown = (server.rss_bytes() - before) / 1e6
    return _rows(quiet, loud, statuses, grown, server.alive)


def _rows(
    quiet: list[Read], loud: list[Read], statuses: Counter[int], grown: float, alive: bool
) -> list[Row]:
    gaps = [[gap for read in reads for gap in read.gaps] for reads in (quiet, loud)]
    p99 = [1000 * percentile(some, 0.99) for some in gaps]
    counts = ", ".join(f"{status}: {n}" for status, n in sorted(statuses.items()))
    text = f"{p99[0]:.1f} ms in quiet, {p99[1]:.1f} ms beside the others; p50 "
    text += " and ".join(f"{1000 * percentile(some, 0.5):.1f} ms" for some in gaps)
    failed = sum(n for status, n in statuses.items() if status >= 500)
    whole = [read.status == 200 and read.n_tokens == N_NEW for read in loud]
    return [
        at_most("p99 gap of the good, by that in quiet", p99[1] / p99[0], 1.5, "×", text, []),
        at_least("good streams that were whole", sum(whole) / len(whole), 1.0, "", f"of {len(whole)}", []),
        at_most("answers of 5xx", failed, 0, "", counts, []),
        at_most("memory after it", grown, 20.0, "MB", "more than before", []),
        at_least("the server lives", float(alive), 1.0, "", "", []),
    ]


async def good(port: int, seconds: float, seed: int) -> list[Read]:
    """Streams one after another in each of 8 places."""
    end, reads = time.monotonic() + seconds, []

    async def place(i: int) -> None:
        for turn in itertools.count():
            body = {
                "prompt": prompt_ids(64, seed + turn, i),
                "max_tokens": N_NEW,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            reads.append(await ask(port, "/v1/completions", body))
            if time.monotonic() > end:
                return

    await asyncio.gather(*(place(i) for i in range(N_STREAMS)))
    return reads


async def abuse(port: int, seconds: float, statuses: Counter[int]) -> None:
    """All that is bad, for so long."""
    slow = [asyncio.ensure_future(_slow(port, seconds)) for _ in range(N_SLOW)]
    end, tasks = time.monotonic() + seconds, set()
    next_hostile = 0.0
    for i in itertools.count():
        now = time.monotonic()
        if now > end:
            break
        path, body = INVALID[i % len(INVALID)]
        tasks.add(asyncio.ensure_future(_count(port, path, body, statuses)))
        if now >= next_hostile:
            next_hostile = now + HOSTILE_EACH_S
            hostile = {"prompt": "a", "max_tokens": 1, **HOSTILE[i % len(HOSTILE)]}
            if "json_schema" in hostile:
                schema = {"name": "x", "schema": hostile.pop("json_schema")}
                hostile["response_format"] = {"type": "json_schema", "json_schema": schema}
            tasks.add(asyncio.ensure_future(_count(port, "/v1/completions", hostile, statuses)))
        await asyncio.sleep(max(0.0, 1 / INVALID_PER_S - (time.monotonic() - now)))
    await asyncio.gather(*tasks, *slow)


async def _count(port: int, path: str, body: Any, statuses: Counter[int]) -> None:
    try:
        statuses[(await ask(port, path, body)).status] += 1
    except OSError:
        statuses[0] += 1


async def _slow(port: int, seconds: float) -> None:
    """A request that comes a byte a second, again and again."""
    end = time.monotonic() + seconds
    data = request("/v1/completions", {"prompt": "a"})
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            for i in range(len(data)):
                if writer.is_closing() or time.monotonic() > end:
                    break
                writer.write(data[i : i + 1])
                await asyncio.sleep(1.0)
            writer.close()


if __name__ == "__main__":
    sys.exit(main())
