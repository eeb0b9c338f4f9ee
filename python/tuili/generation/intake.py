"""A request on its way into the engine: checked against the model and the limits, and made into rows.

On the caller's thread, before the engine's knows of it.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tuili import _core, checks
from tuili.errors import GrammarError, PromptTooLongError
from tuili.generation import processors, structure
from tuili.generation.beam import check_beams, search_for, share_beams
from tuili.generation.core_params import (
    check_vocabulary,
    core_params,
    derived_seed,
    ending_ids,
    salt_number,
)
from tuili.generation.delivery import Collect, Row, spelling_for, transcript_for
from tuili.generation.grammar import Grammars
from tuili.generation.messages import Submission
from tuili.generation.params import MAX_PROMPT_LOGPROB_ENTRIES, SamplingParams
from tuili.generation.request import Request
from tuili.generation.spelling import TextDecoder
from tuili.generation.token_ids import checked_ids


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, as far as it can be checked before it has a place.

    ids         that generated tokens come after; of an encoder-decoder, the decoder's
    source      what its encoder reads
    max_tokens  that it may draw, cut to the context
    full        the stop_reason of reaching it
    form        what its grammar is to be compiled from
    words       token ids of its bad_words
    collect     what to copy out of the core, if not tokens are wanted
    """

    ids: np.ndarray
    source: np.ndarray | None
    params: SamplingParams
    max_tokens: int
    full: str | None
    form: structure.Form | None
    words: list[tuple[int, ...]]
    seed: int
    collect: Collect | None

    @property
    def prompt(self) -> np.ndarray:
        """What the caller gave."""
        return self.ids if self.source is None else self.source

    @property
    def before(self) -> Iterable[int]:
        """The ids that the answer's text follows. The answer to a source is a text of its own, and so is one
        that has a form, which begins with no space that the form does not have."""
        return () if self.source is not None or self.form is not None else self.ids


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """The limits of what an encoder-decoder reads.

    n_vocab  of its encoder
    max_len  tokens of a source
    start    the token that its own begin after
    """

    n_vocab: int
    max_len: int
    start: int

    def check(
        self, token_ids: Sequence[int] | np.ndarray, params: SamplingParams, collect: Collect | None
    ) -> np.ndarray:
        """The source's ids.

        raises  TokenIdError, PromptTooLongError, InvalidParameterError
        """
        if isinstance(token_ids, list | tuple | np.ndarray) and len(token_ids) > self.max_len:
            raise PromptTooLongError(
                f"the source has {len(token_ids)} tokens; max_source_len is {self.max_len}"
            )
        if params.prompt_logprobs is not None and collect is None:
            checks.invalid("prompt_logprobs", "is for decoders: nothing predicts the source of this model")
        return checked_ids(token_ids, self.n_vocab)

    def cut(self, ids: Sequence[int], endings: Collection[int], max_len: int | None = None) -> Sequence[int]:
        """The first max_len ids, or as many as may be; of the last two those stay that are in `endings`."""
        max_len = self.max_len if max_len is None else max_len
        if len(ids) <= max_len:
            return ids
        n_last = 0
        for token_id in ids[: -1 - min(2, max_len) : -1]:
            if token_id not in endings:
                break
            n_last += 1
        return [*ids[: max_len - n_last], *ids[len(ids) - n_last :]]


