"""From a body to work: JSON is read, fields checked, templates rendered, texts tokenized, requests queued.

All of it runs on threads beside the event loop. An error is a TuiliError or Refused; a field that has no
effect is one, too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from tuili import completions
from tuili.conversations import WORDS, Rendering, with_tools
from tuili.embedding import checked_texts
from tuili.errors import ModelFormatError, ModelLimitError
from tuili.generation.checks import boolean, cut_length, described, integer, invalid
from tuili.generation.params import MAX_LOGPROBS, SamplingParams, not_supported_yet, same, unknown_name
from tuili.generation.request import Handle
from tuili.llm import LLM
from tuili.loading.files import parse_json, shown
from tuili.prompts import is_one
from tuili.server.lengths import Lengths
from tuili.server.replies import Refused
from tuili.server.shapes import Chat, Shape, Text
from tuili.tasks import classification
from tuili.tasks.encoding import Room
from tuili.tasks.scores import FUNCTIONS, best

MAX_DEPTH = 64
# The JSON library reads so much in some milliseconds, and lets nobody else run.
MAX_CONTAINERS = 20_000
MAX_KEYS = 20_000
MAX_COMMAS = 200_000
MAX_BACKSLASHES = 400_000
MAX_CHOICES = 8
MAX_STOP_STRINGS = 16
MAX_PROMPTS = 256
MAX_BAD_WORDS = 1024  # each is spelled for each prompt
MAX_PROMPT_LOGPROBS = 100_000  # of an answer: of all tokens of its prompts, for each choice
_CUT, _PROMPT_LOGPROBS = "truncate_prompt_tokens", "prompt_logprobs"
MAX_DOCUMENTS = 1024
MAX_PROMPTS_BYTES = 16 << 20  # of a prompt, as often as it stands before a text to embed
MAX_COUNTED = 65_536  # tokens of a text of /tokenize, which may be longer than the context
SERVED_BY = "tuili"

Fields = dict[str, Any]
Widen = Callable[[int], None]  # told of how many sequences a request is, before it is queued; may refuse


def read_fields(body: bytes) -> Fields:
    """The object that a body is.

    raises  Refused
    """
    for mark, name, most in ((b",", "commas", MAX_COMMAS), (b"\\", "backslashes", MAX_BACKSLASHES)):
        if body.count(mark) > most:
            raise Refused(413, f"the body has more than {most} {name}", code="json_size")
    try:
        value = parse_json(body, "body", MAX_DEPTH, MAX_CONTAINERS, MAX_KEYS)
    except ModelLimitError as error:
        raise Refused(413, str(error), code=error.code) from None
    except ModelFormatError as error:
        raise Refused(400, _without_keys(error), code=error.code) from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object", code="json")
    return value


def _without_keys(error: ModelFormatError) -> str:
    """Names of keys may be what a user wrote."""
    return "body: a key appears twice" if error.code == "json_duplicate_key" else str(error)


@dataclass(slots=True)
class Job:
    """Requests in the engine, and how their answer is written."""

    handles: list[Handle]
    shape: Shape
    stream: bool
    include_usage: bool


class Requests:
    """Makes jobs of one model. `timeout_s`: the deadline of requests that name no earlier one."""

    def __init__(self, llm: LLM, name: str, timeout_s: float) -> None:
        self.llm, self.name, self._timeout_s = llm, name, timeout_s
        max_tokens = int(llm.config["max_model_len"])
        self._lengths = Lengths(llm.tokenizer, max_tokens)
        self._countable = Lengths(llm.tokenizer, max(max_tokens, MAX_COUNTED))

    # --- text -------------------------------------------------------------------------------------------

    def chat(self, body: bytes, salt: str | None, widen: Widen) -> Job:
        """POST /v1/chat/completions"""
        fields = self._fields(body)
        stream, include_usage = _streaming(fields)
        messages = _required(fields, "messages")
        lengths = self._lengths_of(fields.get(_CUT))
        lengths.check([messages, fields.get("tools"), fields.get("chat_template_kwargs")])
        wanted = completions.wanted(fields, **self._own(fields, salt))
        _check_limits(wanted.params)
        widen(wanted.params.n_sequences)
        ids = self._encode_chat(messages, wanted.rendering, lengths)
        role = wanted.rendering.role(messages)
        shape = Chat(self.name, self.llm.tokenizer.token_bytes, wanted.tools, role)
        return Job(self._submitted([ids], wanted.params), shape, stream, include_usage)

    def text(self, body: bytes, salt: str | None, widen: Widen) -> Job:
        """POST /v1/completions"""
        fields = self._fields(body)
        stream, include_usage = _streaming(fields)
        prompts = _prompts(_required(fields, "prompt"))
        own = self._own(fields, salt)
        own["logprobs"] = _legacy_logprobs(fields.pop("logprobs", None))
        echo = self._echoes(fields)
        if echo and fields.get(_PROMPT_LOGPROBS) is None:
            own[_PROMPT_LOGPROBS] = own["logprobs"]
        _check_legacy(fields)
        params = completions.sampling_params(fields, **own)
        _check_limits(params, len(prompts))
        widen(len(prompts) * params.n_sequences)
        handles = self._submitted(prompts, params, params.n * (1 + echo))
        shape = Text(self.name, self.llm.tokenizer, params, handles, echo=echo)
        return Job(handles, shape, stream, include_usage)

    def _echoes(self, fields: Fields) -> bool:
        """Whether a text's answer begins with it."""
        given = fields.pop("echo", None)
        if given is None or not boolean("echo", given):
            return False
        if self.llm.kind != "decoder":
            invalid("echo", "is for decoders: the answer of this model does not go on from its source")
        return True

    def _submitted(self, prompts: list[Any], params: SamplingParams, n_written: int = 1) -> list[Handle]:
        """All of them in the engine, or none. n_written: how often a prompt's log-probabilities are."""
        lengths = self._lengths_of(params.truncate_prompt_tokens)
        handles: list[Handle] = []
        n_tokens = 0
        try:
            for prompt in prompts:
                lengths.check(prompt)
                handles.append(self.llm.submit(prompt, params))
                n_tokens += handles[-1].totals().n_prompt
                _check_prompt_logprobs(params, n_tokens * n_written)
        except BaseException:
            for handle in handles:
                handle.abort()
            raise
        return handles

    def _encode_chat(self, messages: Any, how: Rendering, lengths: Lengths) -> list[int]:
        prompt = self.llm.render_chat(messages, how)
        lengths.check(prompt.text)  # only the template knows what of the messages stands in it
        return self.llm.tokenizer.encode_chat(prompt.parts())

    def _own(self, fields: Fields, salt: str | None) -> dict[str, Any]:
        """Parameters that are not the client's to choose."""
        own: dict[str, Any] = {"cache_salt": salt}
        given = fields.get("deadline_s")
        if given is None or (isinstance(given, int | float) and given > self._timeout_s):
            own["deadline_s"] = self._timeout_s
        return own

    def _fields(self, body: bytes) -> Fields:
        """The body's fields, with a model that is this one."""
        fields = read_fields(body)
        model = fields.get("model")
        if model is not None and not isinstance(model, str):
            invalid("model", f"must be a string, not {described(model)}")
        if model is not None and model != self.name:
            self.check_model(model)
        fields["model"] = self.name
        return fields

    def check_model(self, name: str) -> None:
        """Raise Refused 404 for a model that is not served."""
        if name != self.name:
            raise Refused(
                404,
                f"there is no model '{shown(name)}' here; this is {self.name}",
                code="model_not_found",
                param="model",
            )

    # --- vectors ----------------------------------------------------------------------------------------

    def embed(self, body: bytes, keep_on: Callable[[int, int], None]) -> dict[str, Any]:
        """POST /v1/embeddings. keep_on: called after each batch; what it raises ends the work."""
        fields = self._fields(body)
        texts = _required(fields, "input")
        form = fields.pop("encoding_format", None)
        form = "float" if form is None else form
        if form not in ("float", "base64"):
            invalid("encoding_format", 'must be "float" or "base64"')
        if (width := fields.pop("dimensions", None)) is not None:
            integer("dimensions", width, 1, self.llm.whole_width())
        prompt = {name: fields.pop(name, None) for name in ("prompt", "prompt_name")}
        most = self._most(fields, ("input", "encoding_format", "dimensions", *prompt))
        if isinstance(texts, list) and len(texts) > MAX_DOCUMENTS:
            invalid("input", f"may hold at most {MAX_DOCUMENTS} texts")
        items = checked_texts(texts, "input")
        before = self.llm.prompt_before(**prompt)
        if len(before.encode("utf-8", "surrogatepass")) * len(items) > MAX_PROMPTS_BYTES:
            invalid("prompt", f"is, before {len(items)} texts, more than {MAX_PROMPTS_BYTES} bytes")
        whole = [before + text for text in items]
        self._check_each(whole, most)
        how: dict[str, Any] = {"truncation": most is not None, "max_length": most, "progress": keep_on}
        how |= prompt
        if width is not None and width != self.llm.width():
            how |= {"truncate_dim": width, "normalize": True}
        vectors = self.llm.embed(items, **how)
        data = [
            {"object": "embedding", "index": i, "embedding": _vector(v, form)} for i, v in enumerate(vectors)
        ]
        return {"object": "list", "data": data, "model": self.name, "usage": self._text_usage(whole, most)}

    def rerank(self, body: bytes, keep_on: Callable[[int, int], None]) -> dict[str, Any]:
        """POST /v1/rerank, in the shape that Jina and Cohere gave it. keep_on: as `embed`'s."""
        fields = self._fields(body)
        query, given = _required(fields, "query"), _required(fields, "documents")
        if (top_n := fields.pop("top_n", None)) is not None:
            integer("top_n", top_n, 1, 2**31 - 1)
        with_text = fields.pop("return_documents", None)
        most = self._most(fields, ("query", "documents", "top_n", "return_documents"))
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_DOCUMENTS:
            invalid("documents", f"must be a list of 1 to {MAX_DOCUMENTS} texts")
        documents = [
            item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item for item in given
        ]
        with_text = with_text is None or boolean("return_documents", with_text)
        self._check_each([query, *documents], most)
        results = [
            {
                "index": entry["index"],
                "relevance_score": entry["score"],
                **({"document": {"text": entry["text"]}} if with_text else {}),
            }
            for entry in self._ranked(query, documents, most, keep_on, top_n)
        ]
        usage = self._text_usage([query, *documents], most)
        return {"id": completions.new_id("rerank"), "model": self.name, "results": results, "usage": usage}

    def score(self, body: bytes, keep_on: Callable[[int, int], None]) -> dict[str, Any]:
        """POST /v1/score, in vLLM's shape: what `rerank` says of a text with another, of a text with each of
        several, or of each of several with its own. keep_on: as `embed`'s.
        """
        fields = self._fields(body)
        names, others = ("text_1", "text_2"), ("queries", "documents")
        if all(fields.get(name) is None for name in names):
            names, others = others, names
        for name in others:
            if name in fields and fields[name] is None:
                del fields[name]
        sides = [given if isinstance(given := _required(fields, name), list) else [given] for name in names]
        most = self._most(fields, names)
        for name, side in zip(names, sides, strict=True):
            if not 1 <= len(side) <= MAX_DOCUMENTS or not all(isinstance(text, str) for text in side):
                invalid(name, f"must be a text or a list of 1 to {MAX_DOCUMENTS} texts")
        queries, documents = sides
        if len(queries) not in (1, len(documents)):
            invalid(names[0], f"are {len(queries)}, for {len(documents)} of {names[1]}; one, or as many")
        self._check_each([*queries, *documents], most)
        each = [documents] if len(queries) == 1 else [[document] for document in documents]
        scores = [
            entry["score"]
            for query, those in zip(queries, each, strict=True)
            for entry in sorted(self._ranked(query, those, most, keep_on), key=itemgetter("index"))
        ]
        return {
            **completions.heading("score", "list", self.name),
            "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)],
            "usage": self._text_usage([*queries, *documents], most),
        }

    def _ranked(
        self,
        query: Any,
        documents: list[Any],
        most: int | None,
        keep_on: Callable[[int, int], None],
        top_n: int | None = None,
    ) -> list[dict[str, Any]]:
        return self.llm.rank(
            query, documents, top_n, truncation=most is not None, max_length=most, progress=keep_on
        )

    def classify(self, body: bytes, keep_on: Callable[[int, int], None]) -> dict[str, Any]:
        """POST /v1/classify, in vLLM's shape; a pair of texts is an object of "text" and "text_pair".
        keep_on: as `embed`'s.
        """
        fields = self._fields(body)
        given = _required(fields, "input")
        activated = fields.pop("use_activation", None)
        most = self._most(fields, ("input", "use_activation"))
        model = self.llm.task_model("classify")
        head = model.head("classify", "sequence")
        items = given if isinstance(given, list) else [given]
        if not 1 <= len(items) <= MAX_DOCUMENTS:
            invalid("input", f"must be a text or a list of 1 to {MAX_DOCUMENTS} texts")
        for item in items:
            if not isinstance(item, str | dict):
                invalid("input", f"must hold texts, or objects of text and text_pair, not {described(item)}")
            self._check_each(list(item.values()) if isinstance(item, dict) else [item], most)
        plain = activated is not None and not boolean("use_activation", activated)
        space = Room(most or model.max_len, None if most is None else "longest_first")
        inputs, rows = classification.outputs(model, items, space, keep_on, "input")
        data = []
        for i, row in enumerate(rows):
            scores = FUNCTIONS["none" if plain else head.function](row)
            data.append(
                {
                    "index": i,
                    "label": head.labels[best(scores, 1)[0]],
                    "probs": [float(score) for score in scores],
                    "num_classes": len(scores),
                }
            )
        n_tokens = sum(len(encoded.ids) for encoded in inputs)
        return {
            **completions.heading("classify", "list", self.name),
            "data": data,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }

    def _most(self, fields: Fields, taken: tuple[str, ...]) -> int | None:
        """Tokens that truncate_prompt_tokens leaves, the last of the fields to be taken: -1 is the model's
        own limit, as vLLM has it. None: nothing may be cut.
        """
        cut = fields.pop(_CUT, None)
        completions.check_names(fields)
        _only(fields, ("model", *completions.NAMES), (*taken, _CUT))
        if cut is None:
            return None
        most: int = self.llm.config["max_model_len"]
        limit = cut_length(_CUT, cut)
        if limit > most:
            invalid(_CUT, f"must be in [1, {most}], or -1, not {described(limit)}")
        return most if limit == -1 else limit

    def _lengths_of(self, most: object) -> Lengths:
        """What a text may have, of which so much is read; None: all of it."""
        return self._lengths if most is None else self._countable

    def _check_each(self, texts: Any, most: int | None) -> None:
        """most: tokens of a text that are read, if it is cut."""
        lengths = self._lengths_of(most)
        for text in texts if isinstance(texts, list) else ():
            lengths.check(text)

    def _text_usage(self, texts: list[str], most: int | None = None) -> dict[str, int]:
        """most: tokens of a text that are read, if it is cut."""
        lengths = [len(self.llm.tokenizer.encode(text)) for text in texts]
        n_tokens = sum(length if most is None else min(length, most) for length in lengths)
        return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}

    # --- tokens -----------------------------------------------------------------------------------------

    def tokenize(self, body: bytes) -> dict[str, Any]:
        """POST /tokenize: of "prompt", or of "messages" as a chat would render them."""
        fields = self._fields(body)
        known = ("prompt", "messages", "tools", "add_special_tokens", "return_token_strs")
        text, messages, tools, special, written = (fields.pop(name, None) for name in known)
        of_chats = {name: given for name in WORDS if (given := fields.pop(name, None)) is not None}
        _only(fields, ("model",), (*known, *WORDS))
        if (text is None) == (messages is None):
            invalid("prompt", "or messages must be given, and not both")
        if messages is not None:
            if special is not None and boolean("add_special_tokens", special):
                invalid("add_special_tokens", "is the template's to say")
            self._countable.check([messages, tools, of_chats.get("chat_template_kwargs")])
            ids = self._encode_chat(messages, with_tools(tools, **of_chats), self._countable)
        else:
            for name in ("tools", *of_chats) if tools is not None else of_chats:
                invalid(name, "needs messages")
            if not isinstance(text, str):
                invalid("prompt", f"must be a string, not {described(text)}")
            self._countable.check(text)
            add = special is None or boolean("add_special_tokens", special)
            ids = self.llm.tokenizer.encode(text, add_special=add)
        found = {"count": len(ids), "max_model_len": self.llm.config["max_model_len"], "tokens": ids}
        if written is not None and boolean("return_token_strs", written):
            found["token_strs"] = [self.llm.tokenizer.loaded.text_of(token_id) or "" for token_id in ids]
        return found

    def detokenize(self, body: bytes) -> dict[str, Any]:
        """POST /detokenize"""
        fields = self._fields(body)
        ids = _required(fields, "tokens")
        _only(fields, ("model",), ("tokens",))
        if not isinstance(ids, list):
            invalid("tokens", f"must be a list of token ids, not {described(ids)}")
        tokens = self.llm.tokenizer.check_ids(ids, "tokens")
        return {"prompt": self.llm.tokenizer.decode(tokens, skip_special=False)}


