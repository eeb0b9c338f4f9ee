"""tuili beside other engines on this computer, in one interleaved run, against the bars of bars.py.

    python bench/compare.py --peers llama.cpp,ctranslate2,onnxruntime

Prints tables and writes JSON. Exit status 1 if a bar is missed; bars whose peers are absent are named
and counted, and do not fail the run unless --all-measured is given; 130 if interrupted, with the tables of
the rounds so far. bench/README.md says how to install the peers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tables
from bars import BARS, US, Bar, judge
from model_files import BUILT_IN, ModelFiles
from peers import PEERS, Peer
from rounds import Race, Settings


def _parser(peers: Mapping[str, Peer]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name in peers if name != US]
    parser.add_argument("--peers", metavar="A,B", help=f"default: all of {','.join(names)}")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="interpreter that has this peer; default: the one that runs this program",
    )
    parser.add_argument("--llama-bench", metavar="PATH", help="default: the one on PATH")
    parser.add_argument("--llama-batched-bench", metavar="PATH", help="default: the one on PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", metavar="TEXT", help="bars whose table or label contains this")
    parser.add_argument("--all-measured", action="store_true", help="exit status 1 for unmeasured bars too")
    parser.add_argument(
        "--work", type=Path, default=_work_folder(), help="models and logs; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="default: compare.json in the work folder")
    parser.add_argument(
        "--lock", type=Path, metavar="PATH", help="lock this file while something is measured"
    )
    for model, name in BUILT_IN.items():
        parser.add_argument(f"--{model}", type=Path, metavar="PATH", help=f"default: {name}, pulled by tuili")
    return parser


def _work_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tuili" / "bench"


def main(
    argv: Sequence[str] | None = None,
    bars: Sequence[Bar] = BARS,
    peers: Mapping[str, Peer] = PEERS,
    models: type[ModelFiles] = ModelFiles,
) -> int:
    parser = _parser(peers)
    arguments = parser.parse_args(argv)
    chosen = arguments.peers.split(",") if arguments.peers else [name for name in peers if name != US]
    pythons = dict(entry.partition("=")[::2] for entry in arguments.python)
    if unknown := [name for name in (*chosen, *pythons) if name not in peers]:
        parser.error(f"unknown peer {unknown[0]!r}; there are {', '.join(peers)}")
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    bars = [bar for bar in bars if not arguments.only or arguments.only in f"{bar.table} {bar.label}"]
    if not bars:
        parser.error(f"no bar contains {arguments.only!r}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    settings = _settings(arguments, pythons)
    files = models(arguments.work, _models(arguments))
    race = Race(peers, files, settings, say=lambda line: print(line, file=sys.stderr, flush=True))
    excluded = {name: "not among --peers" for name in peers if name not in (US, *chosen)}
    measured = race.run(bars, excluded)
    verdicts = [judge(bar, measured.values, measured.reasons) for bar in bars]
    print(tables.text(verdicts, measured))
    target = arguments.json or arguments.work / "compare.json"
    result = tables.as_json(verdicts, measured, _about(arguments))
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not measured.completed:
        return 130
    failing = ("missed", "not measured") if arguments.all_measured else ("missed",)
    return int(any(verdict.status in failing for verdict in verdicts))


def _settings(arguments: argparse.Namespace, pythons: Mapping[str, str]) -> Settings:
    programs = {name: getattr(arguments, name) for name in ("llama_bench", "llama_batched_bench")}
    return Settings(
        threads=arguments.threads,
        rounds=arguments.rounds,
        pythons=pythons,
        options={"llama.cpp": {name: path for name, path in programs.items() if path}},
        log=arguments.work / "peers.log",
        lock=arguments.lock,
    )


def _models(arguments: argparse.Namespace) -> dict[str, Path]:
    given = {model: getattr(arguments, model) for model in BUILT_IN}
    return {model: path for model, path in given.items() if path is not None}


def _about(arguments: argparse.Namespace) -> dict[str, Any]:
    from tuili.cli.doctor import cpu_name

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "system": platform.platform(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also then the tables so far
    sys.exit(main())
