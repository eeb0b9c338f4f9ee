"""GGUF files of T5 give the bits and token ids of the Hugging Face folder, and its encoder alone vectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguf_t5
import seq2seq_models
import slow_tokenizers
import translation_folders
import tuili
from tuili.errors import TokenizerError
from tuili.loading.gguf import open_gguf
from tuili.loading.tokenizers.tokenizer import from_gguf
from tuili.tokenization.tokenizer import Tokenizer

PIECES = (slow_tokenizers.DATA / "t5.model").read_bytes()
N_PIECES = 400
SETTINGS = {"relative_attention_max_distance": gguf_t5.FARTHEST, "vocab_size": N_PIECES + 5}
ALL = [case for case in seq2seq_models.CASES if "T5" in case.architecture]
GOLDENS = np.load(Path(__file__).parent / "goldens" / "seq2seq.npz")
CASES = [
    dataclasses.replace(case, config=case.config | SETTINGS)
    for case in ALL
    if case.architecture in ("T5ForConditionalGeneration", "UMT5ForConditionalGeneration")
    and case.config["feed_forward_proj"] in ("relu", "gated-gelu")
]


def logits(path: Path) -> np.ndarray:
    with tuili.LLM(path, num_threads=1, compute="float32", packed_cache=False) as llm:
        assert not llm.config["warnings"]
        return llm.logits(seq2seq_models.source_ids(), seq2seq_models.target_ids(CASES[0]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_gives_the_bits_of_the_folder(case, tmp_path):
    folder = seq2seq_models.write(case, tmp_path / "folder")
    tensors = seq2seq_models.stored_tensors(case)
    path = gguf_t5.write(gguf.MODEL_ARCH.T5, case.config, tensors, PIECES, tmp_path / "model.gguf")
    assert logits(path).tobytes() == logits(folder).tobytes()


@pytest.mark.parametrize("signed", [False, True])
def test_texts_become_the_ids_of_the_folder(signed, tmp_path):
    case = CASES[0]
    wanted = translation_folders.load(slow_tokenizers.FOLDERS["t5"], tmp_path / "folder")
    path = gguf_t5.write(gguf.MODEL_ARCH.T5, case.config, {}, PIECES, tmp_path / "model.gguf", signed=signed)
    found = Tokenizer(from_gguf(open_gguf(path)[0], case.config["vocab_size"]))
    for text in slow_tokenizers.TEXTS:
        ids = found.encode(text)
        assert ids == wanted.encode(text), text
        assert found.decode(ids) == wanted.decode(ids)
    for role in ("eos_ids", "pad_id", "unk_id", "add_eos", "add_bos"):
        assert getattr(found.loaded, role) == getattr(wanted.loaded, role)


def test_a_pipeline_answers_from_a_file_as_from_a_folder(tmp_path):
    case = CASES[0]
    folder = seq2seq_models.write(case, tmp_path / "folder")
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(PIECES)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 5}')
    tensors = seq2seq_models.stored_tensors(case)
    path = gguf_t5.write(gguf.MODEL_ARCH.T5, case.config, tensors, PIECES, tmp_path / "model.gguf")
    texts, found = [text for text in slow_tokenizers.TEXTS if text.strip()], []
    for place in (folder, path):
        with tuili.pipeline("text2text-generation", place, num_beams=3, max_tokens=9) as pipe:
            found.append(pipe(texts))
    assert found[0] == found[1] and len({one["generated_text"] for one in found[0]}) > 1


def encoder_of(case: seq2seq_models.Case) -> seq2seq_models.Case:
    """The class that is the encoder alone, with the case's settings."""
    name = case.architecture.replace("ForConditionalGeneration", "EncoderModel")
    return dataclasses.replace(case, architecture=name, config=case.config | {"architectures": [name]})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_encoder_alone_gives_the_vectors_of_the_folder(case, tmp_path):
    alone = encoder_of(case)
    tensors = seq2seq_models.stored_tensors(alone)
    assert tensors.keys() < seq2seq_models.stored_tensors(case).keys()
    folder = seq2seq_models.write(alone, tmp_path / "folder")
    path = gguf_t5.write(gguf.MODEL_ARCH.T5ENCODER, alone.config, tensors, PIECES, tmp_path / "model.gguf")
    states = []
    for place in (folder, path):
        with tuili.LLM(place, num_threads=1, compute="float32", packed_cache=False) as llm:
            assert llm.kind == "encoder" and not llm.config["warnings"]
            states.append(llm.hidden_states(seq2seq_models.source_ids()))
    assert states[0].tobytes() == states[1].tobytes()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_an_encoder_alone_equals_transformers(case, tmp_path):
    with tuili.LLM(seq2seq_models.write(encoder_of(case), tmp_path), num_threads=1) as llm:
        states = llm.hidden_states(seq2seq_models.source_ids())[-1]
        assert llm.embed(["the cat"]).shape == (1, case.config["d_model"])
    wanted = GOLDENS[f"{case.name} encoder"]
    assert abs(states[:, ::8] - wanted).max() <= 1e-5 * np.ptp(wanted)


def test_a_file_without_its_unknown_token_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    gguf_t5.write(gguf.MODEL_ARCH.T5, CASES[0].config, {}, PIECES, path, leave_out="unknown")
    with pytest.raises(TokenizerError, match="unknown_token_id"):
        from_gguf(open_gguf(path)[0])