# --- fields -------------------------------------------------------------------------------------------------


def _required(fields: Fields, name: str) -> Any:
    if fields.get(name) is None:
        invalid(name, "is missing")
    return fields.pop(name)


def _only(fields: Mapping[str, Any], names: tuple[str, ...], taken: tuple[str, ...]) -> None:
    for name in fields:
        if name not in names:
            unknown_name(name, (*names, *taken))


def _streaming(fields: Fields) -> tuple[bool, bool]:
    """(stream, include_usage), which leave the fields."""
    given = fields.pop("stream", None)
    stream = given is not None and boolean("stream", given)
    if stream and fields.get(_PROMPT_LOGPROBS) is not None:
        invalid(_PROMPT_LOGPROBS, "are no part of a stream")
    options = fields.pop("stream_options", None)
    if options is None:
        return stream, False
    if not stream:
        invalid("stream_options", "needs stream = true")
    if not isinstance(options, dict):
        invalid("stream_options", f"must be an object, not {described(options)}")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            unknown_name(name, ("include_usage",), "stream_options.")
    if options.get("include_obfuscation"):
        not_supported_yet("stream_options.include_obfuscation")
    usage = options.get("include_usage")
    return stream, usage is not None and boolean("stream_options.include_usage", usage)


def _prompts(given: Any) -> list[Any]:
    prompts = [given] if is_one(given) else given
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
        invalid("prompt", f"must be a text, token ids, or a list of 1 to {MAX_PROMPTS} of these")
    for prompt in prompts:
        if not isinstance(prompt, str | list) or any(isinstance(item, dict) for item in prompt):
            invalid("prompt", "must be a text, token ids, or a list of these")
    return prompts


