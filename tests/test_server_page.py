"""The chat page in headless Chromium. Slow; without Chromium and selenium (tuili[dev]) it is skipped.

python tests/test_server_page.py FOLDER      writes the pictures of docs/ with a real model
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from pathlib import Path

import pytest

import tuili
from tiny_files import SIZES
from tiny_server import running

pytestmark = pytest.mark.slow
WAIT_S = 60


def browser(*arguments):
    """Chromium without a window. Skips where it, its driver or selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: tuili[dev]")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,760", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def chrome():
    chrome = browser("--lang=en-US")
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def llm(llama_path):
    with tuili.LLM(llama_path, max_num_seqs=1, max_queue=0, **SIZES) as llm:
        submit = llm.submit

        def slowly(token_ids, logits):
            time.sleep(0.01)

        # So that there is time to stop, and the end of text does not come by chance.
        slow = {"logits_processors": (slowly,), "ignore_eos": True}
        llm.submit = lambda ids, params: submit(ids, dataclasses.replace(params, **slow))
        yield llm


@pytest.fixture(scope="module")
def server(llm):
    with running(llm) as server:
        yield server


class Page:
    def __init__(self, chrome, url):
        self.chrome = chrome
        chrome.get(url)
        chrome.execute_script("localStorage.clear()")
        chrome.get(url)
        self.until(lambda: self.get("send").is_enabled(), "the page connects")

    def get(self, name):
        return self.chrome.find_element("id", name)

    def all(self, selector):
        return self.chrome.find_elements("css selector", selector)

    def until(self, holds, what):
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, f"not within {WAIT_S} s: {what}"
            time.sleep(0.02)

    def set(self, name, value):
        self.chrome.execute_script(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            self.get(name),
            value,
        )

    def ask(self, text):
        self.get("input").send_keys(text + "\n")

    def answered(self):
        self.until(lambda: self.get("status").text or self.all(".facts"), "an answer")
        self.until(lambda: not self.get("stop").is_enabled(), "its end")

    @property
    def answers(self):
        return [item.get_attribute("textContent") for item in self.all(".assistant .words")]

    def errors(self):
        return [entry for entry in self.chrome.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def page(chrome, server):
    page = Page(chrome, server.url)
    page.set("max_tokens", 40)
    return page


def test_a_question_is_answered_in_a_stream(page):
    page.ask("the river")
    page.until(lambda: page.answers and page.answers[-1], "the first words")
    first = page.answers[-1]
    page.answered()
    assert page.answers[-1].startswith(first[:1]) and len(page.answers[-1]) > len(first)
    assert "40 tokens" in page.all(".facts")[-1].text and "tok/s" in page.all(".facts")[-1].text
    assert [item.text for item in page.all(".user .words")] == ["the river"]
    assert not page.errors(), "no error and nothing against the page's own policy"


def test_stop_ends_an_answer_and_regenerate_makes_another(page, llm):
    page.set("max_tokens", 400)
    page.ask("the river")
    page.until(lambda: page.answers and page.answers[-1], "the first words")
    page.get("stop").click()
    page.answered()
    stopped = page.answers[-1]
    assert "stopped" in page.all(".facts")[-1].text
    page.until(lambda: not llm.stats()["running"], "the engine ends the request")
    page.set("max_tokens", 10)
    page.get("again").click()
    page.until(lambda: len(page.all(".facts")) == 1 and "10 tokens" in page.all(".facts")[-1].text, "another")
    assert len(page.answers) == 1 and page.answers[0] != stopped


def test_chinese_is_asked_and_spoken(page):
    page.get("language").click()
    assert (
        page.get("send").text == "发送"
        and page.chrome.execute_script("return document.documentElement.lang") == "zh"
    )
    page.ask("长江有多长？")
    page.answered()
    assert page.all(".user .words")[0].text == "长江有多长？"
    assert "词元/秒" in page.all(".facts")[0].text


def test_a_full_server_and_a_server_that_is_gone_are_said(page, llm, server):
    blocker = llm.submit(llm.tokenizer.encode("the"), tuili.SamplingParams(max_tokens=400))
    page.ask("the river")
    page.until(lambda: page.get("problem").is_displayed(), "the problem")
    assert page.get("problem").text == "The server is full. Try again in a moment."
    blocker.abort()
    page.chrome.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        page.get("again").click()
        page.until(lambda: "cannot be reached" in page.get("problem").text, "the other problem")
    finally:
        page.chrome.delete_network_conditions()
    page.until(lambda: not llm.stats()["running"], "the engine is free")
    page.get("again").click()
    page.answered()
    assert page.answers[-1] and not page.get("problem").is_displayed()


def test_probabilities_are_seen_with_mouse_and_keyboard(page):
    page.get("probabilities").click()
    page.ask("the river")
    page.answered()
    assert len(page.all(".assistant .words.likely span")) > 10
    words = page.all(".assistant .words")[0]
    script = "arguments[0].focus()"
    page.chrome.execute_script(script, words)
    page.chrome.switch_to.active_element.send_keys("\ue014")  # arrow right
    first = page.get("token").text
    page.chrome.switch_to.active_element.send_keys("\ue014")
    assert first.count("%") >= 6 and page.get("token").text != first
    assert len(page.all("span.here")) == 1


WRITE = """
const item = document.createElement("li");
item.innerHTML = "<div class=words></div>";
const writer = new Writer(item);
const shown = [];
for (const [content, bytes] of arguments[0]) {
  const top_logprobs = [{token: "?", bytes: [255], logprob: -1}];
  const content_ = bytes.length ? [{token: "?", bytes, logprob: -2, top_logprobs}] : [];
  writer.add({delta: {content}, logprobs: {content: content_}});
  shown.push(item.textContent);
}
writer.finish();
const spans = [...item.querySelectorAll("span")];
if (spans.length) showToken(spans[0]);
return [shown, item.textContent, spans.map(s => s.textContent),
        document.querySelectorAll("#token tr.chosen").length, document.querySelectorAll("#token tr").length];
"""


@pytest.mark.parametrize(
    "chunks, words",
    [
        ([("a", "a"), (" b", " b"), ("<b>", "<b>")], ["a", " b", "<b>"]),
        ([("a", " a"), (" b", " b")], ["a", " b"]),  # SentencePiece's first token
        ([("", "<s>"), ("abcdef", "abc"), ("", "def")], ["abc", "def"]),  # a special token is not in the text
        ([("ab", "zz"), ("cd", "cd"), ("ef", "ef")], ["cd", "ef"]),  # a text that no token explains
    ],
)
def test_an_answer_is_shown_as_it_comes_whatever_its_tokens_are(page, chunks, words):
    given = [(text, list(token.encode())) for text, token in chunks]
    shown, whole, spans, n_chosen, n_rows = page.chrome.execute_script(WRITE, given)
    assert whole == "".join(text for text, _ in chunks) and spans == words
    assert shown[-1] == whole, "before its end"
    assert n_chosen == 1 and n_rows == 3, "the chosen one is told from another that is no text either"


def test_everything_has_a_name_and_both_colour_schemes_contrast(page):
    nameless = page.chrome.execute_script(
        "return [...document.querySelectorAll('button, input, textarea, section, aside')].filter("
        "e => !(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-labelledby')"
        " || (e.labels && e.labels.length))).map(e => e.id)"
    )
    assert nameless == []
    for theme in ("light", "dark"):
        while page.get("theme").text.lower() != theme:
            page.get("theme").click()
        colours = page.chrome.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        )
        assert contrast(*colours) >= 7, (theme, colours)


