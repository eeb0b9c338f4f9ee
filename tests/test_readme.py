"""What the READMEs, and the pages about built-in models, say in Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

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
@pytest.mark.parametrize("page, n_parts", [("embeddings.md", 2), ("generation.md", 1)])
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