def _legacy_logprobs(value: Any) -> int | None:
    return None if value is None else integer("logprobs", value, 0, MAX_LOGPROBS)


def _check_legacy(fields: Fields) -> None:
    """Fields of /v1/completions alone, and those that it does not have."""
    if fields.pop("suffix", None) is not None:
        not_supported_yet("suffix")
    best_of = fields.pop("best_of", None)
    if best_of is not None and not same(best_of, fields.get("n") or 1):
        not_supported_yet("best_of")
    for name in (
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "top_logprobs",
        "max_completion_tokens",
        "messages",
        *WORDS,
    ):
        if name in fields:
            known = tuple(field for field in completions.FIELDS if field != name)
            unknown_name(name, ("prompt", "echo", "suffix", "best_of", *known))


def _check_prompt_logprobs(params: SamplingParams, n_tokens: int) -> None:
    """n_tokens: of all prompts, each as often as it is written."""
    if params.prompt_logprobs is None:
        return
    if n_tokens * (1 + params.prompt_logprobs) > MAX_PROMPT_LOGPROBS:
        invalid(_PROMPT_LOGPROBS, f"and those of the tokens themselves may be {MAX_PROMPT_LOGPROBS} in all")


def _check_limits(params: SamplingParams, n_prompts: int = 1) -> None:
    """The server's limits where they are narrower than the library's."""
    if params.n > MAX_CHOICES:
        invalid("n", f"must be in [1, {MAX_CHOICES}], not {described(params.n)}")
    if len(params.stop) > MAX_STOP_STRINGS:
        invalid("stop", f"may hold at most {MAX_STOP_STRINGS} strings, not {len(params.stop)}")
    if n_prompts * len(params.bad_words) > MAX_BAD_WORDS:
        invalid("bad_words", f"times the number of prompts may be at most {MAX_BAD_WORDS}")


def _vector(vector: np.ndarray, form: str) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(x) for x in vector]
