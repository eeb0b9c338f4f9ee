"""Text to token ids and back: what `llm.tokenizer` is, and decoding of a stream of ids.

Text may be any str or bytes: a lone surrogate in a str and whatever is not UTF-8 in bytes become U+FFFD, as
tiktoken and `bytes.decode(errors="replace")` have it. Two surrogates that form a pair become the character
they stand for.
"""

from __future__ import annotations

import codecs
import itertools
import logging
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from tuili import _core
from tuili.checks import boolean, described
from tuili.errors import InvalidParameterError, PromptTooLongError, TokenIdError, TokenizerError
from tuili.generation.token_ids import plain_ids
from tuili.generation.worker import call_apart
from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.tokenizer import LoadedTokenizer
from tuili.tokenization.least_tokens import LeastTokens
from tuili.tokenization.side_by_side import each, reads_beside_others
from tuili.tokenization.text_cuts import Cuts

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

logger = logging.getLogger("tuili")

MAX_TEXT_BYTES = 64 << 20
MAX_DECODED_IDS = 1 << 22
MAX_SPACE_RUN = 8_000_000  # the library's regular expressions give up after 10^7 steps back

AT_ONCE_CHARS = 1 << 16  # are tokenized before they are counted or cut
LONG_TEXT_CHARS = 8192  # takes the library some milliseconds

Text = str | bytes | bytearray
# A prompt in pieces: text, and whether it came from a user, so that it must not spell special tokens.
Parts = Iterable[tuple[Text, bool]]
Spans = list[tuple[int, int]]  # [begin, end) in characters: in order, apart
R = TypeVar("R")


