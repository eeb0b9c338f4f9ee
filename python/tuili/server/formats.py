"""From what the engine gives to OpenAI's objects: a whole answer, or the events of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tuili.chat import completions
from tuili.chat.tool_calls import CallReader, Tools
from tuili.generation.outputs import Chunk, CompletionOutput, RequestOutput, TokenLogprob, Totals
from tuili.generation.params import SamplingParams
from tuili.generation.request import Handle
from tuili.generation.spelling import TextDecoder
from tuili.tokenization.tokenizer import Detokenizer, Tokenizer

LONG_PIECE = 64  # log-probabilities of a piece that is written on a thread

TokenText = Callable[[int], bytes]


class Format(Protocol):
    """An endpoint's way to write answers. `prompt` counts the prompts of a request, `chunk.index` the
    continuations of each.
    """

    def whole(self, outputs: list[RequestOutput]) -> dict[str, Any]: ...
    def pieces(self, prompt: int, chunk: Chunk) -> list[dict[str, Any]]: ...
    def is_long(self, prompt: int, chunk: Chunk) -> bool: ...
    def usage(self, totals: list[Totals]) -> dict[str, Any]: ...


class ChatFormat:
    """chat.completion and chat.completion.chunk."""

    def __init__(self, model: str, token_text: TokenText, tools: Tools, role: str) -> None:
        self._model, self._token_text, self._tools, self._role = model, token_text, tools, role
        self._head = completions.heading("chatcmpl", "chat.completion.chunk", model)
        self._readers: dict[int, CallReader] = {}

    def whole(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        answer = completions.completion(outputs[0], self._model, self._token_text, self._tools, self._role)
        for choice in answer["choices"]:
            choice["finish_reason"] = client_reason(choice["finish_reason"])
        return answer

    def pieces(self, prompt: int, chunk: Chunk) -> list[dict[str, Any]]:
        made = []
        reader = self._readers.get(chunk.index)
        if reader is None:
            reader = self._readers[chunk.index] = CallReader(self._tools)
            made.append(self._piece(chunk.index, {"role": self._role, "content": ""}))
        delta: dict[str, Any] = {}
        text, reason = reader.push(chunk.text), client_reason(chunk.finish_reason)
        if chunk.finish_reason is not None:
            rest, calls = reader.finish()
            text += rest
            reason = completions.finish_reason(reason, calls)
            if calls:
                shown = [{"index": i, **completions.shown_call(call)} for i, call in enumerate(calls)]
                delta["tool_calls"] = shown
        if text:
            delta["content"] = text
        if delta or reason is not None or chunk.logprobs:
            made.append(self._piece(chunk.index, delta, chunk.logprobs, reason))
        return made

    def is_long(self, prompt: int, chunk: Chunk) -> bool:
        return len(chunk.logprobs or ()) > LONG_PIECE

    def _piece(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: list[TokenLogprob] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": completions.logprobs(logprobs, self._token_text) if logprobs else None,
            "finish_reason": reason,
        }
        return {**self._head, "choices": [choice]}

    def usage(self, totals: list[Totals]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": completions.usage_of(totals)}


class TextFormat:
    """text_completion, whole or in pieces. echo: each choice begins with its prompt, which `handles` know."""

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        params: SamplingParams,
        handles: list[Handle],
        *,
        echo: bool = False,
    ) -> None:
        self._tokenizer, self._n, self._skip_special = tokenizer, params.n, params.skip_special_tokens
        self._handles, self._echo, self._echoed = handles, echo, set[int]()
        self._read: dict[int, tuple[TextDecoder, int]] = {}  # of each continuation, and its whole characters
        self._head = completions.heading("cmpl", "text_completion", model)

    def whole(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        choices = [
            self._whole(prompt * self._n + item.index, output, item) | self._of_prompt(output)
            for prompt, output in enumerate(outputs)
            for item in output.outputs
        ]
        return {**self._head, "choices": choices, "usage": completions.usage(outputs)}

    def _whole(self, index: int, output: RequestOutput, item: CompletionOutput) -> dict[str, Any]:
        before = self._before(index, output, item.logprobs)
        return self._choice(index, item.text, item.logprobs, item.finish_reason, before)

    def _before(
        self, index: int, output: RequestOutput, logprobs: list[TokenLogprob] | None
    ) -> tuple[str, dict[str, list[Any]]]:
        """What a choice begins with: its prompt, where that is asked for, and its log-probabilities."""
        if not self._echo:
            return "", {}
        prompt, ids = output.prompt, output.prompt_token_ids
        if prompt is None or output.truncated:
            prompt = self._tokenizer.decode(ids, skip_special=self._skip_special)
        before: dict[str, list[Any]] = {}
        if logprobs is not None and output.prompt_logprobs is not None:
            entries = [entry or TokenLogprob(ids[0], 0.0, []) for entry in output.prompt_logprobs]
            self._read[index] = Detokenizer(self._tokenizer, skip_special=self._skip_special), 0
            before = self._logprobs(index, entries)
            before["token_logprobs"][0] = before["top_logprobs"][0] = None  # nothing predicts the first
            self._read[index] = self._decoder(index), len(prompt)
        return prompt, before

    def _decoder(self, index: int) -> TextDecoder:
        return self._handles[index // self._n].decoder()

    def _of_prompt(self, output: RequestOutput) -> dict[str, Any]:
        entries = output.prompt_logprobs
        if entries is None:
            return {}
        return {"prompt_logprobs": completions.prompt_logprobs(entries, self._tokenizer.token_bytes)}

    def pieces(self, prompt: int, chunk: Chunk) -> list[dict[str, Any]]:
        index = prompt * self._n + chunk.index
        before: tuple[str, dict[str, list[Any]]] = ("", {})
        if self._begins(index):
            before = self._before(index, self._handles[prompt].asked(), chunk.logprobs)
            self._echoed.add(index)
        elif not chunk.text and chunk.finish_reason is None and not chunk.logprobs:
            return []
        choice = self._choice(index, chunk.text, chunk.logprobs, chunk.finish_reason, before)
        return [{**self._head, "choices": [choice]}]

    def is_long(self, prompt: int, chunk: Chunk) -> bool:
        return self._begins(prompt * self._n + chunk.index) or len(chunk.logprobs or ()) > LONG_PIECE

    def _begins(self, index: int) -> bool:
        """Whether a choice of a stream still has to begin with its prompt."""
        return self._echo and index not in self._echoed

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: list[TokenLogprob] | None,
        reason: str | None,
        before: tuple[str, dict[str, list[Any]]],
    ) -> dict[str, Any]:
        """before: its prompt, and the prompt's log-probabilities."""
        prompt, of_prompt = before
        shown = None if logprobs is None else self._logprobs(index, logprobs)
        if shown is not None and of_prompt:
            shown = {name: of_prompt[name] + values for name, values in shown.items()}
        return {
            "index": index,
            "text": prompt + text,
            "logprobs": shown,
            "finish_reason": client_reason(reason),
        }

    def _logprobs(self, index: int, entries: list[TokenLogprob]) -> dict[str, list[Any]]:
        """The older form: text of tokens, of which one that is not text by itself is written in bytes, and
        where in the continuation the character is with which each begins, or which it goes on with.
        """
        detokenizer, n_chars = self._read.get(index) or (self._decoder(index), 0)
        token_text, offsets = self._tokenizer.token_bytes, []
        for entry in entries:
            offsets.append(n_chars)
            n_chars += len(detokenizer.push(entry.token_id))
        self._read[index] = detokenizer, n_chars
        tops = [{_shown(token_text(i)): p for i, p in reversed(entry.top)} for entry in entries]
        return {
            "tokens": [_shown(token_text(entry.token_id)) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def usage(self, totals: list[Totals]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": completions.usage_of(totals)}


def client_reason(reason: str | None) -> str | None:
    """A finish_reason as clients see it: what the server ended is an error to them."""
    return "error" if reason == "abort" else reason


def _shown(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
