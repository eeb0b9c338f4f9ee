"""`LLM`, the one door: load a model, then generate, chat, embed, score. Safe to use from any thread."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, overload

import numpy as np

from tuili import _core
from tuili.chat.conversations import Conversations
from tuili.chat.rendering import Rendering, taken_from, with_tools
from tuili.checks import boolean, described, function_or_none, integer, invalid, number, only_known
from tuili.device import checked_device, named, placed
from tuili.embedding.encoder import Encoder, Progress
from tuili.embedding.rereading import cache_for, rereading_of
from tuili.embedding.vectors import Vectors
from tuili.errors import (
    CUTTING_HELPS,
    LONGER_HELPS,
    InvalidParameterError,
    ModelFormatError,
    ModelUnsupportedError,
    QueueFullError,
    cutting_helps,
)
from tuili.generation import params as parameters
from tuili.generation.beam_search import beam_search
from tuili.generation.capacity import (
    BLOCK_SIZE,
    Capacity,
    allocate,
    check_cache_options,
    checked_length,
    plan_capacity,
    runner_options,
)
from tuili.generation.engine import Engine
from tuili.generation.grammar import Grammars
from tuili.generation.introspection import Introspection
from tuili.generation.outputs import RequestOutput
from tuili.generation.params import SamplingParams
from tuili.generation.prefix import Prefixes
from tuili.generation.prompts import ManyPrompts, Messages, OnePrompt, Prompt, is_chat, is_one, many
from tuili.generation.request import Handle, Stream
from tuili.generation.saved_prefixes import SavedPrefixes
from tuili.generation.scheduler import Limits
from tuili.generation.sources import ANSWER_LEN, as_config, endings_of, source_limits
from tuili.generation.structure import form_of
from tuili.generation.token_ids import checked_ids
from tuili.loading.files import StrPath
from tuili.loading.opening import open_model
from tuili.loading.store import resolve
from tuili.tasks.translation import summarize, translate
from tuili.tokenization.tokenizer import Detokenizer, Tokenizer

# What fills the cores of a CPU, and what the multiprocessors of a device.
PREFILL_CHUNK = (512, 2048)
ENCODER_BATCH_TOKENS = (1024, 8192)
ENCODER_TOKENS_PER_THREAD = 256  # a CPU's: with more, activations leave the caches between ops
ENCODER_TEXTS_ON_DEVICE = 512
ENCODER_MAX_LEN = 8192  # tokens of one text, unless max_model_len says more: they need memory all at once
TRUNCATION_RESERVE = 256  # tokens that truncation leaves for the answer if max_tokens is not given


_P = ParamSpec("_P")


def _names_checked(init: Callable[_P, None]) -> Callable[_P, None]:
    """A constructor with an error that has the nearest name for an unknown one, as SamplingParams'."""
    _, *known = inspect.signature(init).parameters

    @functools.wraps(init)
    def checked(*args: _P.args, **options: _P.kwargs) -> None:
        only_known(options, known)
        init(*args, **options)

    return checked


