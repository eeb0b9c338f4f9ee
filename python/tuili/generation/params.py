"""What a caller may ask of a generation: names, ranges, defaults. Checked here once, for the library and all
above it.

Limits are the library's (catalogue rows REQ-01 … REQ-09, REQ-14, TK-14); a server may set narrower ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tuili import checks
from tuili.checks import (
    MAX_INT,
    MAX_TOKEN_IDS,
    Check,
    boolean,
    described,
    float_in,
    int_in,
    invalid,
    only_known,
    same,
    texts,
    token_ids,
)
from tuili.errors import CUTTING_HELPS, PromptTooLongError
from tuili.generation import processors, structure
from tuili.generation.processors import Processor

_T = TypeVar("_T")

MAX_SEQUENCES = 128
MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROB_ENTRIES = 2_000_000
MAX_PRIORITY = 100
MAX_DRAFTED = 64  # guessed tokens of a step; more than a dozen seldom pay
MAX_BEAMS = 32
MAX_DEADLINE_S = 10.0**8  # three years: anything longer is a mistake of units

ALIASES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_return_sequences": "n"}
_SPECIAL_ALIASES = ("do_sample",)

_CHECKS: dict[str, Check] = {
    "max_tokens": int_in(0, MAX_INT),
    "min_tokens": int_in(0, MAX_INT),
    "temperature": float_in(0.0, 1e30),
    "top_k": checks.top_k,
    "top_p": float_in(0.0, 1.0, above_low=True),
    "min_p": float_in(0.0, 1.0),
    "typical_p": float_in(0.0, 1.0, above_low=True),
    "repetition_penalty": float_in(0.0, 1e6, above_low=True),
    "encoder_repetition_penalty": float_in(1e-6, 1e6),
    "presence_penalty": float_in(-100.0, 100.0),
    "frequency_penalty": float_in(-100.0, 100.0),
    "no_repeat_ngram_size": int_in(0, 1024),
    "encoder_no_repeat_ngram_size": int_in(0, 1024),
    "stop": texts,
    "stop_token_ids": token_ids,
    "include_stop_str_in_output": boolean,
    "ignore_eos": boolean,
    "n": int_in(1, MAX_SEQUENCES),
    "seed": int_in(0, 2**64 - 1),
    "logprobs": int_in(0, MAX_LOGPROBS),
    "prompt_logprobs": int_in(0, MAX_LOGPROBS),
    "logit_bias": checks.logit_bias,
    "sequence_bias": checks.sequence_bias,
    "allowed_token_ids": checks.one_or_more,
    "bad_words": lambda name, value: texts(name, value, MAX_TOKEN_IDS, 256),
    "bad_words_ids": checks.words_of_ids,
    "suppress_tokens": token_ids,
    "begin_suppress_tokens": token_ids,
    "skip_special_tokens": boolean,
    "deadline_s": float_in(0.0, MAX_DEADLINE_S),
    "priority": int_in(-MAX_PRIORITY, MAX_PRIORITY),
    "cache_salt": checks.salt,
    "on_nan": checks.choice_of("error", "eos"),
    "json_schema": structure.json_schema,
    "regex": structure.regex,
    "choice": structure.choice,
    "grammar": structure.grammar,
    "logits_processors": processors.checked,
    "prompt_lookup_num_tokens": int_in(0, MAX_DRAFTED),
    "num_beams": int_in(1, MAX_BEAMS),
    "length_penalty": float_in(-10.0, 10.0),
    "early_stopping": checks.early_stop,
    "forced_bos_token_id": int_in(0, MAX_INT),
    "forced_eos_token_id": checks.one_or_more_ids,
    "exponential_decay_length_penalty": checks.growth,
    "renormalize_logits": boolean,
    "decoder_start_token_id": int_in(0, MAX_INT),
    "truncate_prompt_tokens": checks.cut_length,
}

# What a beam search has no use for: it draws nothing, and its beams go on side by side.
_PLAIN_IN_BEAMS: dict[str, tuple[object, ...]] = {
    "temperature": (None, 0.0),
    "top_k": (None, 0),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "seed": (None,),
    "prompt_logprobs": (None,),
    "prompt_lookup_num_tokens": (None, 0),
    "on_nan": ("error",),
}

# Lists for which None, as other libraries have it, says that there is nothing in them.
_EMPTY_FOR_NONE: dict[str, Any] = {
    "stop": (),
    "stop_token_ids": (),
    "bad_words": (),
    "logit_bias": {},
    "logits_processors": (),
}


# --- all of them --------------------------------------------------------------------------------------------


def _names_checked(made: type[_T]) -> type[_T]:
    """A dataclass whose constructor takes the aliases, and names the nearest of an unknown name."""
    plain = made.__init__

    @functools.wraps(plain)
    def init(self: _T, /, **options: Any) -> None:
        plain(self, **canonical_names(options))

    made.__init__ = init  # type: ignore[assignment, method-assign]
    return made


@_names_checked
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SamplingParams:
    """How to continue a prompt. Checked when made; immutable.

    None means: the model's generation_config.json, or an old config.json without it, if it says something,
    otherwise what the comment says.
    Of json_schema, regex, choice and grammar at most one may be given. Such an output ends where the grammar
    does, whatever min_tokens and ignore_eos say; one that max_tokens or a stop string cuts is incomplete.
    JSON is written as `json.dumps` does. Needs the extra tuili[structured].

    A logits processor is f(token_ids, logits) or f(prompt_token_ids, token_ids, logits), as in vLLM: lists of
    ids, token_ids those generated so far; logits float32 [n_vocab], which it may change. It returns logits,
    or None for those it got. It is called for every token, on the engine's thread, before the grammar and
    everything else here, and holds up all requests meanwhile.

    A beam search changes log-probabilities as other requests' logits are: penalties, biases and bans decide
    with them, and are part of the score; logits processors get log-probabilities, too.

    raises  InvalidParameterError with `param`; code "not_supported_yet" for names that this version lacks;
            GrammarError for a schema, expression or grammar that is malformed or too large
    """

    # As many as the context holds; of an encoder-decoder 256. More than the context holds is cut there, and
    # stop_reason says so.
    max_tokens: int | None = None
    min_tokens: int | None = None  # 0; end-of-text, stop ids and stop strings do not stop before this many
    # 1.0 if top_k, top_p, min_p, typical_p, seed or n > 1 is given, otherwise 0: greedy.
    temperature: float | None = None
    top_k: int | None = None  # 0 or -1: no limit
    top_p: float | None = None  # 1.0
    min_p: float | None = None  # 0.0
    typical_p: float | None = None  # 1.0
    repetition_penalty: float | None = None  # 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int | None = None  # 0: off
    # 0: off. Not what stands in an encoder-decoder's source so, or in another model's prompt.
    encoder_no_repeat_ngram_size: int | None = None
    # 1.0. Above, tokens of the source, or else of the prompt, become likelier; below, less likely.
    encoder_repetition_penalty: float | None = None
    stop: str | tuple[str, ...] | list[str] = ()  # a text ends before the first of these
    stop_token_ids: tuple[int, ...] | list[int] = ()  # these end a text too, and are not shown in it
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    n: int = 1  # continuations; number i > 0 draws from a seed derived from (seed, i)
    seed: int | None = None  # drawn by the operating system
    logprobs: int | None = None  # of each token and of the k best there, in nats, as the model has them
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    # (). What is added to the logit of a sequence's last token where the others stand before it.
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]] | None = None
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    bad_words: tuple[str, ...] | list[str] = ()
    bad_words_ids: Sequence[Sequence[int]] | None = None  # (); as token ids; an end of text alone is no word
    suppress_tokens: tuple[int, ...] | list[int] | None = None  # (); that are not generated
    # (). Not as the first one, or the next where that one is forced.
    begin_suppress_tokens: tuple[int, ...] | list[int] | None = None
    skip_special_tokens: bool = True
    # Seconds from submission; then it ends with finish_reason "deadline"; refused if hopeless.
    deadline_s: float | None = None
    priority: int = 0  # the lower, the sooner, as in vLLM; 5 s of waiting weigh as much as one level
    cache_salt: str | None = None  # prefixes are shared only among requests with the same salt
    on_nan: Literal["error", "eos"] = "error"
    # Most tokens of a step that are guessed from what followed the last ones before: 10, say. Changes the
    # speed where a text repeats itself, and no bit.
    prompt_lookup_num_tokens: int | None = None
    # 1, or an encoder-decoder's own where nothing is asked that does not go with it. More: beam search, of
    # which the n best continuations are returned.
    num_beams: int | None = None
    # 1.0. A continuation's score is its log-probability / length ** length_penalty.
    length_penalty: float | None = None
    # False. True: end with num_beams finished continuations, even if better ones may follow; "never": only
    # when none can follow, however long it becomes.
    early_stopping: bool | Literal["never"] | None = None
    # The first token generated: a language, for M2M100 and mBART. The model's own ones, as those below, count
    # where no form of the output is asked for.
    forced_bos_token_id: int | None = None
    # The last one, where max_tokens is reached; of several the lowest id or, where they are drawn, any alike.
    forced_eos_token_id: int | Sequence[int] | None = None
    # (start, factor): after more than start tokens the logits of ends of text grow by
    # |logit| * (factor ** (n_tokens - start) - 1).
    exponential_decay_length_penalty: tuple[int, float] | None = None
    # False. Beams are ranked by log-probabilities of what all these leave; without beams it changes nothing.
    renormalize_logits: bool | None = None
    # The token that an encoder-decoder's answer begins after; the model's own.
    decoder_start_token_id: int | None = None
    # A longer prompt is cut to its last so many tokens, of which the first is the token that begins texts if
    # the prompt's was; a source to its first, of which those that end it stay; -1: as `generate` cuts with
    # truncation=True.
    truncate_prompt_tokens: int | None = None
    json_schema: str | dict[str, Any] | bool | None = None  # of the output; kept as JSON text
    regex: str | None = None  # that the whole output matches
    choice: tuple[str, ...] | list[str] | None = None  # the output is one of these
    grammar: str | None = None  # of the output, in Lark's notation as llguidance has it
    logits_processors: tuple[Processor, ...] | list[Processor] = ()
    if TYPE_CHECKING:  # the other names that the constructor takes, see `canonical_names`
        max_new_tokens: dataclasses.InitVar[int | None] = None
        min_new_tokens: dataclasses.InitVar[int | None] = None
        num_return_sequences: dataclasses.InitVar[int | None] = None
        do_sample: dataclasses.InitVar[bool | None] = None

    def __post_init__(self) -> None:  # type: ignore[override]  # which are fields no more
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None and name in _EMPTY_FOR_NONE:
                object.__setattr__(self, name, _CHECKS[name](name, _EMPTY_FOR_NONE[name]))
            elif value is not None or field.default is not None:
                object.__setattr__(self, name, _CHECKS[name](name, value))
        self._check_together()

    def __repr__(self) -> str:
        """What differs from the defaults."""
        plain = SamplingParams()
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown = [f"{k}={v!r}" for k, v in given.items() if not same(v, getattr(plain, k))]
        return f"SamplingParams({', '.join(shown)})"

    @property
    def n_sequences(self) -> int:
        """Sequences that one prompt becomes: its continuations, or the beams that they are chosen from."""
        return max(self.n, self.num_beams or 1)

    def _check_together(self) -> None:
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            invalid("max_tokens", "may be 0 only together with prompt_logprobs")
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            invalid("min_tokens", f"is {self.min_tokens}, more than max_tokens = {self.max_tokens}")
        form = structure.form_of(self)
        for name in _FORCED:
            if form is not None and getattr(self, name) is not None:
                invalid(name, f"cannot be combined with {form.kind}")
        if self.num_beams is not None and self.num_beams > 1:
            self._check_beams()
        elif self.num_beams == 1:  # None is the model's
            for name in ("early_stopping", "length_penalty"):
                if getattr(self, name) not in (None, _LIBRARY_DEFAULTS[name]):
                    invalid(name, "needs num_beams > 1")

    def _check_beams(self) -> None:
        assert self.num_beams is not None
        if self.n > self.num_beams:
            invalid("n", f"is {self.n}, more than num_beams = {self.num_beams}")
        for name, plain in _PLAIN_IN_BEAMS.items():
            if getattr(self, name) not in plain:
                invalid(name, f"cannot be combined with num_beams; leave it out or set it to {plain[-1]!r}")


NAMES = tuple(field.name for field in dataclasses.fields(SamplingParams))


def canonical_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` under SamplingParams' own names: the one place that knows the aliases.

    raises  InvalidParameterError for an unknown name, and for two names of one thing
    """
    result: dict[str, Any] = {}
    names: dict[str, str] = {}  # under which each was given
    only_known(options, (*NAMES, *ALIASES, *_SPECIAL_ALIASES))
    for given, value in options.items():
        name = ALIASES.get(given, given)
        if name in _SPECIAL_ALIASES:
            continue
        if name in result:
            invalid(given, f"is given twice, also as {names[name]}")
        result[name], names[name] = value, given
    if options.get("do_sample") is not None:
        _do_sample(boolean("do_sample", options["do_sample"]), result)
    return result