class Tokenizer:
    """Encodes and decodes with one model's vocabulary. Safe to use from several threads.

    num_threads  that may share many texts; None: one per CPU
    """

    def __init__(self, loaded: LoadedTokenizer, num_threads: int | None = 1) -> None:
        self.loaded, self._num_threads = loaded, num_threads or _core.default_num_threads()
        self._bytes: list[bytes | None] = [None] * loaded.n_vocab
        self._writer: Tokenizer | None = None
        self._least: LeastTokens | None = None
        self._cuts: Cuts | None = None
        self._told_of_unknown = loaded.unk_id is None
        self._texts: list[str | None] = [None] * loaded.n_vocab  # of tokens that are whole characters

    def __repr__(self) -> str:
        return f"<tuili tokenizer, {self.n_vocab} tokens>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tokenizer cannot be pickled or copied; load the model in each process")

    @property
    def n_vocab(self) -> int:
        """The largest token id + 1."""
        return self.loaded.n_vocab

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that `decode` leaves out and that only the model's own text may contain."""
        return frozenset(self.loaded.hidden)

    @property
    def first_id(self) -> int | None:
        """The token that `encode` begins every text with, if the model wants one."""
        return self.loaded.bos_id if self.loaded.add_bos else None

    @property
    def first_differs(self) -> bool:
        """Whether tokens add other bytes at the beginning of a text: mostly, no space."""
        told = self.loaded.token_bytes
        return any(told(token, True) != told(token, False) for token in ("a", "▁a", " a"))

    @property
    def mask_token(self) -> str | None:
        """What stands for a masked word, None if nothing does."""
        mask_id = self.loaded.mask_id
        return None if mask_id is None else self.loaded.text_of(mask_id)

    def check_fits(self, text: Text, max_tokens: int, helps: str = "") -> None:
        """Refuse a long text that cannot have as few tokens as that, without tokenizing it.

        One that passes may still have more. helps: the end of the message.

        raises  PromptTooLongError; and as `encode`
        """
        if isinstance(text, (str, bytes, bytearray)) and len(text) > max(AT_ONCE_CHARS, max_tokens):
            if self._least is None:
                self._least = LeastTokens(self.loaded.backend)
            least = self._least.of(clean_text(text), max_tokens)
            if least > max_tokens:
                raise PromptTooLongError(
                    f"the text has {len(text)} characters, {least} tokens at least; the limit is "
                    f"{max_tokens}{helps}"
                )

    def beginning(self, text: Text, n_tokens: int) -> str:
        """A beginning of a long text whose tokens, more than n_tokens, are the text's first; or all of it.

        raises  as `encode`
        """
        clean = clean_text(text)
        if len(clean) <= AT_ONCE_CHARS:
            return clean
        return self._places().beginning(clean, n_tokens, self._n_tokens)

    def ending(self, text: Text, n_tokens: int) -> str:
        """The same of the text's last tokens."""
        clean = clean_text(text)
        return (
            clean if len(clean) <= AT_ONCE_CHARS else self._places().ending(clean, n_tokens, self._n_tokens)
        )

    def chat_ending(self, parts: Parts, n_tokens: int) -> list[tuple[str, bool]]:
        """The same of what `encode_chat` takes."""
        cleaned = [(clean_text(part), is_user) for part, is_user in parts]
        text = "".join(part for part, _ in cleaned)
        _check_length(text)
        if len(text) <= AT_ONCE_CHARS:
            return cleaned
        ending = self._places().ending(
            text, n_tokens, lambda end: len(self.encode_chat(_last_parts(cleaned, len(end))))
        )
        return _last_parts(cleaned, len(ending))

    def _places(self) -> Cuts:
        if self._cuts is None:
            self._cuts = Cuts(self.loaded.backend)
        return self._cuts

    def _n_tokens(self, text: str) -> int:
        return len(encoding_of(self.loaded.backend, text).ids)

    def encode(self, text: Text, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of `text`.

        add_special    put the tokens around it that the model expects, such as <bos> or [CLS] and [SEP]
        parse_special  text that spells a special token becomes that token; if not, it stays ordinary text
        raises         InvalidParameterError for what is not text, PromptTooLongError for more than
                       MAX_TEXT_BYTES
        """
        add_special = boolean("add_special", add_special)
        parse_special = boolean("parse_special", parse_special)
        clean = clean_text(text)
        backend = self.loaded.backend if parse_special else self.loaded.plain
        encoding = encoding_of(backend, clean, add_special=add_special)
        if parse_special or not self._special_in(encoding, [(0, len(clean))]):
            return list(encoding.ids)
        inner = [i for i, is_around in enumerate(encoding.special_tokens_mask) if not is_around]
        ids = self._encode_inert(clean, [(0, len(clean))], backend)
        return encoding.ids[: inner[0]] + ids + encoding.ids[inner[-1] + 1 :]

    def noticed(self, ids: list[int]) -> list[int]:
        """`ids` of a text that the model will read; the first that is mostly unknown to the vocabulary is a
        warning in the log."""
        unknown = self.loaded.unk_id
        if self._told_of_unknown or unknown not in ids:
            return ids
        n_unknown = ids.count(unknown)
        n_own = n_unknown + sum(
            token_id not in self.loaded.special for token_id in ids if token_id != unknown
        )
        if 2 * n_unknown >= n_own:
            self._told_of_unknown = True
            logger.warning(
                "%d of a text's %d tokens are %s: the model does not know these words or characters, and "
                "texts of them look alike to it. This is said once for each model.",
                n_unknown,
                n_own,
                self.loaded.text_of(unknown),
            )
        return ids

    def encode_batch(
        self, texts: Sequence[Text], *, add_special: bool = True, parse_special: bool = True
    ) -> list[list[int]]:
        """`encode` of each of `texts`."""
        if isinstance(texts, (str, bytes, bytearray)):
            raise InvalidParameterError("texts must be a list of texts, not one text", param="texts")
        try:
            given = iter(texts)
        except TypeError:
            problem = f"texts must be a list of texts, not {described(texts)}"
            raise InvalidParameterError(problem, param="texts") from None
        read = partial(self.encode, add_special=add_special, parse_special=parse_special)
        return self.each(read, [(text,) for text in given])

    def each(self, read: Callable[..., R], items: Sequence[tuple[Any, ...]]) -> list[R]:
        """`read(*item)`, which encodes texts, of each item; see side_by_side.py."""
        return each(read, items, self._num_threads)

    def encode_words(self, text: Text) -> list[int]:
        """The ids of a text that the model may write, of bad_words, without any around it.

        raises  InvalidParameterError if it writes another vocabulary than it reads, and its files do not say
                how text is cut into that; and as `encode`
        """
        if self.loaded.written is not None:
            if self._writer is None:
                self._writer = Tokenizer(self.loaded.written())
            return self._writer.encode_words(text)
        if self.loaded.numbering is not None and self.loaded.numbering.apart:
            raise InvalidParameterError(
                "bad_words: the model writes another vocabulary than it reads, and there is no target.spm, "
                "which cuts text into it; logit_bias takes its token ids",
                param="bad_words",
            )
        return self.encode(text, add_special=False, parse_special=False)

    def encode_chat(self, parts: Parts) -> list[int]:
        """The ids of a rendered chat prompt, in which only the template's own text can make special tokens.

        The ids are those of the joined text, except that where a user's text spells a special token, or
        completes one that the template began, it is encoded as ordinary text. Nothing is put around it:
        templates do that themselves.
        """
        pieces, users, length = [], [], 0
        for part, is_user in parts:
            piece = clean_text(part)
            pieces.append((piece, length, is_user))
            if is_user and piece:
                users.append((length, length + len(piece)))
            length += len(piece)
        text = "".join(piece for piece, _, _ in pieces)
        _check_length(text)
        encoding = encoding_of(self.loaded.backend, text)
        if not self._special_in(encoding, users):
            return list(encoding.ids)
        ids, at = [], 0
        for token_id, begin, end in self._template_tokens(pieces):
            ids += self._encode_fragment(text, at, begin, users)
            ids.append(token_id)
            at = end
        return ids + self._encode_fragment(text, at, len(text), users)

    def _template_tokens(self, pieces: list[tuple[str, int, bool]]) -> list[tuple[int, int, int]]:
        """(id, begin, end) of each special token that lies within one piece of the template's own text."""
        found = []
        for piece, start, is_user in pieces:
            if not is_user and piece:
                encoding = encoding_of(self.loaded.backend, piece)
                ids, offsets = encoding.ids, encoding.offsets
                for i in self._special_positions(ids):
                    found.append((ids[i], start + offsets[i][0], start + offsets[i][1]))
        return found

    def _encode_fragment(self, text: str, begin: int, end: int, users: Spans) -> list[int]:
        """The ids of text[begin:end], which lies between special tokens and may spell others."""
        if begin >= end:
            return []
        backend = self.loaded.plain_inner if begin else self.loaded.plain
        return self._encode_inert(text[begin:end], _within(users, begin, end), backend)

    def _encode_inert(self, text: str, users: Spans, backend: Backend) -> list[int]:
        """The ids of `text`, with no special id in the spans of `users` even where the model makes one.

        A Unigram model has its special tokens in its trie; the text is cut within each and encoded in parts.
        """
        ids: list[int] = []
        stack = [(text, users, backend)]
        while stack:
            text, users, backend = stack.pop()
            encoding = encoding_of(backend, text)
            inside = self._special_in(encoding, users)
            if not inside:
                ids += encoding.ids
                continue
            spans = [_place(encoding, i) for i in inside]
            for begin, end in spans:
                if text[begin:end] == "\ufffd":
                    raise TokenizerError("U+FFFD is a special token of this model", code="special_character")
                if end - begin < 2:  # a special token of one character
                    text = text[:begin] + "\ufffd" + text[end:]
            cuts = [0, *sorted({begin + 1 for begin, end in spans if end - begin > 1}), len(text)]
            pieces = []
            for begin, end in itertools.pairwise(cuts):
                where = self.loaded.plain_inner if begin else backend
                pieces.append((text[begin:end], _within(users, begin, end), where))
            stack += reversed(pieces)
        return ids

    def _special_positions(self, ids: list[int]) -> list[int]:
        special = self.loaded.special
        return [i for i, token_id in enumerate(ids) if token_id in special]

    def _special_in(self, encoding: Encoding, users: Spans) -> list[int]:
        """The positions of special tokens that were made of text in one of the spans `users`, which are in
        order."""
        ids, unknown = encoding.ids, self.loaded.unk_id
        positions = [i for i in self._special_positions(ids) if ids[i] != unknown] if users else []
        if not positions:
            return []
        found, u = [], 0
        for i in positions:
            begin, end = _place(encoding, i)
            while u < len(users) and users[u][1] <= begin:
                u += 1
            if u < len(users) and users[u][0] < end and begin < end:
                found.append(i)
        return found

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD.

        skip_special  leave special tokens out
        raises        TokenIdError for what is not an integer in [0, n_vocab), or more than MAX_DECODED_IDS of
                      them
        """
        detokenizer = Detokenizer(self, skip_special=boolean("skip_special", skip_special))
        return detokenizer.push_many(self.check_ids(ids)) + detokenizer.flush()

    def check_ids(self, ids: Iterable[int], what: str = "ids") -> list[int]:
        """`ids` as a list of ints, each a token of this vocabulary; booleans and floats are refused."""

        def refuse(problem: str, code: str | None = None) -> NoReturn:
            raise TokenIdError(f"{what}{problem}", code=code, param=what) from None

        if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable):
            refuse(f" must be token ids, not {type(ids).__name__}")
        if getattr(ids, "ndim", 1) == 0:  # numpy's says that it is iterable
            refuse(" must be token ids, not an array without dimensions")
        n_vocab, checked = self.loaded.n_vocab, list[int]()
        if (plain := plain_ids(ids, n_vocab)) is not None and len(plain) <= MAX_DECODED_IDS:
            return plain
        for i, item in enumerate(ids):
            if i == MAX_DECODED_IDS:
                refuse(f": more than {MAX_DECODED_IDS} ids", "too_many_ids")
            if isinstance(item, bool | np.bool_):
                refuse(f"[{i}]: a boolean is not a token id")
            try:
                token_id = operator.index(item)
            except TypeError:
                refuse(f"[{i}]: {type(item).__name__} is not a token id")
            if not 0 <= token_id < n_vocab:
                refuse(f"[{i}]: token id out of range; the vocabulary has {n_vocab} tokens")
            checked.append(token_id)
        return checked

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        """The bytes that a token adds to a text; `first` if nothing stands before it.

        An id beyond the vocabulary adds none: models may have more rows than tokens, and draw one of them.
        """
        if token_id >= len(self._bytes):
            return b""
        if first:
            return self._make_bytes(token_id, first=True)
        data = self._bytes[token_id]
        if data is None:
            data = self._bytes[token_id] = self._make_bytes(token_id, first=False)
        return data

    def _make_bytes(self, token_id: int, *, first: bool) -> bytes:
        token = self.loaded.text_of(token_id)
        if token is None:  # a gap in the vocabulary
            return b""
        return token.encode() if token_id in self.loaded.literal else self.loaded.token_bytes(token, first)


class Detokenizer:
    """Decodes ids one by one. The chunks, joined, are `decode` of all ids; none ends within a character.

    Text is held back only while its last character is incomplete, at most 3 bytes; of a tokenizer that leaves
    no space at either end, spaces, too. A token costs O(its length).

    after  ids whose text stands before: if they have any, the first token begins no text and keeps its space
    trims  leave out spaces at the ends where the tokenizer's own decoding does
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special: bool = True,
        after: Iterable[int] = (),
        trims: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.loaded.hidden if skip_special else {}
        self._trims = trims and tokenizer.loaded.trims
        self._held = b""  # the beginning of a character, and the spaces before it that may be the last ones
        if self._trims and (after := [token_id for token_id in after if token_id not in self._skipped]):
            last = tokenizer.token_bytes(after[-1])  # whose space stands within the text now
            self._held = last[len(last.rstrip(b" ")) :]
        self._first = all(token_id in self._skipped for token_id in after)

    def push(self, token_id: int) -> str:
        """The text that `token_id`, in [0, n_vocab), completes; often empty."""
        texts = self._tokenizer._texts
        apart = not self._held and not self._first and token_id < len(texts)
        if apart and (known := texts[token_id]) is not None and not (self._trims and known.endswith(" ")):
            return known
        text = self.push_many((token_id,))
        if apart and not self._held and token_id not in self._tokenizer.loaded.hidden:
            texts[token_id] = text
        return text

    def push_many(self, ids: Iterable[int]) -> str:
        """The text that these ids complete. An error takes none of them."""
        data, first, known = [self._held], self._first, self._tokenizer._bytes
        for token_id in ids:
            if token_id in self._skipped:
                continue
            added = None if first or token_id >= len(known) else known[token_id]
            data.append(self._tokenizer.token_bytes(token_id, first=first) if added is None else added)
            if first and self._trims:
                data[-1] = data[-1].lstrip(b" ")
            first = first and self._trims and not data[-1]
        joined = b"".join(data)
        text, n_bytes = codecs.utf_8_decode(joined, "replace", False)
        if self._trims:
            n_bytes -= len(text) - len(text.rstrip(" "))
            text = text.rstrip(" ")
        self._held, self._first = joined[n_bytes:], first
        return text

    def flush(self) -> str:
        """U+FFFD if the last character never became complete, otherwise nothing; then a new text can
        begin."""
        held = self._held.rstrip(b" ") if self._trims else self._held
        text = held.decode("utf-8", "replace")
        self._held, self._first = b"", True
        return text


def _last_parts(parts: Sequence[tuple[str, bool]], n_chars: int) -> list[tuple[str, bool]]:
    """The last so many characters of a text in pieces."""
    found: list[tuple[str, bool]] = []
    for part, is_user in reversed(parts):
        kept = part[max(0, len(part) - n_chars) :]
        n_chars -= len(kept)
        found.append((kept, is_user))
    return found[::-1]


def _within(spans: Spans, begin: int, end: int) -> Spans:
    """What of `spans` lies in [begin, end), counted from `begin`."""
    return [(max(a, begin) - begin, min(b, end) - begin) for a, b in spans if a < end and b > begin]


def clean_text(text: Text) -> str:
    """`text` as a str that can be encoded as UTF-8; see the module's description.

    raises  InvalidParameterError for what is neither str nor bytes, PromptTooLongError for more than
            MAX_TEXT_BYTES or MAX_SPACE_RUN characters of white space on end
    """
    if isinstance(text, (bytes, bytearray)):
        _check_length(text)
        text = bytes(text).decode("utf-8", "replace")
    if not isinstance(text, str):
        raise InvalidParameterError(f"text must be str or bytes, not {type(text).__name__}", param="text")
    _check_length(text)
    _check_space(text)
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encoding_of(backend: Backend, text: str, *, add_special: bool = False) -> Encoding:
    """The library's encoding. It holds the GIL for one text and releases it for a batch; it hears no Ctrl-C,
    for a second with each million characters.
    """
    if len(text) < LONG_TEXT_CHARS and not reads_beside_others():
        return call(backend.encode, text, add_special_tokens=add_special)

    def encode() -> Encoding:
        return call(backend.encode_batch, [text], add_special_tokens=add_special)[0]

    return encode() if len(text) <= AT_ONCE_CHARS else call_apart(encode)


def _place(encoding: Encoding, i: int) -> tuple[int, int]:
    """Where token i is from, as [begin, end) in characters; nowhere, for one that was put around the text.

    `encoding.offsets` makes the list of all, in one call that holds the GIL.
    """
    return encoding.token_to_chars(i) or (0, 0)


def _check_length(text: Text) -> None:
    if len(text) > MAX_TEXT_BYTES:
        raise PromptTooLongError(f"the text has {len(text)} characters; the limit is {MAX_TEXT_BYTES}")


def _check_space(text: str) -> None:
    if len(text) > MAX_SPACE_RUN:
        longest = max((run.end() - run.start() for run in re.finditer(r"\s+", text)), default=0)
        if longest > MAX_SPACE_RUN:
            raise PromptTooLongError(
                f"{longest} characters of white space on end; the limit is {MAX_SPACE_RUN}"
            )