class LLM(Conversations, Vectors, Introspection, SavedPrefixes):
    """A model in memory, with the engine that runs it.

    model                  a Hugging Face folder, a .gguf file, or a name from `tuili models` (pulled on first
                           use)
    device                 "cpu", or in builds with CUDA "cuda", which is the first device, or "cuda:N": float
                           weights are rounded to bfloat16 there
    dtype                  of float weights: "auto" (as stored; float32 ones that 16 bits hold exactly take
                           16), "float32", "bfloat16" or "float16"
    quantization           None (as stored), "int8" or "int4": the float weights of linear maps become q8_0,
                           or q4_k and q4_1, while loading
    compute                of quantized weights. "int8": integer dot products with activations of one byte;
                           "auto": the same, and in models that are decoders alone a second byte for
                           outliers; "float32": weights dequantized exactly. On cuda "auto" alone: there
                           they meet bfloat16
    kv_cache_dtype         "auto" (float16; float32 on the CPU of encoder-decoders whose weights are floats),
                           "float32" (slower on cuda: without tensor cores), "float16" (what is beyond
                           ±65,504, infinities too, counts as that), "bfloat16", or "int8": half of
                           float16, one scale per token and head
    max_model_len          most tokens of one text that are computed, and of a source; by default the model's
                           own limits, of encoders up to 8192. Beyond the original context of LongRoPE all
                           texts, short ones too, get its long factors; config["longrope"] says which
    kv_cache_bytes         by default what max_num_seqs full texts need, but a quarter of the available
                           memory at most, of cuda's nine tenths; `config` says what was chosen and why
    max_num_seqs           texts that are generated at once; up to max_queue more wait, with max_queued_tokens
                           in all
    prefill_chunk          most prompt tokens of one step, by default 512, on cuda 2,048; while others decode,
                           a step is to stay within step_budget_s, in seconds
    enable_prefix_caching  keep keys and values of prompts for others that begin alike; save_prefix needs it
    packed_cache           keep the weights as they are packed in a file, and map that at the next load: it is
                           faster, and processes share the memory; `config` says what became of it. The
                           tokenizer is then read when the first text comes, which takes a second with
                           262,144 tokens: `tokenizer.encode("")` does it earlier
    cache_dir              where pulled models and packed weights lie; by default ~/.cache/tuili
    strict                 False tolerates data in model files that no tensor covers
    check_finite           refuse weights that are not finite
    progress               called with (bytes, bytes in all) while weights are read
    raises                 the Model… errors, TokenizerError, InvalidParameterError

    Encoders ignore what concerns generation and its cache; those of two halves have one for a batch alone.

    kind       "decoder", "encoder" or "encoder-decoder"
    config     what was loaded, which defaults were taken and why, "tasks" that it can do, "warnings"
    tokenizer  encode(text) -> list of ids, decode(ids) -> text

    What neither README.md nor docs name, other parts of tuili use: it may change.
    """

    _engine: Engine | None = None
    _defaults: dict[str, Any]

    @_names_checked
    def __init__(
        self,
        model: StrPath,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        quantization: str | None = None,
        compute: str = "auto",
        kv_cache_dtype: str = "auto",
        max_model_len: int | None = None,
        kv_cache_bytes: int | None = None,
        max_num_seqs: int = 64,
        max_queue: int = 1024,
        max_queued_tokens: int = 1 << 20,
        prefill_chunk: int | None = None,
        step_budget_s: float = 0.04,
        enable_prefix_caching: bool = True,
        num_threads: int | None = None,
        packed_cache: bool = True,
        cache_dir: StrPath | None = None,
        strict: bool = True,
        check_finite: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._device = checked_device(device, compute)
        chunk = PREFILL_CHUNK[self._device != "cpu"] if prefill_chunk is None else prefill_chunk
        limits = _limits(
            max_num_seqs, chunk, step_budget_s, enable_prefix_caching, max_queue, max_queued_tokens
        )
        check_cache_options(kv_cache_dtype, kv_cache_bytes)
        self._opened = open_model(
            resolve(model, cache_dir),
            **_flags(packed_cache=packed_cache, strict=strict, check_finite=check_finite),
            cache_dir=cache_dir,
            progress=function_or_none("progress", progress),
            dtype=dtype,
            compute=compute,
            quantization=quantization,
            num_threads=num_threads,
            max_model_len=max_model_len,
        )
        self.loaded, self.tokenizer = self._opened.loaded, Tokenizer(self._opened.tokenizer, num_threads)
        self.kind, self.name, self._defaults = self.loaded.kind, os.fspath(model), {}
        self._model = placed(self.loaded.model, self._device, num_threads or 0)
        self.config: dict[str, Any] = {**self.loaded.config, "kind": self.kind, "device": device}
        if self.kind != "encoder":
            capacity = plan_capacity(
                self.loaded.spec,
                limits,
                max_model_len=max_model_len,
                kv_cache_bytes=kv_cache_bytes,
                kv_cache_dtype=kv_cache_dtype,
                placed=self._model,
                rounds_activations=self.loaded.rounds_activations,
            )
            self._start_decoder(capacity, limits, num_threads or 0)
        else:
            self._start_encoder(max_model_len, limits, num_threads or 0)
        self.config["packed_cache"] = self._opened.save()

    def _start_decoder(self, capacity: Capacity, limits: Limits, num_threads: int) -> None:
        spec, loaded, tokenizer = self.loaded.spec, self.loaded, self.tokenizer
        cache, pool = allocate(spec, capacity, limits, self._device)
        sources = source_limits(loaded, capacity)
        self._runner = _core.Runner(
            self._model,
            cache,
            **runner_options(limits, 0 if sources is None else sources.max_len),
            num_threads=num_threads,
        )
        try:
            usual = {} if sources is None else {"max_tokens": ANSWER_LEN}
            self._defaults = usual | parameters.defaults_from(loaded.generation_defaults)
        except InvalidParameterError as error:
            raise ModelFormatError(f"generation defaults: {error}", code="generation_config") from error
        eos_ids = tuple(dict.fromkeys((*loaded.eos_token_ids, *self._extra_eos_ids())))
        self._engine = Engine(
            self._runner,
            pool,
            n_vocab=spec.n_vocab,
            max_model_len=capacity.max_model_len,
            # Nothing of these holds this LLM: its memory goes with the last name of it, not with the next
            # garbage collection, of which a device's memory is no part.
            decoder=functools.partial(_detokenizer, tokenizer),
            encode_words=tokenizer.encode_words,
            eos_ids=eos_ids,
            sources=sources,
            grammars=Grammars(tokenizer, spec.n_vocab, eos_ids),
            limits=limits,
        )
        if limits.prefix_caching and sources is None:
            self._prefixes = Prefixes(
                self._engine,
                pool,
                cache,
                loaded.model,
                architecture=loaded.config["architecture"],
                kv_dtype=capacity.kv_dtype,
                settings={"compute": loaded.config["compute"], "device": named(self._device)},
            )
        self._kv_bytes = capacity.kv_bytes
        self.config |= {
            "max_model_len": capacity.max_model_len,
            "kv_cache": {
                "dtype": capacity.kv_dtype,
                "bytes": capacity.kv_bytes,
                "tokens": capacity.n_blocks * BLOCK_SIZE,
                "window_tokens": {window: n * BLOCK_SIZE for window, n in capacity.windows.items()},
                "why": capacity.note,
            },
            "limits": dataclasses.asdict(limits),
            **({} if sources is None else as_config(sources)),
            "sampling_defaults": dict(self._defaults),
            "eos_token_ids": list(eos_ids),
            "num_threads": self._runner.n_threads,
            "isa": self._runner.isa,
        }

    def _start_encoder(self, max_model_len: int | None, limits: Limits, num_threads: int) -> None:
        spec = self.loaded.spec
        max_positions = min(checked_length(spec, max_model_len), max_model_len or ENCODER_MAX_LEN)
        settings = self.loaded.embedding or {}
        self._embedding = {"pooling": "mean", "normalize": False, **settings}
        max_len = min(max_positions, self._embedding.get("max_seq_length") or max_positions)
        on_device = self._device != "cpu"
        n_tokens = ENCODER_BATCH_TOKENS[on_device]
        if not on_device:
            n_tokens = min(n_tokens, ENCODER_TOKENS_PER_THREAD * (num_threads or _core.default_num_threads()))
        n_tokens = max(n_tokens, max_positions)
        n_texts = max(limits.max_num_seqs, ENCODER_TEXTS_ON_DEVICE if on_device else 0)
        rereading, cache = rereading_of(self.loaded), None
        if rereading is not None:
            cache = cache_for(spec, n_tokens, n_texts, self._device)
        self._runner = _core.Runner(
            self._model,
            cache,
            max_batch_tokens=n_tokens,
            max_seqs=n_texts,
            max_source_tokens=0 if cache is None else n_tokens,
            num_threads=num_threads,
        )
        self._encoder = Encoder(
            self._runner,
            n_vocab=spec.n_vocab,
            max_len=max_len,
            max_positions=max_positions,
            max_batch_tokens=n_tokens,
            max_seqs=n_texts,
            rereading=rereading,
        )
        self._kv_bytes = 0 if cache is None else cache.bytes
        self.config |= {
            "max_model_len": max_len,
            "embedding": dict(self._embedding),
            "num_threads": self._runner.n_threads,
            "isa": self._runner.isa,
        }

    # --- generating -----------------------------------------------------------------------------------------

    beam_search = beam_search
    translate, summarize = translate, summarize

    @overload
    def generate(
        self,
        prompts: OnePrompt | Messages,
        params: SamplingParams | None = None,
        *,
        truncation: bool = False,
        **options: Any,
    ) -> RequestOutput: ...
    @overload
    def generate(
        self,
        prompts: ManyPrompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncation: bool = False,
        **options: Any,
    ) -> list[RequestOutput]: ...
    @overload
    def generate(
        self,
        prompts: np.ndarray,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncation: bool = False,
        **options: Any,
    ) -> RequestOutput | list[RequestOutput]: ...
    def generate(
        self, prompts: Any, params: Any = None, *, truncation: bool = False, **options: Any
    ) -> RequestOutput | list[RequestOutput]:
        """Continue a prompt (RequestOutput) or each of a list of prompts (list of RequestOutput, in order).

        prompts     text, in which special tokens are recognised, or token ids; an empty text needs a model
                    that begins texts with a token. An encoder-decoder reads them as its source
        params      of all prompts, or a list with one for each; or keywords, with the aliases that
                    SamplingParams takes. Without any, and without a generation_config.json that says
                    otherwise, tokens are the likeliest until the text ends or the context is full
        truncation  cut a prompt that is too long from its beginning, of which the token that begins texts
                    stays, leaving room for max_tokens; a source, if it is longer than the model takes or the
                    tokenizer's files allow, from its end, of which tokens for the end of texts and for its
                    language stay
        raises      what `Handle.result` and `submit` raise; with the first error the rest of a list is
                    aborted
        """
        if is_one(prompts):
            return self._generate_all(
                [prompts], [parameters.from_options(params, options)], truncation=truncation
            )[0]
        each = many(prompts)
        return self._generate_all(each, parameters.of_each(params, options, len(each)), truncation=truncation)

    def submit(
        self,
        prompt: Prompt | Messages,
        params: SamplingParams | None = None,
        *,
        truncation: bool = False,
        **options: Any,
    ) -> Handle:
        """Queue a prompt, or the messages of a chat, and return at once. For messages there are `chat`'s
        options, too.

        raises  PromptTooLongError, TokenIdError, InvalidParameterError, QueueFullError,
                KVCacheExhaustedError, GrammarError, EngineClosedError, EngineForkedError
        """
        engine = self._decoder_engine()
        engine.check_usable()
        how = taken_from(options, prompt)
        given = parameters.from_options(params, options)
        chosen = parameters.resolve(given, self._defaults)
        cuts = boolean("truncation", truncation) or chosen.truncate_prompt_tokens is not None
        text, ids = self._encode_prompt(prompt, how, cuts=cuts)
        n_given = len(ids)
        if cuts:
            ids = self._cut(engine, ids, chosen)
        if not self._defaults.keys().isdisjoint(parameters.LENGTHS) and len(ids) <= engine.max_model_len:
            chosen = parameters.resolve_for(given, self._defaults, len(ids))
        longer = LONGER_HELPS if self.loaded.config["longrope"] == "short" else ""
        with cutting_helps(longer + CUTTING_HELPS):
            return engine.submit(ids, chosen, prompt=text, truncated=len(ids) < n_given)

    def _cut(self, engine: Engine, ids: Any, params: SamplingParams) -> Any:
        """What stays of a prompt, or of a source, that may be cut."""
        sources, most = engine.sources, params.truncate_prompt_tokens or -1
        longest, n_vocab = engine.max_model_len, self.loaded.spec.n_vocab
        if sources is not None:
            longest, n_vocab = sources.max_len, sources.n_vocab
        if most > longest:
            invalid("truncate_prompt_tokens", f"must be in [1, {longest}], or -1, not {most}")
        ids = checked_ids(ids, n_vocab)  # also what is cut off
        if sources is not None:
            endings = endings_of(self.tokenizer.loaded.languages, engine.eos_ids)
            # As in transformers, no longer than the tokenizer's files say, in a model that could read more.
            usual = min(sources.max_len, self.tokenizer.loaded.max_tokens or sources.max_len)
            return sources.cut(ids.tolist(), endings, usual if most == -1 else most)
        if most == -1:
            if params.max_tokens is None:
                longest = min(longest, self._defaults.get("max_length", longest))
            reserve = min(params.max_tokens or TRUNCATION_RESERVE, max(1, longest // 2))
            most = max(1, longest - reserve)
        begins = int(len(ids) > most > 1 and ids[0] == self.tokenizer.first_id)
        return np.concatenate([ids[:begins], ids[begins - most :]])

    def stream(
        self,
        prompt: Prompt | Messages,
        params: SamplingParams | None = None,
        *,
        truncation: bool = False,
        **options: Any,
    ) -> Stream:
        """The chunks of `submit`, for `for` and `async for`. Dropping the stream aborts the request."""
        return iter(self.submit(prompt, params, truncation=truncation, **options))

    def prepare_grammars(self) -> None:
        """Index the model's vocabulary for json_schema, regex, choice and grammar; returns when it is done.

        Once per model; without this the first request with one of them does it. The library keeps the GIL
        meanwhile, so that nobody gets tokens for 0.05 s with 49,000 of them, 0.5 s with 262,000, and twice
        where tokens lose a space at a text's beginning: a service calls this at its start.

        raises  InvalidParameterError without the extra tuili[structured], GrammarError for a model without
                end of text, ModelUnsupportedError for an encoder
        """
        grammars = self._decoder_engine().grammars
        assert grammars is not None
        grammars.prepare()

    def _generate_all(
        self, prompts: Sequence[Any], params: Sequence[SamplingParams], *, truncation: bool
    ) -> list[RequestOutput]:
        """Keeps as many in the engine as its queue takes; with the first error, the others are aborted."""
        handles: list[Handle] = []
        n_waited = 0
        try:
            for prompt, chosen in zip(prompts, params, strict=True):
                while True:
                    try:
                        handles.append(self.submit(prompt, chosen, truncation=truncation))
                        break
                    except QueueFullError:
                        if n_waited == len(handles):  # the queue is full of others' requests
                            raise
                        handles[n_waited].result()
                        n_waited += 1
            return [handle.result() for handle in handles]
        except BaseException:
            for handle in handles:
                handle.abort()
            raise

    def _encode_prompt(
        self, prompt: Any, how: Rendering | None = None, *, cuts: bool = False
    ) -> tuple[str | None, Any]:
        """(text, ids) of a prompt or of messages, which must fit unless it `cuts`."""
        if is_chat(prompt):
            return None, self.encode_chat(prompt, how or with_tools(None), cuts=cuts)
        if isinstance(prompt, str):
            return prompt, self.tokenizer.noticed(self.tokenizer.encode(self.fitting(prompt, cuts=cuts)))
        if not (isinstance(prompt, list | tuple) or (isinstance(prompt, np.ndarray) and prompt.ndim)):
            invalid("prompt", f"must be a str, token ids or messages, not {described(prompt)}")
        return None, prompt

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of weights, kv_cache (reserved, not all of it touched yet) and workspace."""
        return {
            "weights": self._model.weight_bytes,
            "kv_cache": self._kv_bytes,
            "workspace": self._runner.workspace_bytes,
        }

    def stats(self) -> dict[str, float | int]:
        """Counters since the start, and what runs and waits now.

        Of the prefix cache: cached_blocks of n_blocks are kept though no request holds them; cache_salts
        have any; block_hits were found; of block_evictions, spared_blocks times a salt with more than half of
        all blocks gave up its own in place of another's older one. window_blocks are those for layers with a
        sliding window, which requests give back as they go on.

        drafted_tokens were guessed by prompt lookup, accepted_tokens of them were right.

        healthy is false when it is closed or a step has taken two minutes, which the log tells with all
        stacks; missing_threads were refused by the system, so that fewer compute than were asked for.
        """
        if self._encoder is not None:
            return dataclasses.asdict(self._encoder.counters)
        return self._decoder_engine().stats()

    def check_usable(self) -> None:
        """Raise EngineClosedError or EngineForkedError if it is of no use any more."""
        engine = self._decoder_engine() if self._encoder is None else self._encoder.worker
        engine.check_usable()

    def close(self) -> None:
        """End the engine; unfinished requests get EngineClosedError. Harmless when repeated. In a finaliser
        or a signal's handler in the middle of another call it does not wait for the end.

        What a first load writes to the packed cache is finished before.
        """
        if self._engine is not None:
            self._engine.close()
        if self._encoder is not None:
            self._encoder.worker.close()
        self._opened.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tuili.LLM {self.loaded.config['architecture']}, {self.kind}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an LLM cannot be pickled or copied; create one in each process")

    # --- parts ----------------------------------------------------------------------------------------------

    def _decoder_engine(self) -> Engine:
        if self._engine is None:
            raise ModelUnsupportedError(
                f"this model is an {self.kind}; it makes vectors, not text: embed", code="wrong_kind"
            )
        return self._engine

    def _extra_eos_ids(self) -> tuple[int, ...]:
        """Ends of text that only the vocabulary knows, which a Hugging Face folder states in full."""
        return (
            ()
            if self.loaded.eos_token_ids and self.config["format"] == "folder"
            else self.tokenizer.loaded.eos_ids
        )


def _flags(**given: object) -> dict[str, bool]:
    return {name: boolean(name, value) for name, value in given.items()}


def _limits(
    max_num_seqs: int,
    prefill_chunk: int,
    step_budget_s: float,
    enable_prefix_caching: bool,
    max_queue: int,
    max_queued_tokens: int,
) -> Limits:
    return Limits(
        max_num_seqs=integer("max_num_seqs", max_num_seqs, 1, 4096),
        prefill_chunk=integer("prefill_chunk", prefill_chunk, 1, 1 << 16),
        step_budget_s=number("step_budget_s", step_budget_s, 0.0, 3600.0, above_low=True),
        prefix_caching=boolean("enable_prefix_caching", enable_prefix_caching),
        max_queue=integer("max_queue", max_queue, 0, 1 << 30),
        max_queued_tokens=integer("max_queued_tokens", max_queued_tokens, 1, 1 << 40),
    )


def _detokenizer(tokenizer: Tokenizer, before: Iterable[int], params: SamplingParams) -> Detokenizer:
    """The detokenizer of what follows the ids `before`; a text of a given form keeps spaces at its ends."""
    skip = params.skip_special_tokens
    return Detokenizer(tokenizer, skip_special=skip, after=before, trims=form_of(params) is None)
