"""bench/compare.py: verdicts, tables and exit status, with peers that are made up."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

import tuili

MODELS = Path(__file__).resolve().parent / "models"
BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path[:0] = str(BENCH), str(MODELS)

import compare  # noqa: E402
import sentences  # noqa: E402
from bars import BARS, US, WORKS, Bar, judge  # noqa: E402
from model_files import ModelFiles  # noqa: E402
from peers import PEERS, Peer, onnxruntime_heads  # noqa: E402

# A peer whose rate is in its model's name; "fails" cannot decode, "ends" takes its process with it.
FAKE = """
import os

def version():
    return "fake 1.0"

def open(model, variant, threads, options):
    print("engines print what they like")
    if variant == "absent":
        import no_such_engine
    return Generator(variant)

class Generator:
    def __init__(self, variant):
        self._variant = variant

    def decode(self, depth, n_new, seed):
        if self._variant == "fails":
            raise ValueError("no decoding here")
        if self._variant == "ends":
            os._exit(3)
        return float(self._variant) + seed

    def embed(self, texts):
        return [[1.0, 0.0]] if self._variant == "minilm-float32" else [[0.6, 0.8]]
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(our rate, rivals, required ratio, *options) -> (exit status, what was printed, the JSON)"""
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "engine.py").write_text(FAKE)
    (tmp_path / "fakes" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ModelFiles, "folder", lambda self, variant: tmp_path)
    monkeypatch.setattr("rounds.ATTEMPTS", 1)  # a busy computer must not change how often a fake runs

    def compared(ours: str, rivals: list[str], required: float, *options: str):
        peers = {US: Peer("fakes.engine", "folder"), "fake": Peer("fakes.engine", "folder")}
        bar = Bar("table", "label", "decode", (ours,), tuple(("fake", rival) for rival in rivals), required)
        arguments = ["--work", str(tmp_path), "--rounds", "3", *options]
        status = compare.main(arguments, [bar], peers)
        return status, capsys.readouterr().out, json.loads((tmp_path / "compare.json").read_text())

    return compared


def test_a_bar_that_is_met_ends_with_0(run):
    status, printed, result = run("98", ["48"], 1.9)
    assert status == 0
    assert "1 bars: 1 met, 0 missed, 0 not measured" in printed
    (bar,) = result["bars"]
    assert bar["tuili"] == {"who": "tuili 98", "median": 100.0, "min": 99.0, "max": 101.0}
    assert bar["peer"]["median"] == 50.0
    assert bar["ratio"] == 2.0
    assert result["versions"]["fake"] == "fake 1.0"


def test_a_missed_bar_ends_with_1(run):
    status, printed, result = run("98", ["48"], 2.1)
    assert status == 1
    assert "1 missed" in printed
    assert result["bars"][0]["status"] == "missed"


def test_the_best_rival_counts_and_lost_ones_are_named(run):
    status, printed, result = run("98", ["8", "48", "fails", "ends", "absent"], 3.0)
    assert status == 1
    assert result["bars"][0]["peer"]["who"] == "fake 48"
    assert "not measured: fake fails: round 1: ValueError: no decoding here" in printed
    assert "not measured: fake ends: round 1: its process ended with 3" in printed
    assert "not measured: fake absent: ModuleNotFoundError: No module named 'no_such_engine'" in printed


@pytest.mark.parametrize("options, status", [((), 0), (("--all-measured",), 1)])
def test_an_absent_peer_is_counted_and_fails_on_request(run, options, status):
    ended, printed, result = run("98", ["absent"], 1.0, *options)
    assert ended == status
    assert "label: not measured: fake absent: ModuleNotFoundError" in printed
    assert "1 bars: 0 met, 0 missed, 1 not measured" in printed
    assert result["not_measured"]["fake absent"]["decode"].startswith("ModuleNotFoundError")


def test_a_peer_that_was_not_asked_for_is_counted(run):
    status, printed, _ = run("98", ["48"], 1.0, "--peers", US)
    assert status == 0
    assert "not measured: fake 48: not among --peers" in printed


def test_without_our_own_value_a_bar_is_missed(run):
    status, printed, _ = run("fails", ["48"], 1.0)
    assert status == 1
    assert "label: missed: tuili: round 1: ValueError: no decoding here" in printed


def test_an_unknown_peer_is_a_mistake(run):
    with pytest.raises(SystemExit) as error:
        run("98", ["48"], 1.0, "--peers", "lama.cpp")
    assert error.value.code == 2


def test_latencies_are_better_when_lower():
    rivals = (("a", "x"), ("b", "x"))
    bar = Bar("table", "label", "12 tokens", ("x",), rivals, 0.6)
    values = {
        (US, "x"): {"12 tokens": [3.0]},
        ("a", "x"): {"12 tokens": [5.5]},
        ("b", "x"): {"12 tokens": [4.0]},
    }
    verdict = judge(bar, values, {})
    assert verdict.theirs.contestant == ("b", "x")
    assert (verdict.status, verdict.ratio) == ("missed", 0.75)
    values[US, "x"]["12 tokens"] = [2.4]
    assert judge(bar, values, {}).status == "met"


def test_a_bar_of_a_value_is_not_a_ratio():
    bar = Bar("table", "label", "cosine", ("x",), (("a", "x"),), 0.995, "value")
    values = {(US, "x"): {"cosine": [0.994, 0.996, 0.997]}, ("a", "x"): {"cosine": [0.999]}}
    assert judge(bar, values, {}).status == "met"
    values[US, "x"]["cosine"] = [0.994, 0.994, 0.997]
    assert judge(bar, values, {}).status == "missed"
    assert judge(bar, values, {}).ratio == 0.994


def test_a_cosine_is_to_our_float32_even_if_no_other_bar_needs_that(run, tmp_path):
    bar = Bar("table", "label", "cosine", ("minilm-int8",), (), 0.5, "value")
    arguments = ["--work", str(tmp_path), "--rounds", "1"]
    assert compare.main(arguments, [bar], {US: Peer("fakes.engine", "folder")}) == 0
    (judged,) = json.loads((tmp_path / "compare.json").read_text())["bars"]
    assert judged["tuili"]["median"] == pytest.approx(0.6)


def test_a_variant_says_what_compute_its_file_is_used_with(tmp_path):
    from peers import tuili_engine

    gguf = ModelFiles(tmp_path).gguf("smollm2-q4_1+int8")
    assert gguf == ModelFiles(tmp_path).gguf("smollm2-q4_1")
    for variant, compute in ("smollm2-q4_1", "auto"), ("smollm2-q4_1+int8", "int8"):
        generator = tuili_engine.open(gguf, variant, 1, {})
        assert generator._llm.config["compute"] == compute
        generator._llm.close()


def test_the_bars_name_works_and_peers_that_exist():
    assert len(BARS) == 38
    for bar in BARS:
        assert bar.work in WORKS
        assert bar.ours
        assert {peer for peer, _ in bar.rivals} <= set(PEERS) - {US}
    assert all((BENCH / "peers" / f"{peer.module}.py").exists() for peer in PEERS.values())


def test_what_stands_beside_our_heads_makes_the_same_entities(monkeypatch):
    with tuili.pipeline("ner", MODELS / "entities") as pipe:
        monkeypatch.setattr(onnxruntime_heads, "LABELS", tuple(pipe.labels))
        rng = random.Random(0)
        for text, _ in (sentences.entities(rng) for _ in range(20)):
            encoding = pipe.model.tokenizer.loaded.backend.encode(text)
            scores = np.zeros((len(encoding.ids), len(pipe.labels)), np.float32)
            for token in pipe(text, ignore_labels=[]):
                scores[token["index"], pipe.labels.index(token["entity"])] = token["score"]
            ours = pipe(text, aggregation_strategy="simple")
            for entity in ours:
                entity |= {"word": text[entity["start"] : entity["end"]]}  # as it stands in the text
            assert onnxruntime_heads._entities(text, encoding, scores) == approx_entities(ours) and ours


def approx_entities(entities):
    return [{**one, "score": pytest.approx(one["score"])} for one in entities]
