"""Files of word vectors of every kind are read as they were written, and neighbours are those of plain
numpy; a file that is wrong says where."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import tuili
from tuili import WordVectors
from tuili.errors import InvalidParameterError, ModelFormatError, ModelUnsupportedError
from tuili.tasks.scores import best

WORDS = ["the", "king", "queen", "man", "woman", "皇帝", "女王", "naïve", "</s>", "2024"]
WIDTH = 12


def table(words=WORDS, width=WIDTH) -> np.ndarray:
    return np.random.default_rng(len(words)).standard_normal((len(words), width)).astype(np.float32)


def as_text(words, vectors, *, header=True, end="\n") -> bytes:
    """repr of a float32 holds all of it."""
    lines = [f"{len(words)} {vectors.shape[1]}"] if header else []
    lines += [
        " ".join([word, *(str(x) for x in row)]) for word, row in zip(words, vectors.tolist(), strict=True)
    ]
    return "".join(line + end for line in lines).encode()


def as_binary(words, vectors, *, end=b"\n") -> bytes:
    rows = (
        word.encode() + b" " + row.astype("<f4").tobytes() + end
        for word, row in zip(words, vectors, strict=True)
    )
    return f"{len(words)} {vectors.shape[1]}\n".encode() + b"".join(rows)


KINDS = {
    "word2vec": lambda words, vectors: as_text(words, vectors),
    "glove": lambda words, vectors: as_text(words, vectors, header=False),
    "fasttext": lambda words, vectors: as_text(words, vectors, end=" \n"),
    "windows": lambda words, vectors: as_text(words, vectors, end="\r\n"),
    "no end of line": lambda words, vectors: as_text(words, vectors)[:-1],
    "with a byte order mark": lambda words, vectors: b"\xef\xbb\xbf" + as_text(words, vectors),
    "glove with a byte order mark": lambda words, vectors: (
        b"\xef\xbb\xbf" + as_text(words, vectors, header=False)
    ),
    "in columns": lambda words, vectors: as_text([f"{word:9}" for word in words], vectors),
    "binary": as_binary,
    "binary without ends of lines": lambda words, vectors: as_binary(words, vectors, end=b""),
}


@pytest.fixture
def file(tmp_path):
    def write(data: bytes) -> Path:
        path = tmp_path / "words.vec"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read_as_it_was_written(file, kind):
    vectors = table()
    found = WordVectors(file(KINDS[kind](WORDS, vectors)))
    assert found.words == WORDS and len(found) == len(WORDS) and found.n_duplicates == 0
    assert found.vectors.dtype == np.float32 and (found.vectors == vectors).all()
    assert "皇帝" in found and "皇" not in found
    assert (found["皇帝"] == vectors[5]).all() and (found[["2024", "the"]] == vectors[[9, 0]]).all()


def test_words_may_hold_spaces_and_look_like_numbers(file):
    words = [",", ". . .", "at name@domain.com", "1 2", "3", "1/2"]
    vectors = table(words)
    for header in (True, False):
        found = WordVectors(file(as_text(words, vectors, header=header)))
        assert found.words == words and (found.vectors == vectors).all()


@pytest.mark.parametrize("word", ["a\x0c", "b\x0b", "a\u2028", "a\xa0", "a\x1c", "a\x85"])
def test_only_spaces_and_tabs_part_the_first_word_from_its_numbers(file, word):
    words = [word + "17", *WORDS]
    found = WordVectors(file(as_text(words, table(words), header=False)))
    assert found.words == words and (found.vectors == table(words)).all()


@pytest.mark.parametrize("text", ["the 1  2 3\ncat 4  5 6\n", "the  1  2\ncat  3  4\n"])
def test_two_spaces_between_numbers_are_no_part_of_a_word(file, text):
    with pytest.raises(ModelFormatError, match="where a number of its"):
        WordVectors(file(text.encode()))


@pytest.mark.parametrize("blank", [b"\n", b"\r\n\r\n", b" \t\n", b"  "])
@pytest.mark.parametrize("header", [True, False])
def test_blank_lines_at_the_end_are_no_words(file, header, blank):
    vectors = WordVectors(file(as_text(WORDS, table(), header=header) + blank))
    assert vectors.words == WORDS
    assert np.array_equal(vectors.vectors, table())


def test_a_limit_leaves_the_rest_unread(file):
    vectors = table()
    text = as_text(WORDS, vectors)
    cut = text[: text.index(b"woman")] + b"\xff\xff what follows is not looked at"
    for data in (cut, as_binary(WORDS, vectors)[:200]):
        found = WordVectors(file(data), limit=3)
        assert found.words == WORDS[:3] and (found.vectors == vectors[:3]).all()
    assert WordVectors(file(text), limit=1000).words == WORDS
    assert WordVectors(file(text), limit=1).words == WORDS[:1]


def test_a_repeated_word_keeps_its_first_vector_and_is_counted(file, caplog):
    vectors = table()
    words = [*WORDS[:4], "king", *WORDS[5:]]
    for write in (as_text, as_binary):
        found = WordVectors(file(write(words, vectors)))
        assert found.n_duplicates == 1 and len(found) == 9 and (found["king"] == vectors[1]).all()
        assert (found["皇帝"] == vectors[5]).all()
    assert "1 entries repeat a word" in caplog.text


def test_large_files_are_read_piece_by_piece(file, monkeypatch):
    monkeypatch.setattr("tuili.loading.word_vector_files._PIECE_BYTES", 37)
    monkeypatch.setattr("tuili.loading.word_vector_files._FIRST_BYTES", 1)
    words = [f"词{i}" for i in range(300)]
    vectors = table(words)
    for kind, write in KINDS.items():
        seen: list[tuple[int, int]] = []
        data = write(words, vectors)
        found = WordVectors(file(data), progress=lambda done, size, seen=seen: seen.append((done, size)))
        assert found.words == words and (found.vectors == vectors).all(), kind
        assert seen == sorted(seen) and seen[-1] == (len(data), len(data))


def test_words_that_are_not_utf8_are_an_error_unless_told(file):
    data = as_text(["good", "bad"], table(["", ""])).replace(b"bad", b"b\xffd")
    with pytest.raises(ModelFormatError, match="line 3 has a word whose byte 1 is not UTF-8"):
        WordVectors(file(data))
    with pytest.raises(ModelFormatError, match="iconv -f gb18030"):  # which "replace" would spoil
        WordVectors(file("国王 1 2\n".encode("gb18030")))
    assert WordVectors(file(data), unicode_errors="replace").words == ["good", "b\ufffdd"]
    assert WordVectors(file(data), unicode_errors="ignore").words == ["good", "bd"]


def test_short_numbers_are_text_whatever_follows_them(file):
    """Text and binary are told apart by what lies behind the first word."""
    found = WordVectors(file(b"2 3\na 1 2 3\nb\xff 4 5 6\n"), unicode_errors="replace")
    assert found.words == ["a", "b\ufffd"] and (found.vectors == [[1, 2, 3], [4, 5, 6]]).all()


def test_a_wide_vector_takes_the_room_of_a_few(file):
    data = as_text(["a"], np.zeros((1, 16_384), np.float32))
    tracemalloc.start()
    try:
        WordVectors(file(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def replaced_line(number: int, line: bytes) -> bytes:
    lines = as_text(WORDS, table()).split(b"\n")
    lines[number - 1] = line
    return b"\n".join(lines)


ROW = b" 0.5" * (WIDTH - 1)
TEXT, BINARY = as_text(WORDS, table()), as_binary(WORDS, table())
HOSTILE = {
    "empty": (b"", "line 1 is neither two integers nor a word and numbers"),
    "prose": (b"Once upon a time\nthere was", "line 1 is neither"),
    "a first number that is none": (b"a 0x1 2 3\nb 1 2 3\n", "line 1 is neither two integers nor a word"),
    "three integers": (b"2 3 1\na 1 2 3\nb 1 2 3\n", "line 1 is neither two integers nor a word and 3 "),
    "a width below 0": (b"2 -3\na 1 2 3\nb 1 2 3\n", "line 1 is neither two integers"),
    "a width with a point": (b"2 3.0\na 1 2 3\nb 1 2 3\n", "line 1 is neither two integers"),
    "no words": (b"0 12\n", "the file has no words"),
    "too few numbers": (replaced_line(4, b"queen" + ROW), "line 4 must have 12 numbers"),
    "no word": (replaced_line(4, (ROW + b" 0.5")[1:]), "line 4 must have 12 numbers"),
    "an empty word": (replaced_line(4, ROW + b" 0.5"), "1 to 4096 bytes, not of 0"),
    "a word for a number": (replaced_line(5, b"man" + ROW + b" high"), "line 5 holds 'high'"),
    "an underscore": (replaced_line(5, b"man" + ROW + b" 1_0"), "line 5 holds '1_0'"),
    "a double space": (replaced_line(5, b"man 0.5 " + ROW), "line 5 holds ''"),
    "nan": (replaced_line(6, b"woman" + ROW + b" nan"), "line 6 holds a number that is not finite"),
    "beyond float32": (replaced_line(6, b"woman" + ROW + b" 1e39"), "line 6 holds a number that is not"),
    "a blank line": (replaced_line(7, b""), "line 7 is blank"),
    "a long word": (replaced_line(7, b"x" * 5000 + ROW + b" 1"), "1 to 4096 bytes, not of 5000"),
    "an endless line": (b"1 2\n" + b"x" * (6 << 20), "line 2 has more than"),
    "a line too many": (TEXT + b"more" + ROW + b" 1\n", "line 12 is more than the 10 words of line 1"),
    "lines missing": (TEXT[: TEXT.index(b"2024")], "line 10 is the last, with 9 words of the 10"),
    "a huge count": (b"3000000000 12\n" + TEXT[6:], "line 1 says 3000000000 words .* it is cut short"),
    "a huge width": (b"10 99999\n" + TEXT[6:], "line 1 says 99999 numbers a word; supported: 1 to"),
    "no width": (b"10 0\n" + TEXT[6:], "line 1 says 0 numbers"),
    "binary: an entry missing": (BINARY[: BINARY.index(b"2024 ")], "entry 10 of 10 is cut short"),
    "binary: cut in a vector": (BINARY[:-9], "entry 10 of 10 is cut short"),
    "binary: a huge count": (b"3000000000 12\n" + BINARY[6:], "it is cut short"),
    "binary: more": (BINARY + b"more", "has 4 bytes behind the 10 words"),
    "binary: nan": (
        BINARY.replace(b"king " + table()[1, :1].tobytes(), b"king " + struct.pack("<f", float("nan"))),
        "entry 2 of 10 holds a number that is not finite",
    ),
    "binary: not UTF-8": (BINARY.replace(b"king", b"k\xffng"), "entry 2 of 10 has a word whose byte 1"),
    "binary: no space": (
        b"2 4\nx \0\0\0\0" + bytes(12) + b"y" * 9000, "entry 2 of 2 has no space after 4096 bytes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_file_says_where(file, name):
    data, message = HOSTILE[name]
    with pytest.raises(ModelFormatError, match=message) as caught:
        WordVectors(file(data))
    assert caught.value.code == "word_vectors" and "words.vec: " in str(caught.value)


@pytest.mark.parametrize("write", [as_text, as_binary])
def test_a_file_cut_at_any_byte_is_an_error_or_lacks_digits_alone(file, write):
    data = write(WORDS[5:], table(WORDS[5:], 6))
    for n in range(len(data) - 1):
        try:
            found = WordVectors(file(data[:n]))
        except ModelFormatError:
            continue
        assert n > data.rindex(b" "), f"cut at byte {n} of {len(data)}"
        assert found.words == WORDS[5:]


def test_other_files_are_named(file, tmp_path):
    for magic, text in ((b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "zip"), (b"\xba\x16\x4f\x2f", "fastText")):
        with pytest.raises(ModelUnsupportedError, match=text):
            WordVectors(file(magic + bytes(100)))
    with pytest.raises(tuili.errors.ModelPathError):
        WordVectors(tmp_path)
    with pytest.raises(tuili.errors.ModelIOError):
        WordVectors(tmp_path / "nothing")


def cosines(vectors, query):
    wide = vectors.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    return unit @ (query / np.linalg.norm(query)), unit


def test_neighbours_are_those_of_plain_numpy(file):
    words = [f"词{i}" for i in range(500)]
    vectors = table(words, 50)
    vectors[7] = 0
    vectors[8] *= 1e30
    found = WordVectors(file(as_binary(words, vectors)))
    _, unit = cosines(vectors, vectors[0])
    for positive, negative in (([3], []), ([3, 8], [5]), ([], [4]), ([1, 2, 3], [4, 5])):
        scores = unit @ (query := unit[positive].sum(0) - unit[negative].sum(0)) / np.linalg.norm(query)
        scores[[*positive, *negative]] = -2
        wanted = np.argsort(-scores)[:9]
        got = found.most_similar([words[i] for i in positive], [words[i] for i in negative], topn=9)
        assert [word for word, _ in got] == [words[i] for i in wanted]
        assert np.allclose([score for _, score in got], scores[wanted], rtol=0, atol=1e-6)
    assert found.analogy("词1", "词2", "词3", 5) == found.most_similar(["词2", "词3"], ["词1"], 5)
    assert found.similarity("词1", "词2") == pytest.approx(unit[1] @ unit[2], abs=1e-6)
    assert found.similarity("词1", "词7") == 0.0
    assert len(found.most_similar("词1", topn=1000)) == 499
    assert found.nearest(unit[:1], 1) == [[("词0", pytest.approx(1.0, abs=1e-6))]]
    assert "词1" in found and [1] not in found


def test_batches_and_blocks_do_not_change_a_bit(file, monkeypatch):
    words = [f"w{i}" for i in range(300)]
    found = WordVectors(file(as_binary(words, table(words, 33))))
    queries = np.random.default_rng(5).standard_normal((7, 33)).astype(np.float32)
    alone = [found.nearest(query[None], 20)[0] for query in queries]
    assert found.nearest(queries, 20) == alone
    monkeypatch.setattr("tuili.embedding.word_vectors._ROWS", 37)
    monkeypatch.setattr("tuili.embedding.word_vectors._SCORES", 600)
    assert WordVectors(file(as_binary(words, table(words, 33)))).nearest(queries, 20) == alone
    assert [word for word, _ in found.most_similar(queries[0], topn=20)] == [word for word, _ in alone[0]]


def test_equal_words_come_in_the_order_of_the_file(file):
    words = [f"w{i}" for i in range(200)]
    found = WordVectors(file(as_binary(words, np.tile(table(["x"], 33), (200, 1)))))
    assert [word for word, _ in found.most_similar("w5", topn=9)] == [w for w in words[:10] if w != "w5"]


def test_wrong_calls_are_typed_errors(file):
    found = WordVectors(file(TEXT))
    for call in (
        lambda: found["nowhere"],
        lambda: found[["the", "nowhere"]],
        lambda: found.most_similar("nowhere"),
        lambda: found.most_similar("the", ["nowhere"]),
        lambda: found.similarity("the", "nowhere"),
        lambda: found.most_similar([3]),
    ):
        with pytest.raises(InvalidParameterError) as caught:
            call()
        assert caught.value.code == "unknown_word" and "nowhere" not in str(caught.value)
    for call in (
        lambda: found[3],
        lambda: found.most_similar([]),
        lambda: found.most_similar("the", topn=0),
        lambda: found.most_similar(np.zeros(3, np.float32)),
        lambda: found.most_similar(np.full(WIDTH, np.nan, np.float32)),
        lambda: found.most_similar(np.ones((2, WIDTH), np.float32)),
        lambda: found.most_similar(np.ones((0, WIDTH), np.float32)),
        lambda: found.most_similar(None),
        lambda: found.most_similar("the", 5),
        lambda: found.nearest(np.zeros(WIDTH, np.float32)),
        lambda: WordVectors(file(TEXT), limit=0),
        lambda: WordVectors(file(TEXT), binary=1),
        lambda: WordVectors(file(TEXT), progress=1),
        lambda: WordVectors(None),
        lambda: WordVectors(3.5),
        lambda: WordVectors(file(TEXT), unicode_errors="surrogateescape"),
    ):
        with pytest.raises(InvalidParameterError):
            call()
    with pytest.raises(InvalidParameterError, match=rf"\[n, {WIDTH}\], not float32 \[{WIDTH}\]"):
        found.nearest(found["the"])
    with pytest.raises(ValueError, match="read-only"):
        found.vectors[0] = 0


def test_the_command_prints_neighbours(file, capsys):
    from tuili.cli.main import main

    vectors = table()
    vectors[2] = vectors[1] - vectors[3] + vectors[4]
    path = str(file(as_text(WORDS, vectors)))
    assert main(["similar", path, "king", "woman", "--minus", "man", "--top", "1"]) == 0
    assert capsys.readouterr().out.split()[1] == "queen"
    assert main(["similar", path, "king", "--json"]) == 0
    assert '"n_words": 10' in capsys.readouterr().out
    for words, where in (["king", "nobody"], "WORD 2"), (["king", "--minus", "无人"], "--minus 1"):
        assert main(["similar", path, *words]) == 1
        assert capsys.readouterr().err == f"tuili: {where} is not among the file's words\n"


@pytest.mark.parametrize("n", [0, 1, 3, 40, 41])
def test_the_best_scores_are_the_first_of_a_stable_sort(n):
    scores = np.random.default_rng(n).integers(0, 6, 40) / 7.0  # of which many are equal
    scores[::9] = -np.inf
    assert best(scores, n) == np.argsort(-scores, kind="stable")[:n].tolist()


def test_wrong_vectors_are_named_with_the_parameter(file):
    found = WordVectors(file(as_binary(WORDS, table())))
    wrong = (np.ones(5, np.float32), np.ones((2, WIDTH), np.float32), np.ones(WIDTH, np.int64))
    for vector in wrong:
        with pytest.raises(InvalidParameterError, match=r"^positive: entry 1 .*12") as error:
            found.most_similar(["king", vector])
        assert error.value.param == "positive"
    with pytest.raises(InvalidParameterError, match=r"^words must be a str") as error:
        found[5]
    assert error.value.param == "words"
