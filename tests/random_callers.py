"""Threads that do to models whatever a host may do, at random: each answer is the one alone, nothing is left.

    python tests/random_callers.py [--rounds 8] [--seconds 10] [--callers 5] [--seed 0]

Callers take models that they share, or open their own; ask in every way there is, read halfway, abort, drop,
cancel, are late, close models under the others, fork, collect garbage, change the environment. The first is
the main thread, to which another sends Ctrl-C at any moment, whose handler asks and closes, too. An error has
to be one that this explains. After each round no thread, file or model may be there that was not before;
memory must not grow in the second half of eight rounds or more. A caller that stands still for two minutes
shows all stacks. Exit status 1 if something was wrong. What callers do is drawn from the seed, when is not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tuili
from encoder_models import CASES, write_folder
from patience import comes_true
from seq2seq_models import by_name
from seq2seq_models import write as write_seq2seq
from soak import grow_table_of_interned_strings, resident_bytes
from tiny_files import write_hf_folder
from tiny_models import tiny_gemma3, tiny_llama
from tuili import EngineClosedError, EngineForkedError
from tuili.errors import DeadlineExceeded, QueueFullError, RequestCancelled, TuiliError

STUCK_S = 120.0
MAX_GROWTH = 0.1
TEXTS = ["hello", "the cat sat", "the cat sat on the mat and" * 2, "你好 天", "ab" * 40, "q7. in the house"]
WAYS: list[dict[str, Any]] = [
    {"max_tokens": 12},
    {"max_tokens": 40},
    {"max_tokens": 20, "temperature": 0.8, "seed": 7, "n": 2},
    {"max_tokens": 16, "logprobs": 2, "stop": ["a"]},
    {"max_tokens": 12, "num_beams": 3},
    {"max_tokens": 16, "regex": "[a-z]{4,9}"},
    {"max_tokens": 16, "choice": ["yes", "no", "你好"]},
    {"max_tokens": 30, "prompt_lookup_num_tokens": 4, "repetition_penalty": 1.1},
]
GENERATING = ("llama", "gemma", "t5")
READING = ("embed", "classify", "tokens")


def write_models(folder: Path) -> dict[str, Path]:
    paths = {
        "llama": write_hf_folder(tiny_llama(), folder / "llama"),
        "gemma": write_hf_folder(tiny_gemma3(), folder / "gemma"),
        "t5": write_seq2seq(by_name("T5"), folder / "t5"),
    }
    for kind, name in zip(
        READING,
        ("BertModel", "RobertaForSequenceClassification", "DistilBertForTokenClassification"),
        strict=True,
    ):
        paths[kind] = write_folder(CASES[name], folder / kind)
    return paths


def open_model(paths: dict[str, Path], kind: str, draw: random.Random) -> tuili.LLM:
    options: dict[str, Any] = {"num_threads": draw.choice([1, 2]), "packed_cache": draw.random() < 0.5}
    if kind in GENERATING:
        options |= {"kv_cache_bytes": 1 << 20, "max_num_seqs": draw.choice([4, 8])}
        options |= {"prefill_chunk": draw.choice([5, 64]), "max_queue": draw.choice([2, 1000])}
        if kind != "t5":
            options["max_model_len"] = 256
    return tuili.LLM(paths[kind], cache_dir=paths["llama"].parent / "cache", **options)


def read(llm: tuili.LLM, kind: str, texts: list[str]) -> list[Any]:
    if kind == "embed":
        return [vector.tobytes() for vector in llm.embed(texts, truncation=True)]
    if kind == "classify":
        return list(llm.classify(texts, truncation=True))
    return list(tuili.pipeline("ner", llm, ignore_labels=[], truncation=True)(texts))


def gist(output: tuili.RequestOutput) -> list[tuple[Any, ...]]:
    return [(one.text, one.token_ids, one.finish_reason, one.logprobs, one.score) for one in output.outputs]


class World:
    """The models that callers share, and what each of them answers alone."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths, self.alone = paths, {}
        self.shared: dict[str, tuili.LLM] = {}
        self.closed: set[int] = set()  # ids of models that somebody has closed
        for kind in GENERATING:
            with tuili.LLM(paths[kind], num_threads=1, kv_cache_bytes=1 << 20, packed_cache=False) as llm:
                for text in TEXTS:
                    for i, way in enumerate(WAYS):
                        self.alone[kind, text, i] = gist(llm.generate(text, **way))
        for kind in READING:
            with tuili.LLM(paths[kind], num_threads=1, packed_cache=False) as llm:
                for text in TEXTS:
                    self.alone[kind, text] = read(llm, kind, [text])[0]

    def take(self, kind: str, draw: random.Random) -> tuili.LLM:
        llm = self.shared.get(kind)
        return self.renew(kind, draw) if llm is None else llm

    def renew(self, kind: str, draw: random.Random) -> tuili.LLM:
        llm = self.shared[kind] = open_model(self.paths, kind, draw)
        return llm

    def close(self, llm: tuili.LLM) -> None:
        self.closed.add(id(llm))
        llm.close()


