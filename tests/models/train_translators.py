"""Trains the encoder-decoders of test_translators.py: tests/models/{t5-numbers,marian-numbers}.

python tests/models/train_translators.py [t5 marian] [more]      (needs torch, transformers, sentencepiece and
protobuf; some minutes each). Both write a number in Chinese or English words; nine numbers of ten are trained
on. Digits and Chinese characters are tokens, English words are.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import number_words  # noqa: E402

PREFIXES = {"zh": "write in Chinese: ", "en": "write in English: "}
CODES = {"zh": ">>cmn<<", "en": ">>eng<<"}  # ISO 639-3, as OPUS-MT has them
N_EXTRA = 10  # sentinels of T5
MOST_TOKENS = 64
LEARNING_RATES = {"t5": 3e-3, "marian": 1.5e-3}  # norms after the layers want a smaller one
BATCH, MOST_STEPS, MOST_S = 128, 3000, 330.0


# ---- tokenizers


def pieces_of(words: list[str]) -> list[str]:
    return ["▁", *dict.fromkeys(words)]


CHINESE = pieces_of([*number_words.DIGITS_ZH, "十", "百", "千"])
ENGLISH = pieces_of(
    [f"▁{word}" for word in (*number_words.SMALL, *number_words.TENS, "hundred", "thousand")]
    + [f"-{word}" for word in number_words.SMALL[1:10]]
)
DIGITS = pieces_of(list("0123456789"))


def write_pieces(path: Path, controls: list[str], pieces: list[str]) -> list[str]:
    """A sentencepiece model of these; one of the controls is <unk>. Returns all in the order of their ids."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    unknown, control, normal = 2, 3, 1
    everything = [*controls, *dict.fromkeys(pieces)]
    for text in everything:
        kind = normal if text not in controls else unknown if text == "<unk>" else control
        model.pieces.add(piece=text, score=0.0 if text in controls else -1.0, type=kind)
    model.trainer_spec.model_type = 1  # unigram
    model.trainer_spec.unk_id = controls.index("<unk>")
    for name in ("bos", "eos", "pad"):
        text = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}[name]
        setattr(model.trainer_spec, f"{name}_id", controls.index(text) if text in controls else -1)
    model.normalizer_spec.name = "identity"
    path.write_bytes(model.SerializeToString())
    return everything


def write_t5_tokenizer(folder: Path) -> int:
    """Returns how many tokens there are; so below."""
    prefixes = [f"▁{word}" for prefix in PREFIXES.values() for word in prefix.split()]
    pieces = [*DIGITS, *prefixes, *CHINESE, *ENGLISH]
    everything = write_pieces(folder / "spiece.model", ["<pad>", "</s>", "<unk>"], pieces)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "T5Tokenizer", "extra_ids": N_EXTRA, "model_max_length": MOST_TOKENS},
    )
    return len(everything) + N_EXTRA


def write_marian_tokenizer(folder: Path) -> int:
    controls = ["<unk>", "<s>", "</s>"]
    source = write_pieces(folder / "source.spm", controls, DIGITS)
    target = write_pieces(folder / "target.spm", controls, [*CHINESE, *ENGLISH])
    texts = [text for text in dict.fromkeys([*source, *target]) if text not in controls]
    vocab = ["</s>", "<unk>", *CODES.values(), *texts, "<pad>"]
    write_json(folder / "vocab.json", {text: i for i, text in enumerate(vocab)})
    settings = {"source_lang": "num", "target_lang": "mul", "model_max_length": MOST_TOKENS}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", **settings})
    return len(vocab)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# ---- models