def contrast(one, other):
    """WCAG 2.1's ratio of two rgb() colours."""

    def luminance(text):
        channels = [int(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def pictures(folder: Path) -> None:
    """docs/page-light.png and docs/page-dark-zh.png."""
    with tuili.LLM("smollm2-135m-instruct") as llm, running(llm) as server:
        for name, language, theme, question in (
            ("page-light", "en", "light", "Name three rivers of Europe, one a line."),
            ("page-dark-zh", "zh", "dark", "Where does the Rhine end?"),
        ):
            chrome = browser(f"--lang={language}")
            page = Page(chrome, server.url)
            if chrome.execute_script("return document.documentElement.lang") != language:
                page.get("language").click()
            while chrome.execute_script("return document.documentElement.dataset.theme") != theme:
                page.get("theme").click()
            page.set("max_tokens", 80)
            page.set("seed", 1)
            page.set("temperature", 0.3)
            page.get("probabilities").click()
            page.ask(question)
            page.answered()
            chrome.execute_script("arguments[0].focus()", page.all(".assistant .words")[0])
            for _ in range(6):
                chrome.switch_to.active_element.send_keys("\ue014")
            chrome.save_screenshot(str(folder / f"{name}.png"))
            chrome.quit()


if __name__ == "__main__":
    pictures(Path(sys.argv[1]))
