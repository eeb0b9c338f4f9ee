"""An encoder-decoder in tuili and in CTranslate2: batches, and sources that arrive as a Poisson process.

    python bench/translation.py --python PATH
    python bench/translation.py --python PATH --formats int8 --threads 2 --rounds 3 --check

PATH is an interpreter with ctranslate2, torch, transformers and sentencepiece, which once writes a Marian of
OPUS-MT's size (6 + 6 layers, d_model 512, 32,000 tokens) with random weights and converts it. Both engines
search with the same beam and write the same number of tokens; each is a process of its own, stopped while the
other one runs, and their order turns round by round. CTranslate2 translates in one batch what came while it
was at work. Sources arrive at 0.6 of the rate at which CTranslate2 translates batches of 8. `--check`: the
exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load import Watch
from process import PeerProcess
from verdicts import Row, at_least, at_most, missed, show

ENGINES = ("tuili", "ctranslate2")
TIMEOUT_S, CONVERT_TIMEOUT_S = 300.0, 600.0
BATCHES, N_NEW, N_ARRIVALS, LOAD = (1, 8, 32), 32, 100, 0.6
FASTER, SOONER = 1.5, 0.7
DISTURBED = 0.1  # processors used by others, of which it is said that they were

WRITE = """
import json, sys, torch, transformers
from pathlib import Path
folder, n_vocab = Path(sys.argv[1]), 32000
torch.manual_seed(0)
config = transformers.MarianConfig(
    vocab_size=n_vocab, decoder_vocab_size=n_vocab, d_model=512, encoder_layers=6, decoder_layers=6,
    encoder_ffn_dim=2048, decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8,
    max_position_embeddings=512, activation_function="swish", scale_embedding=True, eos_token_id=0,
    pad_token_id=n_vocab - 1, decoder_start_token_id=n_vocab - 1, forced_eos_token_id=None)
transformers.MarianMTModel(config).save_pretrained(folder)
(folder / "generation_config.json").write_text(json.dumps(
    {"decoder_start_token_id": n_vocab - 1, "eos_token_id": 0, "pad_token_id": n_vocab - 1}))
from sentencepiece import sentencepiece_model_pb2
model = sentencepiece_model_pb2.ModelProto()
texts = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(n_vocab - 3))]
for i, text in enumerate(texts):
    model.pieces.add(piece=text, score=-1.0, type=2 if i == 0 else 3 if i < 3 else 1)
model.trainer_spec.model_type = 1
for name in ("source.spm", "target.spm"):
    (folder / name).write_bytes(model.SerializeToString())
vocab = ["</s>", "<unk>", *texts[3:], "<pad>"]
(folder / "vocab.json").write_text(json.dumps({text: i for i, text in enumerate(vocab)}))
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
"""


def made(folder: Path, python: str, formats: Sequence[str], log: Path) -> dict[tuple[str, str], Path]:
    """(engine, format) -> its model, written on the first call."""
    source = folder / "marian"
    if not (source / "tokenizer_config.json").exists():
        source.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, "-c", WRITE, str(source)], check=True, stdout=subprocess.DEVNULL)
    models = {("tuili", format): source for format in formats}
    for format in formats:
        target = models["ctranslate2", format] = folder / f"ctranslate2-{format}"
        if not target.exists():
            process = PeerProcess("ctranslate2_translator", python, 2, log)
            paths = {"source": str(source), "target": str(target), "variant": format}
            process.ask({"convert": paths}, CONVERT_TIMEOUT_S)
            process.close()
    return models


class Race:
    """Both engines with one format and number of threads."""

    def __init__(self, models: dict[str, Path], format: str, threads: int, python: str, log: Path) -> None:
        self._processes: dict[str, PeerProcess] = {}
        self.what = f"{format}, {threads} thread{'s' * (threads > 1)}"
        self.outside = 0.0
        for engine in ENGINES:
            its_python = python if engine == "ctranslate2" else None
            process = PeerProcess(f"{engine}_translator", its_python, threads, log)
            self._processes[engine] = process
            opening = {"model": str(models[engine]), "variant": format, "threads": threads, "options": {}}
            process.ask({"open": opening}, TIMEOUT_S)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()

    def ask(self, engine: str, **request: Any) -> Any:
        process = self._processes[engine]
        with Watch(process.pid) as watch:
            value = process.ask(request, TIMEOUT_S)["value"]
        self.outside = max(self.outside, watch.outside or 0.0)
        return value

    def rounds(self, n: int, **request: Any) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {engine: [] for engine in ENGINES}
        for i in range(n):
            for engine in ENGINES if i % 2 == 0 else ENGINES[::-1]:
                values[engine].append(self.ask(engine, seed=i + 1, **request))
        return values

    def batches(self, n_rounds: int, beam: int) -> list[Row]:
        rows = []
        for n_seqs in BATCHES:
            values = self.rounds(n_rounds, run="batch", n_seqs=n_seqs, beam=beam, n_new=N_NEW)
            rows.append(_faster(f"{self.what}, beam {beam}, batch of {n_seqs}", values))
        return rows

    def arrivals(self, n_rounds: int, beam: int) -> list[Row]:
        capacity = self.ask("ctranslate2", run="batch", n_seqs=8, beam=beam, n_new=N_NEW, seed=0)
        rate = LOAD * capacity / N_NEW
        request = {"n_seqs": N_ARRIVALS, "rate": rate, "beam": beam, "n_new": N_NEW}
        values = self.rounds(n_rounds, run="arrivals", **request)
        p99 = {engine: [p99 for _, p99 in pairs] for engine, pairs in values.items()}
        what = f"{self.what}, beam {beam}, {rate:.1f} sources/s: p99"
        return [_ratio(at_most, what, p99, SOONER, "s")]


def _faster(what: str, values: dict[str, list[float]]) -> Row:
    return _ratio(at_least, what, values, FASTER, "tok/s")


def _ratio(side: Any, what: str, values: dict[str, list[float]], bar: float, unit: str) -> Row:
    """The ratio of the medians; least and most of one round."""
    ours, theirs = (values[engine] for engine in ENGINES)
    medians = statistics.median(ours), statistics.median(theirs)
    text = f"{medians[0]:.3g} and {medians[1]:.3g} {unit}"
    samples = [a / b for a, b in zip(ours, theirs, strict=True)]
    row: Row = side(what, medians[0] / medians[1], bar, "×", text, samples)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the peer's interpreter")
    parser.add_argument("--formats", default="float32,int8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--beams", default="1,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("batches", "arrivals"), help="by default both")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tuili-translation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a bar is missed")
    options = parser.parse_args()
    formats = options.formats.split(",")
    options.work.mkdir(parents=True, exist_ok=True)
    log = options.work / "peers.log"
    models = made(options.work, options.python, formats, log)
    rows: list[Row] = []
    for format in formats:
        for threads in map(int, options.threads.split(",")):
            own = {engine: models[engine, format] for engine in ENGINES}
            race = Race(own, format, threads, options.python, log)
            try:
                for beam in map(int, options.beams.split(",")):
                    found = race.batches(options.rounds, beam) if options.only != "arrivals" else []
                    found += race.arrivals(options.rounds, beam) if options.only != "batches" else []
                    show(found)
                    rows += found
            finally:
                race.close()
            if race.outside > DISTURBED:
                print(f"  others used up to {race.outside:.1f} processors meanwhile")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if options.check and missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