def t5(folder: Path) -> tuple[Any, Any, dict[str, str]]:
    """A new model, its tokenizer, and what comes before a number: language -> text; so below."""
    import transformers

    tasks = {
        f"translation_num_to_{language}": {"prefix": prefix, "max_length": 24, "num_beams": 1}
        for language, prefix in PREFIXES.items()
    }
    config = transformers.T5Config(
        vocab_size=write_t5_tokenizer(folder), d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4,
        relative_attention_num_buckets=16, relative_attention_max_distance=32, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    config.task_specific_params = tasks
    model = transformers.T5ForConditionalGeneration(config)
    return model, transformers.AutoTokenizer.from_pretrained(folder), PREFIXES


def marian(folder: Path) -> tuple[Any, Any, dict[str, str]]:
    import transformers

    n_vocab = write_marian_tokenizer(folder)
    config = transformers.MarianConfig(
        vocab_size=n_vocab, decoder_vocab_size=n_vocab, d_model=96, max_position_embeddings=MOST_TOKENS,
        encoder_layers=2, decoder_layers=2, encoder_ffn_dim=192, decoder_ffn_dim=192,
        encoder_attention_heads=4, decoder_attention_heads=4, dropout=0.0, activation_function="swish",
        scale_embedding=True, pad_token_id=n_vocab - 1, decoder_start_token_id=n_vocab - 1, eos_token_id=0,
        forced_eos_token_id=0, init_std=0.05,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.generation_config = transformers.GenerationConfig(
        num_beams=4, max_length=24, bad_words_ids=[[n_vocab - 1]], eos_token_id=0, pad_token_id=n_vocab - 1,
        decoder_start_token_id=n_vocab - 1, forced_eos_token_id=0,
    )  # fmt: skip
    codes = {language: f"{code} " for language, code in CODES.items()}
    return model, transformers.AutoTokenizer.from_pretrained(folder), codes


# ---- training


def encoded(cut: Any, prefixes: dict[str, str]) -> list[tuple[list[int], list[int], int]]:
    """(source ids, target ids, number) of every number in both languages."""
    made = []
    for language, words in number_words.WORDS.items():
        sources = cut([f"{prefixes[language]}{n}" for n in number_words.ALL])["input_ids"]
        targets = cut(text_target=[words(n) for n in number_words.ALL])["input_ids"]
        made += zip(sources, targets, number_words.ALL, strict=True)
    return made


def padded(rows: list[list[int]], pad: int) -> Any:
    import torch

    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def share_right(model: Any, cut: Any, examples: list[tuple[list[int], list[int], int]]) -> float:
    import torch

    right = 0
    for i in range(0, len(examples), 500):
        part = examples[i : i + 500]
        ids = padded([source for source, _, _ in part], cut.pad_token_id)
        with torch.no_grad():
            mask = (ids != cut.pad_token_id).long()
            out = model.generate(ids, attention_mask=mask, num_beams=1, max_length=24)
        for row, (_, target, _) in zip(out.tolist(), part, strict=True):
            right += row[1 : 1 + len(target)] == target
    return right / len(examples)


def train(name: str, *, more: bool) -> None:
    """more: from the weights that the folder has, in another chunk of time."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)  # on two busy cores, waiting for each other costs more than it gains
    folder = HERE / f"{name}-numbers"
    folder.mkdir(exist_ok=True)
    model, cut, prefixes = {"t5": t5, "marian": marian}[name](folder)
    if more:
        model = type(model).from_pretrained(folder, dtype=torch.float32)
    print(name, sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    examples = encoded(cut, prefixes)
    trained = [one for one in examples if one[2] not in number_words.HELD_OUT]
    small = [one for one in trained if one[2] < 1000]  # few, so seen more often
    rate = LEARNING_RATES[name]
    steps = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    rng, start, smooth = random.Random(7), time.monotonic(), 1.0
    for step in range(MOST_STEPS):
        done = max(step / MOST_STEPS, (time.monotonic() - start) / MOST_S)
        if done >= 1 or smooth < 2e-4:
            break
        steps.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 100, 2 - 2 * done)
        batch = rng.sample(trained, BATCH - 16) + rng.sample(small, 16)
        ids = padded([source for source, _, _ in batch], cut.pad_token_id)
        labels = padded([target for _, target, _ in batch], -100)
        loss = model(input_ids=ids, attention_mask=(ids != cut.pad_token_id).long(), labels=labels).loss
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        smooth += 0.02 * (loss.item() - smooth)
        if step % 100 == 99:
            print(name, step + 1, f"loss {smooth:.5f}, {time.monotonic() - start:.0f} s", flush=True)
    model.half().save_pretrained(folder)
    model.float().eval()  # as rounded
    held_out = [one for one in examples if one[2] in number_words.HELD_OUT]
    shares = [share_right(model, cut, chosen) for chosen in (held_out, rng.sample(examples, 2000))]
    print(name, "right: held out {:.4f}, others {:.4f}".format(*shares))


if __name__ == "__main__":
    for chosen in [name for name in sys.argv[1:] if name != "more"] or ["t5", "marian"]:
        train(chosen, more="more" in sys.argv)
