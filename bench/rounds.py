"""Measuring in rounds: in each, every contestant of a work runs once, next to its rivals."""

from __future__ import annotations

import contextlib
import fcntl
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bars import US, WORKS, Bar, Contestant
from load import Watch
from model_files import ModelFiles
from peers import Peer
from process import PeerError, PeerProcess

OPEN_TIMEOUT_S, RUN_TIMEOUT_S, CONVERT_TIMEOUT_S = 300.0, 300.0, 1800.0
QUIET = 0.1  # of a processor that others may use; beyond it a run is repeated
ATTEMPTS = 3
FLOAT_VECTORS = (US, "minilm-float32")  # what cosines are taken to

Say = Callable[[str], None]


@dataclass
class Settings:
    """pythons  interpreter of a peer; options  what its `open` gets; lock  a file to lock while measuring"""

    threads: int = 2
    rounds: int = 5
    pythons: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log: Path = Path("/dev/null")
    lock: Path | None = None


class Measurements:
    """values[contestant][work] has one entry a round; reasons[contestant][work] says why there is none.

    runs       all that were timed and kept; disturbed  those of them beside which others used the processors
    completed  False if the rounds were interrupted
    """

    def __init__(self) -> None:
        self.values: dict[Contestant, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.reasons: dict[Contestant, dict[str, str]] = defaultdict(dict)
        self.versions: dict[str, str] = {}
        self.runs = self.disturbed = 0
        self.completed = False


class Race:
    """peers  those that may run: the others' works get the reason given in `excluded`."""

    def __init__(
        self, peers: Mapping[str, Peer], files: ModelFiles, settings: Settings, say: Say = print
    ) -> None:
        self._peers, self._files, self._settings, self._say = peers, files, settings, say
        self._processes: dict[Contestant, PeerProcess] = {}
        self._result = Measurements()

    def run(self, bars: Iterable[Bar], excluded: Mapping[str, str]) -> Measurements:
        try:
            for rivals in _rivals(bars):
                self._run(_entries(rivals), excluded)
            self._result.completed = True
        except KeyboardInterrupt:
            self._say("interrupted: the tables hold what there is")
        return self._result

    def _run(self, entries: Mapping[str, list[Contestant]], excluded: Mapping[str, str]) -> None:
        try:
            with self._locked():
                self._prepare(entries, excluded)
            for number in range(self._settings.rounds):
                for work, contestants in entries.items():
                    order = contestants if number % 2 == 0 else contestants[::-1]
                    with self._locked():
                        for contestant in order:
                            self._measure(contestant, work, number)
        finally:
            while self._processes:
                self._processes.popitem()[1].close()

    def _prepare(self, entries: Mapping[str, list[Contestant]], excluded: Mapping[str, str]) -> None:
        """Makes model files and opens each contestant's engine; failures become reasons."""
        works: dict[Contestant, list[str]] = defaultdict(list)
        for work, contestants in entries.items():
            for contestant in contestants:
                works[contestant].append(work)
        if "cosine" in entries:
            works.setdefault(FLOAT_VECTORS, [])
        for (peer, variant), its_works in works.items():
            reason = excluded.get(peer)
            if reason is None:
                try:
                    self._open(peer, variant)
                    continue
                except (PeerError, OSError, ValueError) as error:
                    reason = str(error)
                self._say(f"{peer} {variant}: {reason}")
            self._result.reasons[peer, variant] |= dict.fromkeys(its_works, reason)

    def _open(self, peer: str, variant: str) -> None:
        settings = self._settings
        self._say(f"{peer} {variant}: opening")
        process = PeerProcess(
            self._peers[peer].module, settings.pythons.get(peer), settings.threads, settings.log
        )
        self._processes[peer, variant] = process
        request: dict[str, Any] = {
            "model": str(self._model(peer, variant, process)),
            "variant": variant,
            "threads": settings.threads,
            "options": dict(settings.options.get(peer, {})),
        }
        if tokenizer_json := self._files.tokenizer_json(variant):
            request["tokenizer_json"] = str(tokenizer_json)
        answer = process.ask({"open": request}, OPEN_TIMEOUT_S)
        self._result.versions[peer] = answer["version"]

    def _model(self, peer: str, variant: str, process: PeerProcess) -> Path:
        kind = self._peers[peer].model
        if kind == "gguf" and not variant.startswith("minilm"):
            return self._files.gguf(variant)
        if kind != "converted":
            return self._files.folder(variant)

        def convert(source: Path, target: Path) -> None:
            self._say(f"{peer} {variant}: converting")
            paths = {"source": str(source), "target": str(target), "variant": variant}
            process.ask({"convert": paths}, CONVERT_TIMEOUT_S)

        return self._files.converted(peer, variant, convert)

    def _measure(self, contestant: Contestant, work: str, number: int) -> None:
        reasons, values = self._result.reasons[contestant], self._result.values[contestant][work]
        if work in reasons:
            return
        try:
            value, outside = self._quietest(contestant, work, number)
        except PeerError as error:
            reasons[work] = f"round {number + 1}: {error}"
            values.clear()  # some rounds only would not be comparable
            self._say(f"{' '.join(contestant)}: {work}: {error}")
            return
        values.append(value)
        self._result.runs += 1
        note = ""
        if outside is not None and outside > QUIET:
            self._result.disturbed += 1
            note = f" (others used {outside:.1f} processors)"
        self._say(f"round {number + 1} {' '.join(contestant)}: {work} {value:.4g} {WORKS[work].unit}{note}")

    def _quietest(self, contestant: Contestant, work: str, number: int) -> tuple[float, float | None]:
        """(value, processors that others used meanwhile) of the least disturbed of at most ATTEMPTS runs."""
        if WORKS[work].request["run"] == "vectors":  # not a matter of time
            return self._ask(contestant, work, number), None
        runs = []
        for attempt in range(ATTEMPTS):
            with Watch(self._processes[contestant].pid) as watch:
                value = self._ask(contestant, work, number + attempt * self._settings.rounds)
            if watch.outside is None or watch.outside <= QUIET:
                return value, watch.outside
            runs.append((watch.outside, value))
        outside, value = min(runs)
        return value, outside

    def _ask(self, contestant: Contestant, work: str, number: int) -> float:
        request = {**WORKS[work].request, "seed": number + 1}
        value = self._processes[contestant].ask(request, RUN_TIMEOUT_S)["value"]
        if work != "cosine":
            return float(value)
        exact = self._processes.get(FLOAT_VECTORS)
        if exact is None:
            raise PeerError(f"{' '.join(FLOAT_VECTORS)} is not there to compare to")
        return mean_cosine(np.array(value), np.array(exact.ask(request, RUN_TIMEOUT_S)["value"]))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._settings.lock is None:
            yield
            return
        with self._settings.lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angles between the rows of a and those of b."""
    return float(np.mean(np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def _contestants(bar: Bar) -> list[Contestant]:
    exact = [FLOAT_VECTORS] if bar.work == "cosine" else []
    return [*((US, variant) for variant in bar.ours), *bar.rivals, *exact]


def _rivals(bars: Iterable[Bar]) -> list[list[Bar]]:
    """The bars in groups that share no contestant: only one group's engines are in memory at a time."""
    groups: list[list[Bar]] = []
    for bar in bars:
        own = set(_contestants(bar))
        joined = [group for group in groups if not own.isdisjoint(c for b in group for c in _contestants(b))]
        groups = [group for group in groups if group not in joined]
        groups.append([*(b for group in joined for b in group), bar])
    return groups


def _entries(bars: Iterable[Bar]) -> dict[str, list[Contestant]]:
    """Work -> contestants, each once, rivals right after the variant of ours that they are compared to."""
    entries: dict[str, dict[Contestant, None]] = {}
    for bar in bars:
        contestants = [(US, variant) for variant in bar.ours] + list(bar.rivals)
        entries.setdefault(bar.work, {}).update(dict.fromkeys(contestants))
    return {work: list(contestants) for work, contestants in entries.items()}