class Wrong(Exception):
    """An answer that is not the one alone, or an error that nothing explains."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Wrong(what)


class Caller:
    """One thread's doings."""

    def __init__(self, world: World, seed: object) -> None:
        self.world, self.draw = world, random.Random(str(seed))
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.moved = time.monotonic()
        self.interruptible = False
        self.doings: list[Callable[[tuili.LLM, str], None]] = [
            self.ask, self.ask_many, self.stream, self.stream_half, self.abort, self.drop, self.be_late,
            self.await_all, self.cancel_tasks, self.prefix,
        ]  # fmt: skip

    def play(self, until: Callable[[], bool]) -> None:
        """Until then; Ctrl-C ends a doing, not the caller."""
        while not until():
            self.moved = time.monotonic()
            try:
                self.interruptible = True
                self.once()
                self.interruptible = False
            except KeyboardInterrupt:
                self.interruptible = False
                self.counts["interrupted"] += 1
            except BaseException:
                self.interruptible = False
                self.wrong.append(traceback.format_exc())
        self.moved = float("inf")

    def once(self) -> None:
        draw, world = self.draw, self.world
        kind = draw.choice(GENERATING + READING)
        luck = draw.random()
        if luck < 0.03:
            self.counts["closed under others"] += 1
            llm = world.shared.get(kind)
            world.renew(kind, draw)
            if llm is not None and draw.random() < 0.7:  # or nobody holds it any more
                world.close(llm)
        elif luck < 0.06:
            self.fork(world.take(kind, draw))
        elif luck < 0.10:
            gc.collect()
            # Of few values, since the C library keeps each that there ever was.
            os.environ[f"TUILI_CALLER_{draw.randrange(10)}"] = "x" * draw.randrange(0, 1000, 100)
        else:
            self.use(kind, own=luck < 0.2)

    def use(self, kind: str, *, own: bool) -> None:
        draw, world = self.draw, self.world
        llm = open_model(world.paths, kind, draw) if own else world.take(kind, draw)
        self.counts["opened"] += own
        try:
            if kind in READING:
                self.read(llm, kind)
            else:
                doing = draw.choice(self.doings)
                doing(llm, kind)
                self.counts[doing.__name__] += 1
            if own and draw.random() < 0.5:
                world.close(llm)
        except EngineClosedError:
            check(id(llm) in world.closed, "an engine says it is closed that nobody closed")
            self.counts["told that it is closed"] += 1
        except QueueFullError:
            self.counts["told that it is full"] += 1

    # --- asking -----------------------------------------------------------------------------------------

    def case(self) -> tuple[str, int]:
        return self.draw.choice(TEXTS), self.draw.randrange(len(WAYS))

    def expect(self, output: tuili.RequestOutput, kind: str, text: str, way: int) -> None:
        check(gist(output) == self.world.alone[kind, text, way], f"{kind}: {text!r} {WAYS[way]} {output}")

    def begins(self, kind: str, text: str, way: int, texts: dict[int, str], what: str) -> None:
        """Whether these are beginnings of what it is alone; of a search only its end is known."""
        if "num_beams" not in WAYS[way]:
            for index, found in texts.items():
                whole = self.world.alone[kind, text, way][index][0]
                check(whole.startswith(found.rstrip("\ufffd")), f"{what}: {found!r} of {whole!r}")

    def partial(self, handle: tuili.Handle, kind: str, text: str, way: int, reason: str) -> None:
        """A request that was ended, or came to its end before."""
        output = handle.result(60)
        ended = [one for one in output.outputs if one.finish_reason == reason]
        if not ended:
            self.expect(output, kind, text, way)
        self.begins(kind, text, way, {one.index: one.text for one in output.outputs}, reason)

    def ask(self, llm: tuili.LLM, kind: str) -> None:
        text, way = self.case()
        self.expect(llm.generate(text, **WAYS[way]), kind, text, way)

    def ask_many(self, llm: tuili.LLM, kind: str) -> None:
        cases = [self.case() for _ in range(self.draw.randint(1, 6))]
        params = [tuili.SamplingParams(**WAYS[way]) for _, way in cases]
        outputs = llm.generate([text for text, _ in cases], params)
        for output, case in zip(outputs, cases, strict=True):
            self.expect(output, kind, *case)

    def stream(self, llm: tuili.LLM, kind: str) -> None:
        text, way = self.case()
        found: dict[int, str] = {}
        for chunk in llm.stream(text, **WAYS[way]):
            found[chunk.index] = found.get(chunk.index, "") + chunk.text
        whole = {i: one[0] for i, one in enumerate(self.world.alone[kind, text, way])}
        check(found == whole, f"a stream of {text!r} {WAYS[way]} is {found}, not {whole}")

    def stream_half(self, llm: tuili.LLM, kind: str) -> None:
        text, way = self.case()
        found: dict[int, str] = {}
        stream = llm.stream(text, **WAYS[way])
        for n, chunk in enumerate(stream):
            found[chunk.index] = found.get(chunk.index, "") + chunk.text
            if n == self.draw.randint(0, 9):
                if self.draw.random() < 0.5:
                    break
                stream.close()
        self.begins(kind, text, way, found, "half a stream")

    def abort(self, llm: tuili.LLM, kind: str) -> None:
        text, way = self.case()
        handle = llm.submit(text, **WAYS[way])
        time.sleep(self.draw.choice([0, 0, 0.001, 0.005]))
        handle.abort()
        with contextlib.suppress(RequestCancelled):
            self.partial(handle, kind, text, way, "abort")

    def drop(self, llm: tuili.LLM, kind: str) -> None:
        for text, way in [self.case() for _ in range(self.draw.randint(1, 4))]:
            llm.submit(text, **WAYS[way])

    def be_late(self, llm: tuili.LLM, kind: str) -> None:
        text, way = self.case()
        with contextlib.suppress(DeadlineExceeded):
            handle = llm.submit(text, deadline_s=self.draw.choice([0.002, 0.02]), **WAYS[way])
            self.partial(handle, kind, text, way, "deadline")

    def await_all(self, llm: tuili.LLM, kind: str) -> None:
        cases = [self.case() for _ in range(self.draw.randint(1, 4))]

        async def one(text: str, way: int) -> tuili.RequestOutput:
            return await llm.submit(text, **WAYS[way])

        async def all_of_them() -> list[tuili.RequestOutput]:
            return await asyncio.gather(*(one(*case) for case in cases))

        self.interruptible = False  # asyncio itself leaves things behind
        for output, case in zip(asyncio.run(all_of_them()), cases, strict=True):
            self.expect(output, kind, *case)

    def cancel_tasks(self, llm: tuili.LLM, kind: str) -> None:
        text, way = self.case()

        async def late() -> None:
            with contextlib.suppress(TimeoutError):
                output = await asyncio.wait_for(llm.submit(text, **WAYS[way]), self.draw.choice([0, 0.003]))
                self.expect(output, kind, text, way)
            async for _ in llm.stream(text, **WAYS[way]):
                return

        self.interruptible = False
        asyncio.run(late())

    def prefix(self, llm: tuili.LLM, kind: str) -> None:
        if kind != "t5":
            text = TEXTS[4]
            llm.load_prefix(llm.save_prefix(text))
            self.expect(llm.generate(text, **WAYS[1]), kind, text, 1)

    def read(self, llm: tuili.LLM, kind: str) -> None:
        texts = self.draw.sample(TEXTS, self.draw.randint(1, len(TEXTS)))
        found = read(llm, kind, texts)
        for text, got in zip(texts, found, strict=True):
            check(got == self.world.alone[kind, text], f"{kind} of {text!r} differs")
        self.counts["texts read"] += len(texts)

    def fork(self, llm: tuili.LLM) -> None:
        self.interruptible = False  # what else is told of a fork is not ready for that
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                try:
                    llm.check_usable()
                except EngineForkedError:
                    llm.close()
                    gc.collect()
                    status = 0
                except EngineClosedError:
                    status = 0
            os._exit(status)
        status = wait_for(child)
        check(status == 0, f"a child of fork ends with {status}")
        self.counts["forked"] += 1


