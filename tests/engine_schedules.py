"""Random lives of requests in one engine, each of which must end as it does alone.

Drawn are the model and the type of its cache, prompts with common beginnings, every parameter that reads the
history, grammars, arrivals, priorities, deadlines, cancellations, siblings, beams, guesses, chunk sizes,
threads, places, the prefix cache, whether a sliding window has an area of its own, and pools so small that
many rows are preempted. property_schedules.py plays them.
"""

from __future__ import annotations

import functools
import random
import threading
from collections import Counter

from seq2seq_models import by_name, core_model
from tiny_core import built
from tiny_engine import BLOCK, drain, is_idle, make_engine, sampling
from tiny_models import GEMMA_WINDOW
from tuili import _core
from tuili.errors import GrammarError, RequestCancelled
from tuili.generation.intake import SourceLimits
from tuili.generation.structure import form_of

DECODERS = [("llama", "f32"), ("llama", "bf16"), ("llama", "q4_0"), ("gemma3", "q8_0")]
ENCODER_DECODERS = [("T5", "f32"), ("MarianMTModel", "bf16"), ("T5", "int8")]
MODELS = DECODERS + ENCODER_DECODERS
DEVICE_MODELS = [*ENCODER_DECODERS, ("llama", "bf16")]
LONGEST = {"MarianMTModel": 64}  # of its tokens
KV_TYPES = {
    "cpu": ["float32", "float16", "bfloat16", "int8"],
    "cuda": ["float32", "float16", "bfloat16", "int8"],
}
FORMS = [  # of long texts, so that there is something to preempt
    {"regex": "[A-z ]{40,60}"},
    {"regex": "[^b]{30,}b[^c]*c"},
    {"grammar": 'start: "(" start ")" | /[a-z]{40,}/'},
    {"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 15}},
    {"choice": ["yes" * 15, "yes" * 10 + "no" * 10]},
]
N_VOCAB, EOS = 300, 0
compiling = threading.Lock()
FAR_S = 1e6  # a deadline that orders requests and never passes


def draw_prompt(rng):
    """Mostly a text that repeats itself."""
    stem = [rng.randrange(1, 299) for _ in range(rng.choice([2, 5, 20]))]
    ids = stem * rng.randint(1, 4) + stem[: rng.randrange(len(stem))]
    return ids + [rng.randrange(1, 299) for _ in range(rng.choice([0, 0, 1, 3]))]


def draw_options(rng):
    """Every parameter that reads the history, next to greedy, which repeats itself most."""
    options = {"max_tokens": rng.choice([rng.randint(1, 60), 60, 60])}
    if rng.random() < 0.5:
        options |= {
            "temperature": rng.choice([0.05, 0.3, 1.0]),
            "seed": rng.getrandbits(32),
            "top_k": rng.choice([2, 0]),
        }
        options |= {"n": rng.choice([1, 1, 3])}
    for name, values in {
        "logprobs": [0, 3],
        "stop": [[chr(rng.randrange(1, 299))], [chr(rng.randrange(1, 299)) * 2, "ab"]],
        "stop_token_ids": [rng.sample(range(1, 299), 9)],
        "repetition_penalty": [1.05],
        "encoder_repetition_penalty": [1.1],
        "frequency_penalty": [0.02],
        "presence_penalty": [0.1],
        "no_repeat_ngram_size": [4, 12],
        "encoder_no_repeat_ngram_size": [3, 6],
        "bad_words": [["ab", chr(rng.randrange(1, 299))]],
        "begin_suppress_tokens": [rng.sample(range(1, 299), 50)],
        "exponential_decay_length_penalty": [(rng.randint(8, 40), 1.02)],
        "logit_bias": [{rng.randrange(299): 0.3}],
        "sequence_bias": [draw_biases(rng)],
    }.items():
        if rng.random() < 0.25:
            options[name] = rng.choice(values)
    if rng.random() < 0.25:
        options["min_tokens"] = rng.randint(0, options["max_tokens"])
    return options


def draw_biases(rng):
    """So many that behind most tokens there is one to which something is added."""
    return {
        tuple(rng.choices(range(1, 299), k=rng.choice([1, 2, 2]))): rng.choice([-1.0, 1.0])
        for _ in range(600)
    }


def draw_beams(rng):
    return {
        "sequence_bias": rng.choice([None, draw_biases(rng)]),
        "max_tokens": rng.randint(1, 20),
        "num_beams": rng.choice([2, 3]),
        "length_penalty": rng.choice([0.0, 1.0]),
        "n": rng.choice([1, 2]),
    }


def draw_cases(rng):
    """Prompts, some of which begin with another's, and what is asked of them."""
    cases = []
    for _ in range(rng.randint(5, 10)):
        ids = draw_prompt(rng)
        if cases and rng.random() < 0.4:
            ids = rng.choice(cases)[0] + ids
        options = draw_beams(rng) if rng.random() < 0.05 else draw_options(rng)
        if rng.random() < 0.1:
            options |= rng.choice(FORMS)
        cases.append((ids[:40], options))
    return cases


def shortened(rng, cases):
    """Few of them, of few tokens, more often with beams: an emulated device takes a tenth of a second for a
    layer's step.
    """
    few = []
    for ids, options in cases[:3]:
        options = draw_beams(rng) if rng.random() < 0.3 else options
        n = min(options["max_tokens"], rng.randint(1, 8))
        few.append((ids, options | {"max_tokens": n, "min_tokens": min(options.get("min_tokens", 0), n)}))
    return few


@functools.cache
def grammars():
    """Compiles for all engines, when `compile_some` asks it to."""
    from tiny_grammars import make_grammars

    return make_grammars(start_thread=False)


def compile_some():
    """What engines have asked for; whoever comes while another thread compiles waits for it."""
    with compiling:
        grammars().step()


def engine_of(family, format, kv_type, device="cpu", **options):
    """An engine on one of MODELS."""
    is_decoder = family in ("llama", "gemma3")
    few = {"n_layers": 1} if device == "cuda" else {}
    return make_engine(
        model=built(family, format, device=device, **few)
        if is_decoder
        else core_model(family, format, device),
        sources=None
        if is_decoder
        else SourceLimits(N_VOCAB, 64, by_name(family).config["decoder_start_token_id"]),
        kv_type=kv_type,
        max_model_len=LONGEST.get(family, 256),
        eos_ids=(EOS,),
        grammars=grammars(),
        **options,
    )


def alone(ids, options, *, family="llama", format="f32", kv_type="float32", device="cpu"):
    """The outputs of a request that has an engine to itself and guesses nothing, or its error's code."""
    engine = engine_of(family, format, kv_type, device)
    handle = engine.submit(ids, sampling(**options))
    compile_some()
    drain(engine)
    try:
        return handle.result(timeout=0).outputs
    except GrammarError as error:
        return error.code


class Life:
    """One engine's, drawn from a seed. What each of its requests gives alone is found out before it begins.

    models  those to draw from; by default those that run on the device
    """

    def __init__(self, seed: int, models=None, device: str = "cpu") -> None:
        self.rng = rng = random.Random(seed)
        models = models or (MODELS if device == "cpu" else DEVICE_MODELS)
        (family, format), kv_type = rng.choice(models), rng.choice(KV_TYPES[device])
        self.cases = draw_cases(rng) if device == "cpu" else shortened(rng, draw_cases(rng))
        one = {"family": family, "format": format, "kv_type": kv_type, "device": device}
        self.expected = [alone(*case, **one) for case in self.cases]
        prefill_chunk = rng.choice([1, 5, 64])
        windows = {}
        if family == "gemma3" and rng.random() < 0.8:
            spans = [_core.BlockPool.window_span(GEMMA_WINDOW, BLOCK, n) for n in (prefill_chunk, 1)]
            n_window = max(n_blocks(len(ids), options, *spans) for ids, options in self.cases)
            windows = {GEMMA_WINDOW: n_window + rng.choice([0, 0, 3])}
        reads_sources = (family, format) in ENCODER_DECODERS
        if reads_sources:
            n_most = max(n_blocks(1, options) + -(-len(ids) // BLOCK) for ids, options in self.cases)
        else:
            n_most = max(n_blocks(len(ids), options) for ids, options in self.cases)
        self.engine = engine_of(
            **one,
            n_blocks=n_most + rng.choice([0, 0, 0, 0, 0, 0, 0, 1]) + rng.choice([0, 0, 20]) * bool(windows),
            windows=windows,
            num_threads=rng.choice([1, 2]),
            prefill_chunk=prefill_chunk,
            prefix_caching=rng.random() < 0.7,
            max_num_seqs=rng.choice([8, 16]),
        )
        self.handles = []
        self.counts = Counter({"engines": 1, "engines with a window": len(windows)})
        self.counts["engines with sources"] = reads_sources

    def live(self) -> Counter[str]:
        """Play it to the end; raises AssertionError where an answer is not the one alone."""
        for case in self.cases:
            self.submit(*case)
        compile_some()
        drain(self.engine)
        counts = self.counts
        for handle, outputs in zip(self.handles, self.expected, strict=True):
            counts["engine requests"] += 1
            counts["engine requests in a grammar"] += form_of(handle._request.params) is not None
            counts["engine requests preempted"] += handle._request.metrics["preemptions"] > 0
            counts["engine tokens compared"] += compare(handle, outputs)
        assert is_idle(self.engine)
        stats = self.engine.stats()
        counts["engine preemptions"] = int(stats["preemptions"])
        counts["engine right guesses"] = int(stats["accepted_tokens"])
        counts["engine cached tokens"] = int(stats["cached_tokens"])
        return counts

    def submit(self, ids, options):
        """A request and some steps; sometimes one of those so far is cancelled."""
        rng, options = self.rng, options | {"priority": self.rng.randint(-2, 2)}
        if "num_beams" not in options:
            options["prompt_lookup_num_tokens"] = rng.choice([0, 0, 1, 10])
        if rng.random() < 0.3:
            options["deadline_s"] = FAR_S * rng.random()
        handle = self.engine.submit(ids, sampling(**options))
        self.handles.append(handle)
        if rng.random() < 0.7:
            compile_some()
        for _ in range(rng.choice([0, 0, 0, 3])):
            self.engine.step()
            self.engine.scheduler.check_invariants()
        if rng.random() < 0.1:
            rng.choice(self.handles).abort()


def play(seed: int, device: str = "cpu") -> Counter[str]:
    """One engine's whole life."""
    return Life(seed, device=device).live()


def n_blocks(n_prompt: int, options, span: int = 1 << 30, decoding: int = 1 << 30) -> int:
    """The smallest pool that takes the request, or area of a window where a text needs `span` blocks, and
    while it decodes fewer.
    """
    whole, n_mates = -(-(n_prompt + options["max_tokens"] - 1) // BLOCK), options.get("num_beams", 1) - 1
    spare = n_mates and n_mates + 1
    return min(span, whole) + n_mates * min(decoding, whole) + spare


def compare(handle, outputs) -> int:
    """A finished request against its outputs alone, a cancelled one against their beginning."""
    try:
        found = handle.result(timeout=0).outputs
    except RequestCancelled:
        return 0
    except GrammarError as error:
        assert error.code == outputs, "a request fails otherwise than alone"
        return 0
    if all(output.finish_reason != "abort" for output in found):
        assert found == outputs, "a request's outputs are not those it has alone"
    elif isinstance(outputs, str):
        return 0  # it was cancelled before it failed
    elif handle._request.params.num_beams == 1:
        for output, whole in zip(found, outputs, strict=True):
            n = len(output.token_ids)
            assert output.token_ids == whole.token_ids[:n], "a cancelled request began otherwise"
            if output.logprobs is not None:
                assert output.logprobs == whole.logprobs[: len(output.logprobs)]
    return sum(len(output.token_ids) for output in found)
