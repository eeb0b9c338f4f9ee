"""Tiny decoders and encoders: every tensor against the float64 reference, and equal bits however run."""

from __future__ import annotations

import ast
import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

import reference
from reference_formats import BLOCKS, QUANTIZED_FORMATS
from tiny_core import How, built, core_spec, encode, run, some_ids, tiny
from tiny_variants import VARIANTS
from tuili import _core
from tuili.errors import InvalidParameterError, ModelFormatError

DECODERS = ("llama", "gemma3")


def relative_errors(sequence: _core.Sequence, expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest |difference| over the largest |expected| of each tensor, in the order of computation."""
    states = sequence.hidden_states()
    n_layers = len(states) - 1
    got = {f"hidden.{i}": states[i] for i in range(n_layers)} | {"final": states[n_layers]}
    if "logits" in expected:
        got["logits"] = sequence.logits()
    errors = {}
    for name, value in got.items():
        assert value.shape == expected[name].shape, (
            f"{name}: shape {value.shape}, expected {expected[name].shape}"
        )
        errors[name] = float(abs(value - expected[name]).max() / abs(expected[name]).max())
    return errors


def assert_close(errors: dict[str, float], limit: float) -> None:
    """The first tensor that is off is the one to look at; those after it only inherit the error."""
    wrong = [name for name, error in errors.items() if not error <= limit]
    table = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    assert not wrong, f"first difference above {limit:.0e} in {wrong[0]}: {table}"


# Rounding: some hundred float32 operations deep, each within 2^-24, growing with the square root: 80 · 2^-24.
FLOAT_LIMIT = 5e-6
# int8 activations: half a step of 1/127 of the largest of 32 values, in every one of the matrices of a layer.
INT8_LIMIT = 0.05


@functools.cache
def expected_of(family: str, format: str, n_tokens: int) -> dict[str, np.ndarray]:
    model = tiny(family, format)
    return reference.forward(core_spec(model), model.values(), some_ids(n_tokens))


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("format", BLOCKS)
def test_decoder_in_float32_equals_the_reference(family, format):
    sequence = run(built(family, format, "float32"), some_ids(37))
    assert_close(relative_errors(sequence, expected_of(family, format, 37)), FLOAT_LIMIT)


@pytest.mark.parametrize("format", ["f32", "bf16", "q4_0", "q6_k"])
@pytest.mark.parametrize("family", VARIANTS)
def test_variants_in_float32_equal_the_reference(family, format):
    ids = some_ids(70)
    model = tiny(family, format)
    expected = reference.forward(core_spec(model), model.values(), ids)
    assert_close(relative_errors(run(built(family, format, "float32"), ids), expected), FLOAT_LIMIT)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
def test_decoder_with_int8_activations_stays_near_the_reference(family, format):
    sequence = run(built(family, format, "auto"), some_ids(37))
    assert_close(relative_errors(sequence, expected_of(family, format, 37)), INT8_LIMIT)


@pytest.mark.parametrize("family", DECODERS)
def test_long_prompts_cross_tiles_and_splits(family):
    """Tiles of 64 keys, splits of 512: 600 tokens have two splits and a tail."""
    ids = some_ids(600)
    model = tiny(family)
    expected = reference.forward(core_spec(model), model.values(), ids)
    assert_close(relative_errors(run(built(family), ids, How(chunk=256)), expected), FLOAT_LIMIT)


def test_tied_head_reads_the_embedding():
    ids = some_ids(9)
    model = tiny("llama", tied=True)
    expected = reference.forward(core_spec(model), model.values(), ids)
    assert_close(relative_errors(run(built("llama", tied=True), ids), expected), FLOAT_LIMIT)


@pytest.mark.parametrize("kv_type, unit", [("float16", 2.0**-11), ("bfloat16", 2.0**-8), ("int8", 2.0**-7)])
def test_narrow_kv_cache_stays_near_the_reference(kv_type, unit):
    """Keys and values rounded once, to within a unit of the narrow type."""
    sequence = run(built("llama"), some_ids(70), How(kv_type=kv_type))
    assert_close(relative_errors(sequence, expected_of("llama", "f32", 70)), unit)


LENGTHS = (1, 2, 31, 32, 33, 64)


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
def test_encoder_equals_the_reference(format):
    model = tiny("bert", format)
    texts = [some_ids(n, seed=n) for n in LENGTHS]
    _, sequences = encode(built("bert", format), texts)
    for ids, sequence in zip(texts, sequences, strict=True):
        expected = reference.forward(core_spec(model), model.values(), ids)
        assert_close(relative_errors(sequence, expected), FLOAT_LIMIT)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_equals_the_reference(pooling, normalize):
    model = tiny("bert")
    texts = [some_ids(n, seed=n) for n in LENGTHS]
    vectors, _ = encode(built("bert"), texts, pooling, normalize)
    for ids, got in zip(texts, vectors, strict=True):
        final = reference.forward(core_spec(model), model.values(), ids)["final"]
        want = {"mean": final.mean(axis=0), "cls": final[0], "last": final[-1]}[pooling]
        want = want / np.linalg.norm(want) if normalize else want
        assert abs(got - want).max() <= FLOAT_LIMIT * abs(want).max()


# ---- the same bits however it is run

BITS = [
    ("llama", "f32"),
    ("llama", "q4_0"),
    ("llama", "q4_k"),
    ("gemma3", "f32"),
    ("gemma3", "q6_k"),
    ("gemma3", "q5_1"),
    ("parallel", "f32"),
    ("parallel", "q8_0"),
    ("experts", "f32"),
    ("experts", "q4_0"),
    ("experts", "q4_k"),
    ("latent", "f32"),
    ("latent", "q4_0"),
]


@functools.cache
def generic_run(family: str, format: str) -> _core.Sequence:
    return run(built(family, format), some_ids(75), How(isa="generic"))


@functools.cache
def plain_run(family: str, format: str) -> _core.Sequence:
    return run(built(family, format), some_ids(75))


def assert_same_bits(a: _core.Sequence, b: _core.Sequence) -> None:
    for x, y in zip(a.hidden_states(), b.hidden_states(), strict=True):
        assert x.tobytes() == y.tobytes()
    assert a.logits().tobytes() == b.logits().tobytes()


@pytest.mark.parametrize("family, format", BITS)
@pytest.mark.parametrize(
    "how",
    [
        How(chunk=1),
        How(chunk=7),
        How(chunk=64),
        How(num_threads=2),
        How(block_size=16),
        How(block_size=64, chunk=33),
    ],
    ids=str,
)
def test_bits_do_not_depend_on_how_it_is_run(family, format, how):
    assert_same_bits(run(built(family, format), some_ids(75), how), plain_run(family, format))


@pytest.mark.parametrize("family, format", BITS)
def test_bits_do_not_depend_on_the_isa(family, format, isa):
    """Nor on the run, of the generic table."""
    assert_same_bits(run(built(family, format), some_ids(75), How(isa=isa)), generic_run(family, format))


def test_decoders_alone_keep_outliers_unless_told():
    ids = some_ids(20)
    vectors = {how: encode(built("bert", "q8_0", how), [ids], "mean", True)[0] for how in ("auto", "int8")}
    assert np.array_equal(vectors["auto"], vectors["int8"])
    logits = {how: run(built("llama", "q8_0", how), ids).logits() for how in ("auto", "int8", "float32")}
    assert not np.array_equal(logits["auto"], logits["int8"])
    error = abs(logits["int8"] - logits["float32"]).max() / abs(logits["float32"]).max()
    assert error <= INT8_LIMIT


def test_encoder_bits_do_not_depend_on_batch_isa_or_threads(isa):
    texts = [some_ids(n, seed=n) for n in LENGTHS]
    together, _ = encode(built("bert"), texts, how=How(isa=isa, num_threads=2))
    for ids, vector in zip(texts, together, strict=True):
        alone, _ = encode(built("bert"), [ids], how=How(isa="generic"))
        assert vector.tobytes() == alone[0].tobytes()


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"n_experts": 2, "n_used": 1}, TypeError, "MoeSpec: the argument d_ff is missing"),
        ({"n_experts": 2, "n_used": 1, "d_ff": 8, "ff": 8}, TypeError, "MoeSpec has no argument 'ff'"),
        ({"n_experts": "2", "n_used": 1, "d_ff": 8}, TypeError, "MoeSpec: n_experts cannot be '2'"),
        (
            {"n_experts": 2, "n_used": 1, "d_ff": 8, "scoring": "max"},
            InvalidParameterError,
            'scoring must be one of "softmax", "sigmoid", "near_best", not "max"',
        ),
    ],
)
def test_a_specs_errors_name_the_field_and_what_was_found(fields, error, text):
    with pytest.raises(error) as raised:
        _core.MoeSpec(**fields)
    assert str(raised.value) == text


@pytest.mark.parametrize(
    ("family", "head", "said"),
    [
        ("llama", {"n_out": 2}, "a decoder has no task head"),
        ("llama", {"n_out": 0, "d_inner": 48}, "task_head.d_inner is 48 without n_out"),
        ("bert", {"n_out": 0, "d_inner": 64}, "only a decoder's head reads it"),
    ],
)
def test_what_stands_before_a_decoders_head_fits_it(family, head, said):
    model = tiny(family)
    wrong = dataclasses.replace(model, spec=model.spec | {"task_head": _core.TaskHead(**head)})
    with pytest.raises(ModelFormatError, match=said):
        core_spec(wrong)


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("bert", {"position_offset": 1}, "learned positions"),
        ("llama", {"padding_id": -2}, "padding_id must be in"),
        ("llama", {"padding_id": 3}, "has the row before that of position 0"),
    ],
)
def test_rows_of_positions_are_in_their_table(family, fields, said):
    model = tiny(family)
    with pytest.raises(ModelFormatError, match=said):
        core_spec(dataclasses.replace(model, spec=model.spec | fields))


def test_a_layer_shares_weights_with_one_of_its_kind():
    model = tiny("llama")
    first, second, *rest = model.spec["layers"]
    layers = [first, second | {"weights_of": 0, "d_ff": second["d_ff"] + 1}, *rest]
    with pytest.raises(ModelFormatError, match="a layer of another kind"):
        core_spec(dataclasses.replace(model, spec=model.spec | {"layers": layers}))


def test_values_turn_as_keys_do_or_not_at_all():
    model = tiny("bert")
    layers = [layer | {"rope": -1, "rope_values": True} for layer in model.spec["layers"]]
    with pytest.raises(ModelFormatError, match=r"layers\[0\]\.rope_values needs a rope"):
        core_spec(dataclasses.replace(model, spec=model.spec | {"layers": layers}))


def test_what_only_one_way_of_scoring_reads_needs_it():
    model = tiny("experts")
    layers = [layer | {"moe": layer["moe"] | {"near": 0.5}} for layer in model.spec["layers"]]
    with pytest.raises(ModelFormatError, match=r"layers\[0\]\.moe\.near needs near_best"):
        core_spec(dataclasses.replace(model, spec=model.spec | {"layers": layers}))


def test_a_norm_before_positions_is_the_embeddings_own():
    model = tiny("llama")
    with pytest.raises(ModelFormatError, match="norm_before_positions without embedding_norm"):
        core_spec(dataclasses.replace(model, spec=model.spec | {"norm_before_positions": True}))


@pytest.mark.parametrize("n_rows", [-1000, 1, 2**61])
def test_a_table_without_distances_has_no_rows(n_rows):
    model = tiny("bert")
    distances = _core.DistanceSpec(places=[], n_rows=n_rows, keys=False, queries=False)
    with pytest.raises(ModelFormatError, match=rf"distances\.n_rows must be in \[0, 0\], not {n_rows}"):
        core_spec(dataclasses.replace(model, spec=model.spec | {"distances": distances}))


def test_what_reads_a_source_has_layers_that_do():
    encoder = core_spec(tiny("bert"))
    fields = {"n_vocab": 300, "d_model": encoder.d_model, "max_positions": 64, "has_head": False, "ropes": []}
    with pytest.raises(ModelFormatError, match=r"n_layers must be in \[1, 1024\], not 0"):
        _core.ModelSpec(kind="encoder", norm="layer", layers=[], encoder=encoder, **fields)


def stubs_of_specs():
    tree = ast.parse((Path(_core.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))
    classes = [part for part in tree.body if isinstance(part, ast.ClassDef)]
    return [part for part in classes if [ast.unparse(d) for d in part.decorator_list] == ["_spec"]]


def default(node):
    """What a default is to the core: floats have 32 bits, and there are no tuples."""
    if node is None:
        return "needed"
    value = ast.literal_eval(node)
    return float(np.float32(value)) if isinstance(value, float) else list(value) if value == () else value


@pytest.mark.parametrize("stub", stubs_of_specs(), ids=lambda stub: stub.name)
def test_a_specs_stub_has_the_fields_and_defaults_of_the_core(stub):
    lines = [line for line in stub.body if isinstance(line, ast.AnnAssign)]
    signature = getattr(_core, stub.name).__init__.__doc__.strip().splitlines()[-1]
    core = ast.parse(f"def {signature}: ...").body[0].args
    assert [(line.target.id, default(line.value)) for line in lines] == [
        (name.arg, default(value)) for name, value in zip(core.kwonlyargs, core.kw_defaults, strict=True)
    ]
