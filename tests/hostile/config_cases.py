"""Rows CF-* of the catalogue: config.json, generation_config.json, the shards' index, companions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuili.errors import (
    ModelFormatError,
    ModelIOError,
    ModelLimitError,
    ModelPathError,
    ModelUnsupportedError,
    TemplateError,
    TokenizerError,
)

from .cases import CONFIG, Case, Json, Write, folder, llama_shapes, st_file, st_header

F, L, U, P, IO = ModelFormatError, ModelLimitError, ModelUnsupportedError, ModelPathError, ModelIOError


def config(**changes: Any) -> Write:
    """The valid folder with settings replaced; `...` removes."""
    changed = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    return folder(config=changed)


def raw(key: str, text: str) -> Write:
    """The valid folder with the text of one setting replaced."""
    old = f'"{key}": {json.dumps(CONFIG[key])}'
    whole = json.dumps(CONFIG)
    assert old in whole
    return folder(config=whole.replace(old, f'"{key}": {text}').encode())


def without(name: str) -> Write:
    def write(path: Path) -> Path:
        folder()(path)
        (path / name).unlink()
        return path

    return write


def syntax() -> Iterator[Case]:
    text = json.dumps(CONFIG).encode()
    yield Case("CF-01", "missing", without("config.json"), IO, "config_missing")
    yield Case("CF-01", "tokenizer missing", without("tokenizer.json"), TokenizerError, "tokenizer_missing")
    bad: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "json"),
        "0xFF": (b"\xff" + text, "json_utf8"),
        "UTF-16": (text.decode().encode("utf-16"), "json_utf8"),
        "byte order mark": (b"\xef\xbb\xbf" + text, "json"),
        "NaN": (b'{"a": NaN}', "json_number"),
        "Infinity": (b'{"a": -Infinity}', "json_number"),
        "comment": (b"// hi\n" + text, "json"),
        "trailing comma": (text[:-1] + b",}", "json"),
        "two values": (b'{"vocab_size": 1,' + text[1:], "json_duplicate_key"),
        "single quotes": (b"{'a': 1}", "json"),
        "depth 65": (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "json_depth"),
        "depth 100000": (b"[" * 100_000, "json_depth"),
        "depth in objects": (b'{"a":' * 500, "json_depth"),
        "array": (b"[]", "config_type"),
        "string": (b'"config"', "config_type"),
        "null": (b"null", "config_type"),
        "unclosed": (text[:-1], "json"),
        "1e400": (b'{"a": 1e400}', "json_number"),
        "quotes that hide brackets": (b'{"a": "' + b"[" * 100 + b'"' + b"[" * 70, "json_depth"),
        "escaped quotes": (b'{"a": "\\\\\\"' + b"[" * 100 + b'"', "json"),
    }
    for name, (content, code) in bad.items():
        yield Case("CF-01", name, folder(config=content), F, code)
    yield Case("CF-01", "5 MB", folder(config=text + b" " * 5_000_000), L, "file_too_large")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        yield Case("CF-01", f"{name} is a folder", replaced(name), P, "not_regular_file")


def replaced(name: str) -> Write:
    def write(path: Path) -> Path:
        without(name)(path)
        (path / name).mkdir()
        return path

    return write


def numbers() -> Iterator[Case]:
    for text in ('"32"', "32.0", "true", "1e3", "[]", "{}", '"0x20"'):
        yield Case("CF-02", f"hidden_size {text}", raw("hidden_size", text), F, "config_type")
    for text in ("-0", "9007199254740993", "18446744073709551616", "-1"):
        yield Case("CF-02", f"hidden_size {text}", raw("hidden_size", text), F, "config_value")
    for key in (
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "intermediate_size",
        "max_position_embeddings",
    ):
        yield Case("CF-02", f"{key} null", raw(key, "null"), F, "config_key")
        if key != "max_position_embeddings":  # see architectures/class_defaults.py
            yield Case("CF-02", f"{key} missing", config(**{key: ...}), F, "config_key")
    for text in ('"1e-5"', "true", "[1e-5]"):
        yield Case("CF-02", f"rms_norm_eps {text}", raw("rms_norm_eps", text), F, "config_type")
    for value in (1, "true", [True]):
        yield Case(
            "CF-02", f"tie_word_embeddings {value}", config(tie_word_embeddings=value), F, "config_type"
        )
    for value in (1, ["silu"], "s" * 5000):
        yield Case("CF-02", f"hidden_act {str(value)[:8]}", config(hidden_act=value), F, "config_type")


def sizes() -> Iterator[Case]:
    bad: dict[str, list[int]] = {
        "hidden_size": [0, -1, 1 << 31, 33],
        "num_attention_heads": [0, -1, 3, 1 << 31],
        "num_key_value_heads": [0, -1, 3, 1 << 31],
        "head_dim": [0, -1, 15, 1_000_000],
        "num_hidden_layers": [0, -1, 1_000_000, 1_000_000_000],
        "vocab_size": [0, -1, 1 << 31],
        "intermediate_size": [0, -1, 1 << 31],
        "max_position_embeddings": [0, -1, 1 << 63],
    }
    for key, numbers in bad.items():
        for number in numbers:
            many = key == "num_hidden_layers" and number > 0
            row, code = ("CF-04", "layer_count") if many else ("CF-03", "config_value")
            yield Case(row, f"{key} = {number}", config(**{key: number}), F, code)
    kv = {"num_attention_heads": 4, "num_key_value_heads": 3}
    yield Case("CF-03", "3 key-value heads for 4", config(**kv), F, "config_value")
    for value in (0, -1e-5, 2):
        yield Case("CF-03", f"rms_norm_eps = {value}", config(rms_norm_eps=value), F, "config_value")
    yield Case("CF-04", "1,000 layers", config(num_hidden_layers=1000), F, "layer_count")
    yield Case("CF-04", "3 layers", config(num_hidden_layers=3), F, "tensor_missing")
    yield Case("CF-03", "vocabulary of another size", config(vocab_size=17), F, "tensor_shape")
    yield Case("CF-03", "layer too few", config(num_hidden_layers=1), None)
    yield Case("CF-03", "head_dim of 1022", config(head_dim=1022), F, "tensor_shape")


def rope() -> Iterator[Case]:
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

    def case(name: str, scaling: Any, code: str = "config_value", error: Any = F) -> Case:
        return Case("CF-05", name, config(rope_scaling=scaling), error, code)

    yield case("not an object", [1], "config_type")
    for kind in ("spiral", "../x"):
        yield case(f"type {kind}", {"rope_type": kind, "factor": 2.0, "long_factor": [1.0]}, "rope_type", U)
    yield case("type is a number", {"rope_type": 1}, "config_type")
    for factor in (0, -1, 1e-40, 1e31):
        yield case(f"linear by {factor}", {"type": "linear", "factor": factor})
    yield case("linear without factor", {"type": "linear"}, "config_key")
    yield case("linear by a list", {"type": "linear", "factor": [2.0]}, "config_type")
    for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
        yield case(f"llama3, {key} = 0", llama3 | {key: 0})
        if key != "original_max_position_embeddings":  # then the class takes max_position_embeddings
            yield case(f"llama3, {key} missing", {k: v for k, v in llama3.items() if k != key}, "config_key")
    yield case("llama3, factors equal", llama3 | {"high_freq_factor": 1.0})
    for key in ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"):
        yield case(f"yarn, {key} = 0", yarn | {key: 0})
    for theta in (0, -1, 1, 1e300):
        yield Case("CF-05", f"theta = {theta}", config(rope_theta=theta), F, "config_value")
    yield Case("CF-05", "partly rotated", config(partial_rotary_factor=0.5), U, "config_unsupported")
    for name, good in {"llama3": llama3, "yarn": yarn, "linear": {"type": "linear", "factor": 2}}.items():
        yield Case("CF-05", f"valid {name}", config(rope_scaling=good), None)
    for given in ("1", [0.0], {}):  # a name of ours, for what GGUF files say
        yield Case("CF-05", f"divisors {given}", config(rope_frequency_factors=given), None)
        if "type" not in good:
            yield Case(
                "CF-05",
                f"valid {name}, new spelling",
                config(rope_parameters=good | {"rope_theta": 1e4}),
                None,
            )


def names() -> Iterator[Case]:
    for value in ([], ["LlamaForCausalLM", "BertModel"], "LlamaForCausalLM", [1], {"a": 1}):
        yield Case("CF-06", f"architectures {value}", config(architectures=value), F, "config_value")
    for value in (None, ...):
        yield Case("CF-06", f"architectures {value}", config(architectures=value), None)
        for kind in ("gpt9", "", "../llama", 7, ..., "l" * 5000):
            files = config(architectures=value, model_type=kind)
            yield Case("CF-06", f"architectures {value} of {str(kind)[:9]}", files, F, "config_value")
    for name in ("GPT9", "MPNetForCausalLM", "../llama", "os", "llama", "", "%s", "A" * 10_000):
        yield Case("CF-06", f"'{name[:10]}'", config(architectures=[name]), U, "architecture")
    code = {"AutoModelForCausalLM": "evil--modeling.Evil"}
    yield Case("CF-06", "auto_map is ignored", config(auto_map=code), None)
    for value in ("../../x", "", "a/b", 7, ["llama"]):
        yield Case("CF-06", f"model_type {value}", config(model_type=value), U, "config_unsupported")
    for value in ("int3", "float8", "", 16, {"a": 1}):
        yield Case("CF-07", f"torch_dtype {value}", config(torch_dtype=value), U, "config_unsupported")
    for value in ({"bits": 0}, {"quant_method": "gptq", "group_size": -1}, "int4", 4):
        yield Case(
            "CF-07",
            f"quantization_config {value}",
            config(quantization_config=value),
            U,
            "quantization_config",
        )
    yield Case("CF-07", "activation", config(hidden_act="swish2"), U, "config_unsupported")
    tied = llama_shapes() | {"lm_head.weight": [16, 32]}
    yield Case("CF-08", "tied, with a head", folder(st_file(st_header(tied))), None)


def generation() -> Iterator[Case]:
    for value in (16, -1, "2", 2.0, True, [2, 16], [2, "x"], [[2]], {"a": 2}, 1 << 63):
        yield Case("CF-09", f"eos {value}", config(eos_token_id=value), F, "config_value")
    yield Case("CF-09", "10,000 eos ids", config(eos_token_id=[2] * 10_000), L, "eos_ids")
    yield Case("CF-09", "list of eos ids", config(eos_token_id=[2, 3]), None)

    def case(name: str, content: Json | bytes, code: str, error: Any = F) -> Case:
        return Case("CF-10", name, folder(generation_config__json=content), error, code)

    yield case("temperature NaN", b'{"temperature": NaN}', "json_number")
    for key, bad in {
        "temperature": [-1, 1e9],
        "top_p": [-0.1, 1.5],
        "min_p": [2],
        "typical_p": [-1],
        "repetition_penalty": [0, -1, 1e6],
        "encoder_repetition_penalty": [0, 1e6],
        "top_k": [-1, 1 << 40],
        "max_new_tokens": [0, 1 << 63],
        "no_repeat_ngram_size": [-1],
        "num_beams": [0, 1 << 20],
    }.items():
        for value in bad:
            yield case(f"{key} {value}", {key: value}, "config_value")
    for key, bad_type in {"temperature": "0.7", "top_k": 5.0, "do_sample": 1, "max_new_tokens": True}.items():
        yield case(f"{key} {bad_type!r}", {key: bad_type}, "config_type")
    yield case("eos 16", {"eos_token_id": 16}, "config_value")
    yield case("unknown keys", {"frobnicate": 1, "temperature": 0.5, "top_k": None}, "", None)
    yield case("not an object", b"[]", "config_type")


INDEX = "model.safetensors.index.json"


def sharded(index: Any, **shards: bytes) -> Write:
    """A folder of shards with an index instead of model.safetensors."""

    def write(path: Path) -> Path:
        without("model.safetensors")(path)
        (path / INDEX).write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
        for name, content in shards.items():
            (path / f"{name}.safetensors").write_bytes(content)
        return path

    return write


def index() -> Iterator[Case]:
    shapes = list(llama_shapes().items())
    a, b = dict(shapes[:7]), dict(shapes[7:])
    one, two = st_file(st_header(a)), st_file(st_header(b))
    good = dict.fromkeys(a, "a.safetensors") | dict.fromkeys(b, "b.safetensors")

    def case(name: str, weight_map: Any, code: str, error: Any = F, first: bytes = one, **more: Any) -> Case:
        return Case("CF-11", name, sharded({"weight_map": weight_map} | more, a=first, b=two), error, code)

    yield case("two shards", good, "", None)
    yield case("total_size wrong", good, "", None, metadata={"total_size": 1})
    yield Case("CF-11", "no weight_map", sharded({}, a=one, b=two), F, "index_map")
    yield Case("CF-11", "not JSON", sharded(b"{", a=one), F, "json")
    yield Case("CF-11", "array", sharded([], a=one), F, "index_map")
    for bad in ([], {}, None, "a.safetensors", 1):
        yield case(f"weight_map {bad}", bad, "index_map")
    name = next(iter(a))
    for value in (1, None, ["a.safetensors"], {}):
        yield case(f"value {value}", good | {name: value}, "index_map")
    yield case("70,000 entries", {str(i): "a.safetensors" for i in range(70_000)}, "too_many_tensors", L)
    yield case("names a tensor that no shard holds", good | {"ghost": "a.safetensors"}, "index_tensor")
    yield case("names the other shard", good | {name: "b.safetensors"}, "index_tensor")
    yield case("shard holds more", {k: v for k, v in good.items() if k != name}, "index_tensor")
    yield case("shard missing", good | {name: "c.safetensors"}, "open_failed", IO)
    both = st_file(st_header(a | {next(iter(b)): [32, 32]}))
    yield case("tensor in both shards", good, "tensor_duplicate", F, both)
    yield case("shard is broken", good, "header_too_small", F, b"123")


def shard_names() -> Iterator[Case]:
    one = st_file(st_header())
    good = dict.fromkeys(llama_shapes(), "a.safetensors")
    name = next(iter(good))
    bad_names = [
        "../x.safetensors",
        "/etc/passwd",
        "a/../../b.safetensors",
        "C:\\x.safetensors",
        "\\\\host\\x.safetensors",
        "",
        ".",
        "..",
        "a\0.safetensors",
        "x" * 5000,
        "a" * 250 + ".safetensors",
        "a.bin",
        "sub/a.safetensors",
        "a.safetensors\n",
        "ä.safetensors",
        "a b.safetensors",
        "~/a.safetensors",
        ".safetensors",
        "a.SAFETENSORS",
        "a.safetensors/",
        "file://a.safetensors",
        "\u2025/a.safetensors",
    ]
    for bad in bad_names:
        weight_map = good | {name: bad}
        yield Case(
            "CF-12",
            f"{bad[:24]!r} {len(bad)}",
            sharded({"weight_map": weight_map}, a=one),
            P,
            "shard_name",
        )
    escaped = json.dumps({"weight_map": good}).replace('"a.safetensors"', r'"\u002e\u002e/a.safetensors"', 1)
    yield Case("CF-12", "escaped dots", sharded(escaped.encode(), a=one), P, "shard_name")


def companions() -> Iterator[Case]:
    """Files beside the weights: chat templates and sentence-transformers' settings."""

    def template(name: str, value: Any, error: Any = TemplateError, code: str = "template") -> Case:
        return Case(
            "CF-10",
            f"chat template {name}",
            folder(tokenizer_config__json={"chat_template": value}),
            error,
            code,
        )

    yield template("number", 1)
    yield template("object", {"default": "x"})
    yield template("two, none is default", [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}])
    yield template("empty list", [])
    yield template("list of strings", ["x"])
    yield template("default is a number", [{"name": "default", "template": 1}])
    yield template(
        "two and default", [{"name": "a", "template": "x"}, {"name": "default", "template": "y"}], None, ""
    )
    yield template("only one", [{"name": "a", "template": "x"}], None, "")
    yield Case("CF-10", "template not UTF-8", folder(chat_template__jinja=b"\xff"), TemplateError, "template")
    yield Case(
        "CF-10", "template of 2 MB", folder(chat_template__jinja=b"x" * 2_000_000), L, "file_too_large"
    )

    def modules(name: str, value: Any, error: Any = F, code: str = "config_type", **files: Any) -> Case:
        return Case("CF-10", f"modules {name}", folder(modules__json=value, **files), error, code)

    first = {"type": "sentence_transformers.models.Transformer", "path": ""}
    pooling = [first, {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    yield modules("object", {})
    yield modules("20 entries", [{"type": "x.Transformer"}] * 20)
    yield modules("strings", ["x"])
    yield modules("without type", [{}], F, "config_key")
    yield modules("unknown", [{"type": "x.LSTM"}], U, "module")
    yield modules("pooling outside", [first, {"type": "x.Pooling", "path": "../x"}], F, "config_value")
    yield modules("transformer outside", [first | {"path": "../x"}], F, "config_value")
    yield modules("pooling alone", pooling[1:], U, "module")
    yield modules("pooling missing", pooling, F, "config_key")
    for chosen in ({"pooling_mode": "median"}, {"pooling_mode": []}):
        settings = {"1_Pooling/config.json": chosen}
        yield modules(f"pooling {chosen}", pooling, U, "pooling", **settings)
    settings = {"1_Pooling/config.json": {"pooling_mode_mean_tokens": 1}}
    yield modules("pooling mode 1", pooling, F, "config_type", **settings)
    yield modules("architectures of lists", [], F, "config_value", config={"architectures": [["x"]]})
    limits = {"sentence_bert_config.json": {"max_seq_length": 0}}
    yield modules("max_seq_length 0", [], F, "config_value", **limits)


GEMMA: Json = CONFIG | {
    "architectures": ["Gemma3ForCausalLM"],
    "sliding_window": 16,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
}
BERT: Json = {
    "architectures": ["BertModel"],
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 16,
    "max_position_embeddings": 64,
}


def families() -> Iterator[Case]:
    """Settings that only Gemma or BERT have."""

    def gemma(name: str, error: Any, code: str, **changes: Any) -> Case:
        return Case("CF-03", f"gemma {name}", folder(config=GEMMA | changes), error, code)

    local, everything = "sliding_attention", "full_attention"
    yield gemma("window 0", F, "config_value", sliding_window=0)
    yield gemma("window missing", F, "config_key", sliding_window=None)
    yield gemma("pattern 0", F, "config_value", sliding_window_pattern=0)
    for types in ([local], [local, "x"], local, [local, [everything]], [local, everything, local]):
        yield gemma(f"layer_types {types}", F, "config_value", layer_types=types)
    yield gemma("reads both ways", U, "config_unsupported", use_bidirectional_attention=True)
    layers = {"0": {"sliding_window": 2}}
    yield gemma("settings of a layer", U, "config_unsupported", per_layer_config=layers)
    yield gemma("bias without its tensors", F, "tensor_missing", attention_bias=True)
    yield gemma("activation", U, "config_unsupported", hidden_activation="prelu")
    yield gemma("scalar 0", F, "config_value", query_pre_attn_scalar=0)
    yield gemma("softcap 0", F, "config_value", final_logit_softcapping=0)
    flat = {"rope_type": "default"}
    yield gemma("flat rope_parameters", F, "config_value", rope_parameters=flat, rope_scaling=flat)
    yield gemma("local theta 0", F, "config_value", rope_local_base_freq=0)
    per_type = {
        local: {"rope_theta": 1e4},
        everything: {"rope_type": "linear", "factor": 0, "rope_theta": 1e6},
    }
    yield gemma("global factor 0", F, "config_value", rope_parameters=per_type)
    yield gemma("without its tensors", F, "tensor_missing", layer_types=[local, everything])

    def bert(name: str, error: Any, code: str, **changes: Any) -> Case:
        return Case("CF-03", f"bert {name}", folder(config=BERT | changes), error, code)

    yield bert("without its tensors", F, "tensor_missing")
    yield bert("relative positions", U, "config_unsupported", position_embedding_type="relative_key")
    yield bert("decoder", U, "config_unsupported", is_decoder=True)
    yield bert("activation", U, "config_unsupported", hidden_act="prelu")
    yield bert("types 0", F, "config_value", type_vocab_size=0)
    yield bert("eps 0", F, "config_value", layer_norm_eps=0)
    twice = st_file(
        st_header({"embeddings.LayerNorm.weight": [32], "bert.embeddings.LayerNorm.weight": [32]})
    )
    yield Case("ST-18", "one part by two names", folder(twice, BERT), F, "tensor_duplicate")


CASES = [
    case
    for group in (syntax, numbers, sizes, rope, names, generation, index, shard_names, companions, families)
    for case in group()
]