class Intake:
    """Makes requests of one model. Arguments as the Engine's; for any thread.

    check_fits  raises if the cache is smaller than (tokens, beams, tokens of the source) need
    sources     of an encoder-decoder
    """

    def __init__(
        self,
        *,
        n_vocab: int,
        max_model_len: int,
        max_num_seqs: int,
        decoder: Callable[[Iterable[int], SamplingParams], TextDecoder],
        encode_words: Callable[[str], list[int]],
        eos_ids: tuple[int, ...],
        grammars: Grammars | None,
        check_fits: Callable[[int, int, int], None],
        sources: SourceLimits | None = None,
    ) -> None:
        self._sources = sources
        self._n_vocab, self._max_model_len, self._max_num_seqs = n_vocab, max_model_len, max_num_seqs
        self._decoder, self._encode_words, self._eos_ids = decoder, encode_words, eos_ids
        self._grammars = grammars
        self._check_fits = check_fits

    def check(
        self,
        token_ids: Sequence[int] | np.ndarray,
        params: SamplingParams,
        collect: Collect | None,
        decoder_ids: Sequence[int] | np.ndarray | None = None,
    ) -> Order:
        """An order that the engine can carry out.

        params       resolved
        decoder_ids  of an encoder-decoder, whose token_ids are the source; by default what it begins with

        raises  TokenIdError, PromptTooLongError, InvalidParameterError, KVCacheExhaustedError, GrammarError
        """
        source, start = None, params.decoder_start_token_id
        if self._sources is not None:
            source = self._sources.check(token_ids, params, collect)
            begin = (self._sources.start if start is None else start,)
            token_ids = begin if decoder_ids is None else decoder_ids
        elif start is not None:
            checks.invalid(
                "decoder_start_token_id", "is for encoder-decoders: this model goes on from a prompt"
            )
        check_vocabulary(params, self._n_vocab)
        if isinstance(token_ids, list | tuple):  # before each of them is looked at
            self._check_length(len(token_ids))
        ids = checked_ids(token_ids, self._n_vocab)
        max_tokens, full = self._check(len(ids), params, 0 if source is None else len(source))
        form = structure.form_of(params)
        self._check_form(form)
        words = [tuple(spelling) for word in params.bad_words for spelling in self._spellings(word)]
        endings = {(token_id,) for token_id in ending_ids(params, self._eos_ids)}
        words += [tuple(ids) for ids in params.bad_words_ids or () if tuple(ids) not in endings]
        words += [(token_id,) for token_id in params.suppress_tokens or ()]
        seed = params.seed
        if seed is None:  # greedy requests draw nothing
            seed = int.from_bytes(os.urandom(8), "little") if params.temperature else 0
        return Order(ids, source, params, max_tokens, full, form, words, seed, collect)

    def submission(
        self,
        order: Order,
        request_id: int,
        *,
        submitted: float,
        prompt: str | None,
        truncated: bool,
        lock: threading.RLock,
    ) -> Submission:
        """The request and its rows. lock: the worker's."""
        params = order.params
        decoder = functools.partial(self._decoder, order.before)
        request = Request(
            request_id,
            order.prompt.tolist(),
            params,
            submitted=submitted,
            prompt=prompt,
            truncated=truncated,
            spelling=spelling_for(params, self._eos_ids, decoder),
            make_decoder=functools.partial(decoder, params),
            lock=lock,
        )
        submission = Submission(request, compiles=order.form is not None)
        search = search_for(params, self._eos_ids, order.max_tokens)
        n_candidates = 0 if search is None else search.n_candidates
        for index in range(params.n_sequences):
            row = self._row(order, request, index, n_candidates)
            row.leader = submission.rows[0] if index else None
            if order.max_tokens:
                row.transcript = transcript_for(
                    params, self._eos_ids, decoder, max_tokens=order.max_tokens, full=order.full
                )
            submission.rows.append(row)
        if search is not None:
            share_beams(submission.rows, search)
        return submission

    def _check(self, n_prompt: int, params: SamplingParams, n_source: int) -> tuple[int, str | None]:
        """Validate against the model; returns max_tokens and the stop_reason of reaching it.

        The model computes at most max_model_len tokens of a text. The last token drawn need not be computed.
        """
        self._check_length(n_prompt)
        if params.prompt_logprobs and n_prompt * params.prompt_logprobs > MAX_PROMPT_LOGPROB_ENTRIES:
            checks.invalid(
                "prompt_logprobs",
                f"times the prompt's length exceeds {MAX_PROMPT_LOGPROB_ENTRIES} entries",
            )
        room = self._max_model_len - n_prompt + 1
        wanted = room if params.max_tokens is None else params.max_tokens
        max_tokens = min(wanted, room)
        self._check_fits(n_prompt + max(0, max_tokens - 1), params.num_beams or 1, n_source)
        check_beams(params, self._eos_ids, n_vocab=self._n_vocab, max_num_seqs=self._max_num_seqs)
        return max_tokens, "max_model_len" if params.max_tokens is None or wanted > room else None

    def _check_length(self, n_prompt: int) -> None:
        if n_prompt > self._max_model_len:
            raise PromptTooLongError(
                f"the prompt has {n_prompt} tokens; max_model_len is {self._max_model_len}"
            )

    def _check_form(self, form: structure.Form | None) -> None:
        if form is None:
            return
        if self._grammars is None:
            raise GrammarError("this engine has no vocabulary for grammars", param=form.kind)
        self._grammars.check(form.kind)

    def _spellings(self, word: str) -> list[list[int]]:
        """Token ids of a banned word, at the beginning of a text and after a space."""
        return [ids for ids in (self._encode_words(word), self._encode_words(f" {word}")) if ids]

    def _row(self, order: Order, request: Request, index: int, n_candidates: int) -> Row:
        params, what = order.params, order.collect
        n_prompt_logprobs = -1 if params.prompt_logprobs is None or what or index else params.prompt_logprobs
        sampling = core_params(
            params,
            seed=derived_seed(order.seed, index),
            eos_ids=self._eos_ids,
            bad_words=order.words,
            max_tokens=order.max_tokens,
            n_candidates=n_candidates,
        )
        sequence = _core.Sequence(
            order.ids,
            sampling,
            salt=salt_number(params.cache_salt),
            collect_logits=what == "logits",
            collect_hidden=what == "hidden_states",
            prompt_logprobs=n_prompt_logprobs,
            stop_ids=ending_ids(params, self._eos_ids),
            max_tokens=len(order.ids) + order.max_tokens,
            prompt_lookup=params.prompt_lookup_num_tokens or 0,
            deferred=bool(params.logits_processors),
            source=order.source,
        )
        # A cached prefix would not be computed, hence not collected.
        shares = what is None and n_prompt_logprobs < 0
        called = processors.with_arguments(params.logits_processors)
        return Row(request, index, sequence, None, shares=shares, collect=what, processors=called)