def _do_sample(sample: bool, result: dict[str, Any]) -> None:
    """`do_sample` says whether the temperature is 0."""
    temperature = result.get("temperature")
    if temperature is None:
        result["temperature"] = 1.0 if sample else 0.0
    elif sample != (_CHECKS["temperature"]("temperature", temperature) != 0):
        invalid(
            "do_sample", f"is {str(sample).lower()}, which contradicts temperature = {described(temperature)}"
        )


def from_options(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """The parameters of one call: `params` as given, or made from keyword options; not both. vLLM calls
    params sampling_params.

    raises  InvalidParameterError
    """
    if "sampling_params" in options:
        params, options = _by_vllms_name(params, options)
    if params is None:
        return SamplingParams(**options)
    if not isinstance(params, SamplingParams):
        invalid("params", f"must be SamplingParams, not {described(params)}")
    if options:
        invalid(next(iter(options)), "cannot be given next to SamplingParams; put it into them")
    return params


def of_each(
    params: SamplingParams | Sequence[SamplingParams] | None, options: Mapping[str, Any], n: int
) -> list[SamplingParams]:
    """The parameters of n prompts: one for all as `from_options`, or a list of as many."""
    if "sampling_params" in options:
        params, options = _by_vllms_name(params, options)
    if not isinstance(params, list | tuple):
        return [from_options(params, options)] * n  # type: ignore[arg-type]  # it checks
    if len(params) != n:
        invalid("params", f"are {len(params)}, for {n} prompts")
    return [from_options(one, options) for one in params]


def _by_vllms_name(params: object, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(params, the other options), where `options` has sampling_params."""
    rest = dict(options)
    named = rest.pop("sampling_params")
    if params is not None and named is not None:
        invalid("sampling_params", "is given twice, also as params")
    return named if params is None else params, rest


# --- defaults -----------------------------------------------------------------------------------------------

OF_BEAMS = ("num_beams", "length_penalty", "early_stopping")
_FORCED = ("forced_bos_token_id", "forced_eos_token_id")
LENGTHS = ("max_length", "min_length")  # of a prompt and what follows; in files alone
_SAMPLING_ONLY = ("top_k", "top_p", "min_p", "typical_p", "seed")
_BANS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
_LIBRARY_DEFAULTS: dict[str, Any] = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    **dict.fromkeys(_BANS, ()),
    "sequence_bias": (),
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "renormalize_logits": False,
}


def defaults_from(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that a model's generation_config.json sets, under our names and checked.

    As in transformers, temperature, top_k, top_p, min_p and typical_p count only with `do_sample: true`.
    raises  InvalidParameterError
    """
    sample = generation_config.get("do_sample") is True
    names = ["repetition_penalty", "no_repeat_ngram_size", "max_new_tokens", "min_tokens", *_BANS]
    names += ["encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "renormalize_logits"]
    names += ["sequence_bias", "encoder_repetition_penalty"]
    names += ["temperature", "top_k", "top_p", "min_p", "typical_p"] if sample else []
    names += [name for name in OF_BEAMS if name != "num_beams" or (generation_config.get(name) or 1) > 1]
    given = {k: generation_config[k] for k in names if generation_config.get(k) is not None}
    for name in _FORCED:  # also as a list
        value = generation_config.get(name)
        if value is not None:
            given[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
    found = canonical_names(given)
    if sample:
        found.setdefault("temperature", 1.0)
    checked = SamplingParams(**found)
    lengths = {name: generation_config[name] for name in LENGTHS if name in generation_config}
    return {name: getattr(checked, name) for name in found} | lengths


def resolve_for(params: SamplingParams, defaults: Mapping[str, Any], n_prompt: int) -> SamplingParams:
    """As `resolve`, for a prompt of n_prompt tokens, which the LENGTHS among the defaults count, too.

    raises  PromptTooLongError where a file's max_length leaves no room
    """
    found = dict(defaults)
    most, least = (found.pop(name, None) for name in LENGTHS)
    if params.max_tokens is None and most is not None and most <= n_prompt:
        raise PromptTooLongError(
            f"the prompt has {n_prompt} tokens; the model's files end texts, with their prompts, after "
            f"max_length = {most}, unless max_tokens says when{CUTTING_HELPS}"
        )
    if most is not None:
        found["max_tokens"] = most - n_prompt
    if least is not None:
        found["min_tokens"] = max(0, least - n_prompt)
    return resolve(params, found)


def resolve(params: SamplingParams, defaults: Mapping[str, Any]) -> SamplingParams:
    """`params` with every None that stands for a default replaced; see the fields' comments.

    defaults  as `defaults_from` returns them
    """
    found: dict[str, Any] = {}
    beams = params.num_beams or (defaults.get("num_beams", 1) if _may_search(params, defaults) else 1)
    if beams == 1:
        defaults = {name: value for name, value in defaults.items() if name not in OF_BEAMS}
    has_form = structure.form_of(params) is not None  # which no token of the model's may break
    for name, fallback in {**_LIBRARY_DEFAULTS, "max_tokens": None}.items():
        if getattr(params, name) is None:
            found[name] = fallback if has_form and name in _FORCED else defaults.get(name, fallback)
    if params.temperature is None:
        asked = params.n > 1 or any(getattr(params, name) is not None for name in _SAMPLING_ONLY)
        found["temperature"] = defaults.get("temperature", 1.0 if asked else 0.0)
    if beams > 1:  # nothing is drawn
        for name in ("temperature", *_SAMPLING_ONLY):
            found[name] = _PLAIN_IN_BEAMS[name][-1]
    most = found.get("max_tokens", params.max_tokens)
    if params.min_tokens is None:
        usual = defaults.get("min_tokens", 0)
        found["min_tokens"] = usual if most is None else min(usual, most)
    elif found.get("max_tokens") is not None:
        found["max_tokens"] = max(found["max_tokens"], params.min_tokens)
    return dataclasses.replace(params, **found)


def _may_search(params: SamplingParams, defaults: Mapping[str, Any]) -> bool:
    """Whether the model's own number of beams suits a request that names none."""
    if params.n > defaults.get("num_beams", 1):
        return False
    return all(getattr(params, name) in (None, *plain) for name, plain in _PLAIN_IN_BEAMS.items())
