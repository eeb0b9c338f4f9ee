"""What the READMEs and the pages about tasks say in Python runs as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import architecture_table
import encoder_models
import gguf_families
import tuili
from oracle.model_files import BUILT_IN
from tuili.loading import store

REPOSITORY = Path(__file__).resolve().parent.parent
PLACEHOLDERS = ("path/to", "模型目录")  # models that are not built in


@pytest.fixture(scope="module")
def built_in():
    try:
        for name in BUILT_IN.values():
            store.resolve(name)
    except tuili.ModelIOError as error:
        pytest.skip(f"a built-in model could not be pulled: {error}")


def python_of(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize(
    "page, n_parts", [("embeddings.md", 2), ("generation.md", 1), ("introspection.md", 2)]
)
def test_the_python_of_a_page_about_built_in_models_runs(built_in, page, n_parts, capsys):
    parts, names = python_of(f"docs/tasks/{page}"), {}
    assert len(parts) == n_parts
    for part in parts:
        exec(compile(part, page, "exec"), names)
    assert len(capsys.readouterr().out) > 50


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_python_of_a_readme_runs(built_in, page, capsys):
    pytest.importorskip("llguidance")
    parts = python_of(page)
    parts = [part for part in parts if "serve_forever" not in part]  # which does not end
    assert len(parts) == 2
    names: dict[str, Any] = {}
    for part in parts:
        lines = part.splitlines()
        assert sum(word in line for line in lines for word in PLACEHOLDERS) in (0, 2)
        code = "\n".join(line for line in lines if not any(word in line for word in PLACEHOLDERS))
        exec(compile(code, page, "exec"), names)
    names["llm"].close()
    names["embedder"].close()
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize("page", ["README.md", "docs/verification.md"])
def test_the_numbers_of_a_page_are_those_of_the_tests(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    decoders = {case.architecture for case in architecture_table.CASES if case.verified == "transformers"}
    searches = json.loads((REPOSITORY / "tests/goldens/beams.json").read_text(encoding="utf-8"))
    assert f"{len(decoders)} classes of decoders" in text
    assert f"GGUF files of {len(gguf_families.FAMILIES)} decoders" in text
    assert f"({len(encoder_models.CASES)} configurations with random weights)" in text
    assert f"({len(searches)} searches)" in text


def test_the_numbers_of_the_chinese_readme_are_those_of_the_english_one():
    english, chinese = (
        (REPOSITORY / page)
        .read_text(encoding="utf-8")
        .split(heading)[1]
        .split("|---|---|")[1]
        .split("\n\n")[0]
        for page, heading in (("README.md", "## What is verified"), ("README.zh-CN.md", "## 验证情况"))
    )
    assert re.findall(r"[\d,]+\d", english) == re.findall(r"[\d,]+\d", chinese)


# Models of the repository that do what a page's model does, by the page's path of that.
STAND_INS = {
    "path/to/distilbert-base-uncased-finetuned-sst-2-english": "tests/models/sentiment",
    "path/to/bert-large-cased-finetuned-conll03-english": "tests/models/entities",
    "path/to/distilbert-base-cased-distilled-squad": "tests/models/questions",
    "path/to/bart-large-cnn": "tests/models/t5-numbers",
    "path/to/pegasus-xsum": "tests/models/t5-numbers",
    "path/to/flan-t5-small": "tests/models/t5-numbers",
}


@pytest.mark.parametrize(
    "page, part, says",
    [
        ("classification.md", 0, "'label': 'negative'"),
        ("tokens.md", 0, "PER ada 0 3 "),
        ("questions.md", 0, "'start': 0, 'end': 12, 'answer': 'Ada Lovelace'}"),
        ("summarization.md", 0, "[{'summary_text': "),
        ("translation.md", 1, "[{'translation_text': '一千零五'}]"),
    ],
)
def test_the_python_of_a_page_runs_with_a_model_of_the_repository(page, part, says, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    code = re.sub(r"path/to/[\w-]+", lambda path: STAND_INS[path[0]], python_of(f"docs/tasks/{page}")[part])
    exec(compile(code, page, "exec"), {})
    assert says in capsys.readouterr().out