def wait_for(child: int) -> int | None:
    end = time.monotonic() + STUCK_S / 2
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGABRT)
    os.waitpid(child, 0)
    return None


# --- the main thread, and what comes over it -------------------------------------------------------------


def handler_of(caller: Caller) -> Callable[[int, object], None]:
    """Of Ctrl-C: it does a little with a model, whatever it came into, and then ends what the caller does."""
    draw = random.Random(f"handler {caller.draw.random()}")

    def handle(number: int, frame: object) -> None:
        llm = caller.world.shared.get(draw.choice(GENERATING))
        with contextlib.suppress(TuiliError):
            luck = draw.random()
            if llm is not None and luck < 0.2:
                llm.submit("hello", max_tokens=5).abort()
            elif llm is not None and luck < 0.4:
                llm.stats()
            elif llm is not None and luck < 0.45:
                caller.world.close(llm)
        if caller.interruptible and draw.random() < 0.8:
            caller.interruptible = False
            raise KeyboardInterrupt

    return handle


def send_interrupts(until: Callable[[], bool], draw: random.Random) -> None:
    main = threading.main_thread().ident
    while not until():
        time.sleep(draw.choice([0.0005, 0.005, 0.02, 0.05]))
        signal.pthread_kill(main, signal.SIGINT)


