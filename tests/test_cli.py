"""The command line: output for people and for programs, exit codes, one line for an error."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tuili.cli import command, sampling, standard_input
from tuili.cli import main as cli
from tuili.generation.params import NAMES, SamplingParams

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="module")
def llama(llama_path):
    return str(llama_path)


@pytest.fixture(scope="module")
def bert(bert_path):
    return str(bert_path)


@pytest.fixture
def run(capsys):
    """Runs a command in this process: (exit code, standard output, standard error)."""

    def command(*arguments):
        try:
            code = cli.main([*map(str, arguments)])
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, out, err

    return command


SMALL = ("--kv-cache-bytes", 1 << 20, "--threads", 1)


def test_generate_prints_the_text(run, llama):
    code, out, err = run("generate", llama, "the river", "--max-tokens", 5, *SMALL)
    assert (code, err) == (0, "") and out.endswith("\n")


def test_generate_json_is_one_object(run, llama):
    code, out, _ = run(
        "generate", llama, "the river", "--max-tokens", 5, "--n", 2, "--seed", 1, "--json", *SMALL
    )
    output = json.loads(out)
    assert code == 0 and len(output["outputs"]) == 2 and output["prompt"] == "the river"
    assert output["metrics"]["total_s"] > 0


def test_a_dash_reads_standard_input(run, llama, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the river"))
    _, out, _ = run("generate", llama, "-", "--max-tokens", 3, "--json", *SMALL)
    assert json.loads(out)["prompt"] == "the river"
    ids = json.loads(run("chat", llama, "the river", "--max-tokens", 3, "--json", *SMALL)[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("the river"))
    _, out, _ = run("chat", llama, "-", "--max-tokens", 3, "--json", *SMALL)
    assert json.loads(out)["prompt_token_ids"] == ids["prompt_token_ids"]


def test_a_prompt_that_is_too_long_says_what_cuts_it(run, llama):
    ask = ("generate", llama, "the river " * 99, "--max-model-len", 16, "--max-tokens", 2, *SMALL[-2:])
    code, _, err = run(*ask)
    assert code == 1 and err.endswith("max_model_len is 16; --truncate-prompt-tokens -1 cuts it\n")
    assert run(*ask, "--truncate-prompt-tokens", -1)[0] == 0


@pytest.mark.parametrize(
    "command, given, hint",
    [
        ("generate", "--temprature", "; did you mean --temperature?"),
        ("generate", "--max-x", ""),  # "--max-" is where a line of the help breaks
        ("serve", "--prot", "; did you mean --port?"),
        ("pull", "--temperature", ""),
    ],
)
def test_an_unknown_option_names_the_nearest(run, command, given, hint):
    code, _, err = run(command, "model", *(["text"] if command == "generate" else []), given, 1)
    assert code == 2 and err.endswith(f"unrecognized arguments: {given} 1{hint}\n") and err.count("\n") == 2


def test_chat_answers_once(run, llama):
    code, out, _ = run("chat", llama, "hello", "--system", "be brief", "--max-tokens", 3, "--json", *SMALL)
    assert code == 0 and len(json.loads(out)["outputs"][0]["token_ids"]) <= 3


def test_an_answer_begins_with_what_it_is_given(run, llama):
    ask = ("chat", llama, "the river", "--max-tokens", 4, "--temperature", 0, *SMALL)
    _, own, _ = run(*ask, "--json")
    code, out, _ = run(*ask, "--prefill", "the sea", "--json")
    output = json.loads(out)
    assert code == 0 and len(output["prompt_token_ids"]) > len(json.loads(own)["prompt_token_ids"])
    answer = output["outputs"][0]["text"]
    assert run(*ask, "--prefill", "the sea")[1] == f"the sea{answer}\n"
    assert run(*ask, "--prefill", "the sea", "--n", 2)[1] == f"the sea{answer}\n---\nthe sea{answer}\n"
    code, _, err = run("chat", llama, "--prefill", "the sea")
    assert code == 2 and "--prefill needs a message" in err


def test_variables_of_the_chat_template_are_json(run, llama, tmp_path):
    ask = ("chat", llama, "the river", "--max-tokens", 4, *SMALL, "--chat-template-kwargs")
    (tmp_path / "variables.json").write_text('{"enable_thinking": false}')
    for given in ('{"enable_thinking": false}', tmp_path / "variables.json"):
        code, _, err = run(*ask, given)
        assert code == 1 and "chat_template_kwargs.enable_thinking" in err and err.count("\n") == 1
    assert run(*ask, "{}")[0] == 0
    for wrong in ("[1]", "{", "1", "missing.json"):
        assert run(*ask, wrong)[0] == 2, wrong


def test_chat_converses(run, llama, monkeypatch):
    lines = iter(["hello", "", "/new", "again", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    code, out, err = run("chat", llama, "--max-tokens", 3, *SMALL)
    assert code == 0 and out.count("\n") >= 2 and "/exit" in err


def test_chat_ends_with_the_input(run, llama, monkeypatch):
    def end(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    assert run("chat", llama, *SMALL)[0] == 0


def test_a_conversation_with_a_model_that_cannot_have_one_is_an_error(run, bert, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "/exit")
    code, out, err = run("chat", bert, "--threads", 1)
    assert code == 1 and not out and "it makes vectors, not text" in err


def test_texts_may_follow_options(run, llama, bert):
    code, out, _ = run("chat", llama, *SMALL, "--max-tokens", 3, "--json", "hello")
    assert code == 0 and json.loads(out)["outputs"]
    code, out, _ = run("embed", bert, "--threads", 1, "--json", "the cat", "a dog")
    assert code == 0 and len(json.loads(out)["embeddings"]) == 2
    code, out, _ = run("chat", llama, *SMALL, "--max-tokens", 3, "--json", "--", "-hello")
    assert code == 0 and json.loads(out)["outputs"]


def test_embed_prints_vectors(run, bert, monkeypatch):
    code, out, _ = run("embed", bert, "the cat", "a dog", "--threads", 1)
    assert code == 0 and np.array([line.split() for line in out.splitlines()], float).shape == (2, 64)
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\na dog\n"))
    code, out, _ = run("embed", bert, "--json", "--threads", 1)
    assert code == 0 and np.array(json.loads(out)["embeddings"]).shape == (2, 64)


def test_embed_takes_words_before_texts_and_a_width(run, bert):
    def vectors(*arguments):
        code, out, _ = run("embed", bert, "--threads", 1, "--json", *arguments)
        assert code == 0
        return np.array(json.loads(out)["embeddings"])

    whole = vectors("the cat sat")
    assert np.array_equal(vectors("cat sat", "--prompt", "the "), whole)
    assert np.array_equal(vectors("the cat sat", "--dimensions", 5), whole[:, :5])
    code, _, err = run("embed", bert, "--threads", 1, "--prompt-name", "query", "cat")
    assert code == 1 and "prompt_name" in err


def test_info_tells_what_was_chosen(run, llama):
    code, out, _ = run("info", llama, "--json", *SMALL)
    facts = json.loads(out)
    assert code == 0 and facts["kind"] == "decoder" and facts["memory"]["weights"] > 0
    code, out, _ = run("info", llama, *SMALL)
    assert code == 0 and "kv_cache:" in out


def test_long_work_shows_a_bar_on_a_terminal(run, llama, bert, monkeypatch):
    monkeypatch.setattr(command, "shows_progress", lambda: True)
    monkeypatch.setattr(command, "BAR_AFTER_S", -1.0)
    assert "] loading" in run("info", llama, *SMALL)[2]
    _, out, err = run("embed", bert, *(["the cat"] * 80), "--json", "--threads", 1)
    assert "] embedding" in err and err.endswith("\r") and len(json.loads(out)["embeddings"]) == 80


@pytest.mark.parametrize("columns", [1, 9, 20, 40, 60, 200])
def test_a_bar_stays_on_one_line_of_a_narrow_terminal(capsys, monkeypatch, columns):
    monkeypatch.setattr(command, "_columns", lambda: columns)
    for done in range(4):
        command.progress(done, 3, "verifying")
    *shown, last = capsys.readouterr().err.split("\r")[1:]
    assert last == "" and {len(line) for line in shown} == {min(columns - 1, 60)}
    assert columns < 20 or all(line.rstrip().endswith("] verifying") for line in shown[:-1])


def test_a_bar_is_drawn_when_it_grows(capsys, monkeypatch):
    monkeypatch.setattr(command, "shows_progress", lambda: True)
    monkeypatch.setattr(command, "BAR_AFTER_S", -1.0)
    bar = command.bar("loading")
    for done in range(10_001):
        bar(done, 10_000)
    assert capsys.readouterr().err.count("\r") == command.BAR_PARTS + 2


def test_models_names_sources_and_licences(run, tmp_path):
    code, out, _ = run("models", "--json", "--cache-dir", tmp_path)
    entries = json.loads(out)["models"]
    assert code == 0 and all(
        entry["licence"] and entry["source"] and entry["path"] is None for entry in entries
    )
    code, out, _ = run("models", "--cache-dir", tmp_path)
    assert code == 0 and all(entry["name"] in out for entry in entries)


def test_doctor_finds_nothing_wrong(run, tmp_path):
    code, out, _ = run("doctor", "--json", "--cache-dir", tmp_path)
    facts = json.loads(out)
    assert (code, facts["problems"]) == (0, [])
    code, out, _ = run("doctor", "--cache-dir", tmp_path)
    assert code == 0 and "no problems found" in out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_bench_measures(run, request, kind):
    path = request.getfixturevalue(kind)
    code, out, _ = run(
        "bench", path, "--json", "--repeats", 2, "--prompt-tokens", 64, "--new-tokens", 8, "--threads", 1
    )
    result = json.loads(out)
    rate = result["decode_tok_s" if kind == "llama" else "texts_s"]
    assert code == 0 and 0 < rate["min"] <= rate["median"] <= rate["max"]
    latency = result["first_token_ms" if kind == "llama" else "text_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["max"]
    assert result["read_gb_s"]["median"] > 0 and result["peak_memory_bytes"] > 0
    code, out, _ = run(
        "bench", path, "--repeats", 1, "--prompt-tokens", 16, "--new-tokens", 4, "--threads", 1
    )
    assert code == 0 and "machine: read" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "/nowhere/model"),
        ("generate", "/nowhere\nline", "x"),
        ("pull", "no-such-model"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "") and err.startswith("tuili: ") and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--svg", "--html"])
def test_bench_measures_nothing_for_a_file_that_it_cannot_write(run, llama, tmp_path, monkeypatch, option):
    monkeypatch.setattr("tuili.benchmark.measure", lambda *given: pytest.fail("it measured"))
    for path in (tmp_path / "none" / "chart", ""):
        code, printed, complained = run("bench", llama, option, path)
        assert code == 1 and not printed
        assert f"cannot write {path}: " in complained and complained.count("\n") == 1


@pytest.mark.parametrize("option", ["--svg", "--html"])
def test_a_bench_that_fails_leaves_no_file_and_keeps_what_was_there(run, tmp_path, option):
    path = tmp_path / "chart"
    assert run("bench", tmp_path / "no-model", option, path)[0] == 1 and not path.exists()
    path.write_text("of yesterday")
    assert run("bench", tmp_path / "no-model", option, path)[0] == 1 and path.read_text() == "of yesterday"


def test_an_invalid_parameter_is_an_error_of_the_library(run, llama):
    code, _, err = run("generate", llama, "x", "--temperature", "nan", *SMALL)
    assert code == 1 and "temperature" in err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("generate",),
        ("bench", "m", "--repeats", "x"),
        ("info", "m", "--x"),
        ("info", "m", "more"),
        ("chat", "m", "one", "two"),
        ("chat", "m", "--seed", "1", "one", "two"),
        ("embed", "m", "--threads", "1", "--y"),
        ("generate", "m", "one", "--seed", "1", "two"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    assert run(*arguments)[0] == 2


def test_help_and_version_work(run):
    assert run("--version")[0] == 0
    for name in (
        "generate",
        "chat",
        "translate",
        "summarize",
        "classify",
        "embed",
        "info",
        "models",
        "pull",
        "doctor",
        "bench",
    ):
        code, out, _ = run(name, "--help")
        assert code == 0 and "--json" in out


def test_options_that_need_each_other(run, llama):
    assert run("chat", llama, "--json", *SMALL)[0] == 2
    assert run("bench", llama, "--repeats", 0)[0] == 2


def test_a_cache_is_not_cleared_down_to_less_than_nothing(run, tmp_path):
    (tmp_path / "packed").mkdir()
    kept = tmp_path / "packed" / f"{'0' * 32}.packed"
    kept.write_bytes(b"x")
    code, _, err = run("cache", "clear", "--max-bytes", -1, "--cache-dir", tmp_path)
    assert code == 2 and "--max-bytes" in err and kept.exists()


def test_a_conversation_without_input_ends(llama, monkeypatch, run):
    monkeypatch.setattr(sys, "stdin", None)
    assert run("chat", llama, *SMALL)[0] == 0


def test_arguments_that_are_not_text_are_replaced_and_said(run, llama, tmp_path):
    odd = tmp_path / "\udcff-model"  # names of files may hold any bytes
    odd.symlink_to(llama)
    code, out, err = run(
        "generate", odd, "the \udcff", "--stop", "\udcc0", "--max-tokens", 1, "--json", *SMALL
    )
    assert code == 0 and json.loads(out)["prompt"] == "the \ufffd"
    assert err.count("the command line is not all UTF-8") == 2


def test_what_cuts_a_long_text_is_named_as_the_command_line_has_it(run, bert):
    code, _, err = run("embed", bert, "the " * 600, "--threads", 1)
    assert code == 1 and "; --truncate cuts it" in err and "True" not in err


def test_lines_end_as_windows_ends_them_and_a_byte_order_mark_is_none_of_them(run, bert, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffthe cat\r\n\r\na\u2028dog\r\n\n", newline=""))
    assert standard_input.lines() == ["the cat", "", "a\u2028dog", ""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffthe cat\r\na dog", newline=""))
    _, out, _ = run("embed", bert, "--json", "--threads", 1)
    _, plain, _ = run("embed", bert, "the cat", "a dog", "--json", "--threads", 1)
    assert json.loads(out) == json.loads(plain)


# --- what is generated


@pytest.mark.parametrize("command", ["translate", "summarize"])
def test_every_argument_of_a_task_is_an_option(command):
    options = cli._parse(
        [command, "m", "text", "--early-stopping", "never", "--bad-words=a", "--num-beams=4"]
    )
    assert vars(options).keys() >= {*sampling.OF_TASKS}
    assert (options.early_stopping, options.bad_words, options.num_beams) == ("never", ["a"], 4)


def test_every_argument_is_a_parameter():
    assert {*sampling.NAMES, *sampling.LEFT_OUT} == set(NAMES)
    given = ["--min-tokens=1", "--logprobs=2", "--typical-p=0.5", "--ignore-eos", "--early-stopping", "never"]
    options = cli._parse(["generate", "m", "text", *given, "--choice=a", "--choice=b", "--json"])
    taken = command.given_options(options, sampling.NAMES)
    assert taken == {
        "max_tokens": sampling.DEFAULT_MAX_TOKENS,
        "min_tokens": 1,
        "logprobs": 2,
        "typical_p": 0.5,
        "ignore_eos": True,
        "early_stopping": "never",
        "choice": ["a", "b"],
    }
    SamplingParams(**taken | {"num_beams": 2, "choice": None, "typical_p": None})
    given = ["--bad-words-ids=1,2", "--bad-words-ids=3", "--logit-bias=4:-100", "--logit-bias=5:1.5"]
    given += ["--exponential-decay-length-penalty=20,1.1", "--no-skip-special-tokens", "--renormalize-logits"]
    given += ["--sequence-bias=5,6:-2", "--sequence-bias=7:1.5"]
    given += ["--stop-token-ids=6", "--allowed-token-ids=7,8", "--suppress-tokens=9", "--on-nan=eos"]
    given += ["--begin-suppress-tokens=1", "--forced-bos-token-id=2", "--truncate-prompt-tokens=-1"]
    taken = command.given_options(cli._parse(["generate", "m", "text", *given]), sampling.NAMES)
    wanted = {"bad_words_ids": [[1, 2], [3]], "logit_bias": {4: -100.0, 5: 1.5}, "skip_special_tokens": False}
    wanted |= {"exponential_decay_length_penalty": (20, 1.1), "renormalize_logits": True, "on_nan": "eos"}
    wanted |= {"sequence_bias": [([5, 6], -2.0), ([7], 1.5)]}
    wanted |= {"stop_token_ids": [6], "allowed_token_ids": [7, 8], "suppress_tokens": [9]}
    wanted |= {"begin_suppress_tokens": [1], "forced_bos_token_id": 2, "truncate_prompt_tokens": -1}
    assert taken == wanted | {"max_tokens": sampling.DEFAULT_MAX_TOKENS}
    SamplingParams(**taken)


def test_arguments_of_tokens_count(run):
    """Of the model in tests/models/adder, whose digits are their own ids."""

    def answer(*arguments, prompt="999+  1="):
        code, out, err = run(
            "generate", MODELS / "adder", prompt, "--max-tokens", 4, "--threads", 1, *arguments
        )
        assert code == 0, err
        return out.strip()

    assert answer() == "1000" == answer("--logit-bias", "13:-100")
    assert answer("--logit-bias", "7:100") == "7777" and answer("--stop-token-ids", "0,7") == "1"
    assert set(answer("--allowed-token-ids", "2,3")) <= {"2", "3"}
    assert "0" not in answer("--suppress-tokens", "0") and answer("--begin-suppress-tokens", "1")[0] != "1"
    assert "10" not in answer("--bad-words-ids", "1,0") and answer("--forced-bos-token-id", 7)[0] == "7"
    assert answer("--sequence-bias", "1,7:99", "--sequence-bias", "7,7:99") == "1777"
    assert answer("--forced-eos-token-id", 8)[-1] == "8" == answer("--forced-eos-token-id", "9,8")[-1]
    assert answer("--exponential-decay-length-penalty", "1,1e6") == "10"
    assert answer("--truncate-prompt-tokens", 8, prompt="1+2=999+  1=") == "1000"
    shown = ("--forced-bos-token-id", 13, "--ignore-eos")
    assert "<|endoftext|>" in answer(*shown, "--no-skip-special-tokens")
    assert "<|endoftext|>" not in answer(*shown)
    output = json.loads(answer("--prompt-logprobs", 1, "--max-tokens", 0, "--json"))
    assert len(output["prompt_logprobs"]) == 8


def test_a_server_prints_no_json(run):
    """It writes what happens to its log."""
    code, out, err = run("serve", "m", "--json")
    assert (code, out) == (2, "") and "--json" in err


def test_beams_come_with_scores(run, llama):
    search = ("--num-beams", 4, "--n", 2, "--early-stopping", "--length-penalty", 2, "--logprobs", 1)
    code, out, _ = run("generate", llama, "the river", *search, "--max-tokens", 4, "--json", *SMALL)
    outputs = json.loads(out)["outputs"]
    assert code == 0 and [len(item["logprobs"][0]["top"]) for item in outputs] == [1, 1]
    assert outputs[0]["score"] >= outputs[1]["score"]
    code, out, _ = run("generate", llama, "the river", "--num-beams", 2, "--max-tokens", 4, *SMALL)
    assert code == 0 and out.endswith("\n")


def test_an_answer_has_the_form_that_is_asked_for(run, llama, tmp_path):
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"enum": ["北京", "上海"]}', "utf-8-sig")  # with the mark that Notepad writes
    grammar.write_text('start: "yes" | "no"', "utf-8-sig")
    asked = {
        ("--json-schema", str(schema)): {'"北京"', '"上海"'},
        ("--json-schema", '{"type": "boolean"}'): {"true", "false"},
        ("--regex", "[0-9]{3}x"): None,
        ("--choice", "left", "--choice", "right"): {"left", "right"},
        ("--grammar", str(grammar)): {"yes", "no"},
    }
    for arguments, answers in asked.items():
        code, out, err = run("generate", llama, "the river", "--max-tokens", 40, *arguments, *SMALL)
        assert (code, err) == (0, "") and (answers is None or out.strip() in answers), out


WRONG = {
    "a missing file": (["--json-schema", "no/such/file"], "no/such/file"),
    "a file of bytes": (["--grammar", "bytes"], "not a text"),
    "a file without end": (["--grammar", "/dev/zero"], "larger than"),
    "logprobs without --json": (["--logprobs", "1"], "--json"),
    "prompt_logprobs without --json": (["--prompt-logprobs", "1"], "--json"),
    "another early stopping": (["--early-stopping=always"], "never"),
    "ids that are none": (["--stop-token-ids", "1,a"], "commas"),
    "no ids": (["--bad-words-ids", ""], "commas"),
    "a bias without a token": (["--logit-bias", "1.5"], "42:-100"),
    "a sequence without a bias": (["--sequence-bias", "1,2"], "4,2:1.5"),
    "two biases of a token": (["--logit-bias", "1:2", "--logit-bias", "1:3"], "twice"),
    "a decay without a factor": (["--exponential-decay-length-penalty", "3"], "20,1.1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_of_generation_are_usage_errors(run, llama, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    arguments, said = WRONG[name]
    code, out, err = run("generate", llama, "the river", *arguments, *SMALL)
    assert (code, out) == (2, "") and said in err and "Traceback" not in err


def test_a_wrong_value_is_one_line(run, llama):
    code, out, err = run("generate", llama, "the river", "--num-beams", 2, "--top-p", 0.5, *SMALL)
    assert (code, out, err.count("\n")) == (1, "", 1) and "top_p" in err


def test_a_conversation_has_one_answer(run, llama):
    code, _, err = run("chat", llama, "--n", 2, "--seed", 1, *SMALL)
    assert code == 2 and "--n needs a message" in err
