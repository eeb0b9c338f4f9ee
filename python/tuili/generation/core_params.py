"""SamplingParams as the core reads them: token ids that the model has, seeds and salts as numbers."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, cast

from tuili import _core
from tuili.errors import TokenIdError
from tuili.generation.params import SamplingParams


def check_vocabulary(params: SamplingParams, n_vocab: int) -> None:
    """Raise TokenIdError if an id in `params` is none of the model's."""
    named: dict[str, Iterable[int]] = {
        "logit_bias": params.logit_bias,
        "stop_token_ids": params.stop_token_ids,
        "allowed_token_ids": params.allowed_token_ids or (),
        "bad_words_ids": itertools.chain(*(params.bad_words_ids or ())),
        "sequence_bias": itertools.chain(*(ids for ids, _ in _biases(params))),
        "suppress_tokens": params.suppress_tokens or (),
        "begin_suppress_tokens": params.begin_suppress_tokens or (),
    }
    for name in ("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id"):
        named[name] = _each(getattr(params, name))
    for name, ids in named.items():
        for token_id in ids:
            if token_id >= n_vocab:
                raise TokenIdError(f"{name}: token id {token_id} is not in [0, {n_vocab})", param=name)


def _each(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


def _biases(params: SamplingParams) -> list[tuple[tuple[int, ...], float]]:
    return list(cast(Any, params.sequence_bias or ()))


def derived_seed(seed: int, index: int) -> int:
    """The seed of continuation `index` of a request: the request's own for 0, BLAKE2b of both for the
    others.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + index.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def salt_number(salt: str | None) -> int:
    """The prefix cache's salt as a number; 0 is the common one."""
    if salt is None:
        return 0
    digest = hashlib.blake2b(
        salt.encode("utf-8", "surrogatepass"), digest_size=8, person=b"tuili salt"
    ).digest()
    return int.from_bytes(digest, "little") or 1


def ending_ids(params: SamplingParams, eos_ids: Iterable[int]) -> tuple[int, ...]:
    """Token ids that end a text, each once."""
    return tuple(dict.fromkeys((*params.stop_token_ids, *(() if params.ignore_eos else eos_ids))))


def core_params(
    params: SamplingParams,
    *,
    seed: int,
    eos_ids: Iterable[int],
    bad_words: Iterable[tuple[int, ...]],
    max_tokens: int = 0,
    n_candidates: int = 0,
) -> _core.SamplingParams:
    """What the sampler reads. params: resolved; bad_words: as token ids; max_tokens: cut to the context;
    n_candidates: tokens that a beam search looks at.
    """
    first = params.forced_bos_token_id
    growth_from, growth = params.exponential_decay_length_penalty or (0, 1.0)
    return _core.SamplingParams(
        temperature=params.temperature or 0.0,
        top_k=params.top_k or 0,
        top_p=1.0 if params.top_p is None else params.top_p,
        min_p=params.min_p or 0.0,
        typical_p=1.0 if params.typical_p is None else params.typical_p,
        repetition_penalty=1.0 if params.repetition_penalty is None else params.repetition_penalty,
        source_penalty=1 / (params.encoder_repetition_penalty or 1.0),
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        no_repeat_ngram_size=params.no_repeat_ngram_size or 0,
        source_ngram_size=params.encoder_no_repeat_ngram_size or 0,
        seed=seed,
        logit_bias=list(params.logit_bias.items()),
        sequence_bias=sorted(_biases(params), key=lambda pair: pair[0][-1]),
        allowed_token_ids=list(params.allowed_token_ids or ()),
        bad_words=[list(word) for word in bad_words],
        not_first=params.begin_suppress_tokens or (),
        ending=ending_ids(params, eos_ids) if params.min_tokens or growth != 1 else (),
        min_tokens=params.min_tokens or 0,
        ending_growth=growth,
        ending_from=growth_from,
        forced_first=-1 if first is None else first,
        forced_last=_each(params.forced_eos_token_id),
        n_before_last=max_tokens - 1,
        n_logprobs=-1 if params.logprobs is None else params.logprobs,
        n_candidates=n_candidates,
        renormalize=bool(params.renormalize_logits),
    )