def watch(callers: list[Caller], until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(0.2)
        if any(time.monotonic() - caller.moved > STUCK_S for caller in callers):
            print("a caller stands still", file=sys.stderr)
            faulthandler.dump_traceback()
            os._exit(3)


def play_round(world: World, serial: int, seconds: float, n_callers: int, seed: int) -> list[Caller]:
    end = time.monotonic() + seconds
    over = threading.Event()
    callers = [Caller(world, (seed, serial, i)) for i in range(n_callers)]
    done = lambda: time.monotonic() > end  # noqa: E731
    threads = [threading.Thread(target=caller.play, args=(done,)) for caller in callers[1:]]
    pest = threading.Thread(target=send_interrupts, args=(done, random.Random(f"pest {seed} {serial}")))
    watcher = threading.Thread(target=watch, args=(callers, over.is_set), daemon=True)
    sys.setswitchinterval(random.Random(f"interval {seed} {serial}").choice([1e-5, 1e-4, 5e-3]))
    before = signal.signal(signal.SIGINT, handler_of(callers[0]))
    for thread in (*threads, pest, watcher):
        thread.start()
    while True:
        try:
            callers[0].play(done)
            break
        except KeyboardInterrupt:  # between two doings
            continue
    for thread in (*threads, pest):
        thread.join()
    over.set()
    watcher.join()
    signal.signal(signal.SIGINT, before)
    return callers


def end_round(world: World, threads: set[str]) -> list[str]:
    """What is left when all models are closed and forgotten."""
    for kind in list(world.shared):
        llm = world.shared.pop(kind)
        if llm._engine is not None and not llm._engine.closed:
            idle = comes_true(lambda llm=llm: llm.stats()["running"] + llm.stats()["waiting"] == 0)
            llm._engine.call(llm._engine.scheduler.check_invariants)
            if not idle:
                return [f"{kind} is not idle: {llm.stats()}"]
        llm.close()
        del llm
    world.closed.clear()
    comes_true(lambda: not living(threads))
    return living(threads)


def living(threads: set[str]) -> list[str]:
    """Models, and threads of the system that were not there: Python's own list keeps what Ctrl-C hit in its
    start.
    """
    gc.collect()
    names = [thread.name for thread in threading.enumerate()]
    more = [f"a thread, of {names}"] * len(running_threads() - threads)
    return more + [repr(o) for o in gc.get_objects() if isinstance(o, tuili.LLM)]


def running_threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def open_files() -> list[str]:
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder's own
            files.append(os.readlink(f"/proc/self/fd/{name}"))
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10, help="of a round")
    parser.add_argument("--callers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faulthandler.enable()
    unraisable: list[str] = []
    sys.unraisablehook = lambda told: unraisable.append(f"{told.exc_value!r} in {told.object!r}")
    strings = grow_table_of_interned_strings()
    with tempfile.TemporaryDirectory() as folder:
        world = World(write_models(Path(folder)))
        counts: Counter[str] = Counter()
        wrong: list[str] = []
        sizes: list[int] = []
        with tuili.LLM(world.paths["embed"], num_threads=2) as llm:
            llm.embed(TEXTS * 50, truncation=True)  # has the core's threads started
        del llm
        threads, files = running_threads(), open_files()
        for serial in range(arguments.rounds):
            callers = play_round(world, serial, arguments.seconds, arguments.callers, arguments.seed)
            for caller in callers:
                counts += caller.counts
                wrong += caller.wrong
            del callers
            wrong += end_round(world, threads)
            if len(open_files()) > len(files):
                wrong.append(f"files are open: {open_files()}")
            sizes.append(resident_bytes())
            print(f"round {serial}: {sizes[-1] >> 10} KiB, {len(wrong)} wrong", flush=True)
    if arguments.rounds >= 8 and sizes[-1] > (1 + MAX_GROWTH) * sizes[arguments.rounds // 2]:
        wrong.append("memory grows")
    print(dict(counts))
    print("unraisable:", Counter(unraisable))
    for each in wrong[:10]:
        print("WRONG", each)
    del strings
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
