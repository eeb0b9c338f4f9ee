"""Whole models and engines on the CUDA device, or on the CPU that plays it, against the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import property_schedules
from architecture_files import token_ids, write
from architecture_table import CASES, Case
from oracle.model_files import BUILT_IN
from reference_formats import encode_float
from tiny_core import How, build, built, encode, run, some_ids, tiny
from tiny_engine import codes, counted, counter, drain, make_engine, sampling
from tiny_files import SIZES
from tiny_models import TinyModel, Weight, tiny_bert, tiny_llama
from tiny_variants import tiny_experts
from tuili import LLM, InvalidParameterError, _core
from tuili.device import check_compute
from tuili.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineOutOfMemoryError,
    ModelIOError,
    ModelUnsupportedError,
)
from tuili.loading.model import LoadPlan, load, plan_model
from tuili.loading.store import resolve

HAS_DEVICE = _core.build_info()["cuda"] != "none"
on_device = pytest.mark.skipif(not HAS_DEVICE, reason="a build without CUDA; .ci/run tests an emulated one")

BF16 = 2.0**-8  # of a number, its largest rounding


def assert_close(result: np.ndarray, expected: np.ndarray, spec: _core.ModelSpec) -> None:
    """Within what roundings to bfloat16 may do, to first order.

    On the device the inputs of a layer's four groups of products, of the head's, and q, k, v and the
    probabilities are rounded, each by BF16 / 2 of its largest at most, in any direction. Products keep a
    vector's length and norms undo what they are given; so rows differ by a root of the number of roundings.
    Three times that is allowed, and seldom reached.
    """
    n_roundings = 8 * len(spec.layers) + 1
    length = np.sqrt((expected.astype(np.float64) ** 2).mean(axis=-1, keepdims=True))
    error = np.abs(result - expected) / length
    assert error.max() <= 3 * np.sqrt(n_roundings) * BF16, f"{error.max():.2e} of a row's length"


@pytest.mark.skipif(HAS_DEVICE, reason="a build with CUDA")
def test_a_build_without_cuda_says_so() -> None:
    with pytest.raises(InvalidParameterError, match="no CUDA") as failure:
        LLM("nothing", device="cuda")
    assert failure.value.code == "no_cuda" and failure.value.param == "device"
    assert _core.device_memory() is None
    with pytest.raises(InvalidParameterError, match="no CUDA"):
        _core.device_name()
    with pytest.raises(InvalidParameterError, match="no CUDA"):
        built("llama").upload()


def test_exact_products_are_refused_on_cuda() -> None:
    for compute, device in (("auto", "cuda"), ("float32", "cpu")):
        check_compute(compute, device)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="bfloat16") as failure:
        check_compute("float32", "cuda")
    assert failure.value.param == "compute"


@on_device
@pytest.mark.parametrize("kv_type", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("format", ["bf16", "q8_0", "q4_0"])
def test_logits_are_the_cpus(family: str, format: str, kv_type: str) -> None:
    ids = some_ids(40)
    on_cpu, there = built(family, format, "float32"), built(family, format, "float32", "cuda")
    assert there.device == "cuda" and there.n_parameters == on_cpu.n_parameters
    expected = run(on_cpu, ids, How(kv_type=kv_type))
    result = run(there, ids, How(kv_type=kv_type))
    assert_close(result.logits(), expected.logits(), on_cpu.spec)
    assert result.hidden_states()[0].shape == (40, on_cpu.spec.d_model)


@on_device
@pytest.mark.parametrize("format", ["bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", ["experts", "latent", "parallel"])
def test_logits_of_other_blocks_are_the_cpus(family: str, format: str) -> None:
    ids = some_ids(40)
    expected = run(built(family, format, "float32"), ids, How(kv_type="float16"))
    result = run(built(family, format, "float32", "cuda"), ids, How(kv_type="float16"))
    assert_close(result.logits(), expected.logits(), built(family, format, "float32").spec)


@on_device
def test_the_first_hidden_states_are_the_rows_of_the_table() -> None:
    ids = some_ids(9)
    result = run(built("llama", "bf16", device="cuda"), ids, How(kv_type="float16"))
    table = tiny("llama", "bf16").values()["token_embedding"]
    assert np.array_equal(result.hidden_states()[0], table[ids].astype(np.float32))


@on_device
@pytest.mark.parametrize(
    "family, format, kv_type, n",
    [
        ("gemma3", "bf16", "float16", 70),
        ("gemma3", "bf16", "float32", 20),
        ("experts", "bf16", "float16", 70),
        ("experts", "q4_0", "float16", 70),
        ("latent", "bf16", "float16", 70),
    ],
)
def test_chunks_and_blocks_change_no_bit(family: str, format: str, kv_type: str, n: int) -> None:
    ids = some_ids(n)
    model = built(family, format, device="cuda")
    expected = run(model, ids, How(kv_type=kv_type)).logits()
    for how in (How(kv_type=kv_type, chunk=17, block_size=16), How(kv_type=kv_type, chunk=1)):
        assert run(model, ids, how).logits().tobytes() == expected.tobytes()


@on_device
@pytest.mark.parametrize("format", ["bf16", "q8_0"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "weighted_mean"])
def test_vectors_are_the_cpus(format: str, pooling: str) -> None:
    texts = [some_ids(n, seed=n) for n in (5, 64, 1, 33)]
    on_cpu, there = (built("bert", format, "float32", device) for device in ("cpu", "cuda"))
    expected, _ = encode(on_cpu, texts, pooling)
    result, sequences = encode(there, texts, pooling)
    assert_close(result, expected, on_cpu.spec)
    assert sequences[1].hidden_states().shape[1] == 64
    for i, ids in enumerate(texts):
        assert encode(there, [ids], pooling)[0].tobytes() == result[i : i + 1].tobytes()


@on_device
@pytest.mark.parametrize("rows", ["all", "first", "mean"])
def test_a_task_head_answers_as_on_the_cpu(rows: str) -> None:
    random = np.random.default_rng(3)
    tiny_model = tiny_bert(format="bf16")
    tiny_model.spec["task_head"] = _core.TaskHead(
        n_out=5, rows=rows, d_inner=64, activation="tanh", norm=True
    )
    shapes = {"dense": (64, 64), "dense.bias": (64,), "norm": (64,), "norm.bias": (64,)}
    for name, shape in (shapes | {"out": (5, 64), "out.bias": (5,)}).items():
        values = random.standard_normal(shape).astype(np.float32) / (8 if len(shape) == 2 else 1)
        rows_of = encode_float("f32", np.atleast_2d(values))
        tiny_model.weights[f"task_head.{name}"] = Weight("f32", shape, rows_of)
    model = build(tiny_model)
    sequences = [_core.Sequence(some_ids(n, seed=n)) for n in (9, 33)]
    on_cpu, there = (_core.Runner(m, max_batch_tokens=64, num_threads=1) for m in (model, model.upload()))
    expected = on_cpu.answer(sequences)
    assert_close(there.answer(sequences), expected, model.spec)
    if rows == "all":
        some = there.answer(sequences, [[8, 0], [32]])
        assert some.tobytes() == there.answer(sequences)[[8, 0, 9 + 32]].tobytes()


def reshaped(model: TinyModel, layer: dict[str, object], shapes: dict[str, tuple[int, int]]) -> TinyModel:
    """The model with other sizes of its first layer: weights of 0."""
    model.spec["layers"] = [model.spec["layers"][0] | layer]
    for name, shape in shapes.items():
        model.weights[f"layers.0.{name}"] = Weight("f32", shape, encode_float("f32", np.zeros(shape)))
    return model


@on_device
def test_heads_that_no_kernel_reads_are_named() -> None:
    shapes = {"query": (4 * 264, 64), "key": (2 * 264, 64), "value": (2 * 264, 64), "output": (64, 4 * 264)}
    wide = reshaped(tiny_llama(format="bf16", n_layers=1), {"head_dim": 264, "rope": -1}, shapes)
    with pytest.raises(ModelUnsupportedError, match="layer 0 has heads of more than 256"):
        build(wide).upload()


@on_device
def test_experts_of_several_formats_are_refused() -> None:
    mixed = tiny_experts(format="bf16")
    mixed.weights["layers.1.experts.2.up"] = tiny_experts(format="q8_0").weights["layers.1.experts.2.up"]
    with pytest.raises(ModelUnsupportedError, match="experts of one layer are bf16 and q8_0"):
        build(mixed).upload()


@on_device
def test_a_cache_of_another_device_is_refused() -> None:
    model = built("llama", device="cuda")
    with pytest.raises(InvalidParameterError, match="one device"):
        _core.Runner(model, _core.KvCache(model.spec, 4, 32, "float16"))


@on_device
def test_a_cache_that_does_not_fit_is_an_error_at_once() -> None:
    model = built("llama", "bf16", device="cuda")
    n_blocks = (2**31 - 1) // 64
    assert n_blocks * _core.KvCache.block_bytes(model.spec, 32, "float16") > _core.device_memory()[1]
    with pytest.raises(EngineOutOfMemoryError, match="do not fit"):
        _core.KvCache(model.spec, n_blocks, 32, "float16", device="cuda")


def workspace_of(model: _core.Model, n_places: int, max_batch_tokens: int = 40) -> int:
    """Bytes of a runner with a cache of n_places."""
    cache = _core.KvCache(model.spec, -(-n_places // 32), 32, "float16", device=model.device)
    return _core.Runner(model, cache, max_batch_tokens=max_batch_tokens, max_seqs=8).workspace_bytes


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if HAS_DEVICE else [])])
@pytest.mark.parametrize("family", ["llama", "experts", "latent"])
def test_what_a_runner_takes_is_known_before_the_cache_is_made(family: str, device: str) -> None:
    model = built(family, "bf16" if family == "experts" else "f32", device=device)
    most = _core.Runner.most_workspace_bytes(model, max_batch_tokens=40, max_seqs=8)
    assert workspace_of(model, model.spec.max_positions) == most
    assert workspace_of(model, 32) <= most


@on_device
def test_a_row_of_a_small_vocabulary_has_room_for_its_own_tokens_alone() -> None:
    def bytes_of_a_row(n_vocab: int) -> float:
        small = tiny("llama")
        weights = dict(small.weights)
        for name in ("token_embedding", "head"):
            weight = weights[name]
            weights[name] = Weight(weight.format, (n_vocab, *weight.shape[1:]), weight.rows[:n_vocab])
        spec = small.spec | {"n_vocab": n_vocab}
        model = build(dataclasses.replace(small, spec=spec, weights=weights)).upload()
        return (workspace_of(model, 32, 4096) - workspace_of(model, 32, 2048)) / 2048

    logits, listed = 4 * (256 - 16), 8 * (256 - 16)
    assert bytes_of_a_row(256) - bytes_of_a_row(16) == pytest.approx(logits + listed, abs=1)


@on_device
def test_the_usual_cache_leaves_room_for_a_step(llama_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 64 full texts would need more than there is, of which a step needs a half."""
    options = {"device": "cuda", "packed_cache": False, "num_threads": 1}
    with LLM(llama_path, **options) as llm:
        step, texts = llm._runner.workspace_bytes, llm.config["kv_cache"]["bytes"]
    available = 2 * step
    assert 0.9 * available < texts
    monkeypatch.setattr("tuili._core.device_memory", lambda device: (available, available))
    with LLM(llama_path, **options) as llm:
        assert "nine tenths" in llm.config["kv_cache"]["why"]
        taken = llm._runner.workspace_bytes + llm.config["kv_cache"]["bytes"]
        assert 0.9 * available < taken <= available


@on_device
def test_a_step_of_more_elements_than_kernels_count_is_refused() -> None:
    d_ff = 2056
    shapes = {"gate": (d_ff, 64), "up": (d_ff, 64), "down": (64, d_ff)}
    wide = reshaped(tiny_llama(format="bf16", n_layers=1), {"d_ff": d_ff}, shapes)
    model = build(wide).upload()
    cache = _core.KvCache(model.spec, 4, 32, "float16", device="cuda")
    with pytest.raises(InvalidParameterError, match=f"at most {(2**31 - 1) // d_ff}"):
        _core.Runner(model, cache, max_batch_tokens=1 << 20)


@on_device
def test_a_step_of_more_pairs_than_one_kernel_turns_is_refused() -> None:
    """64 heads of 16: 1,024 numbers of queries per token, and 2,048 that are turned or written."""
    shapes = dict.fromkeys(("query", "key", "value"), (1024, 64)) | {"output": (64, 1024)}
    wide = reshaped(tiny_llama(format="bf16", n_layers=1), {"n_heads": 64, "n_kv_heads": 64}, shapes)
    model = build(wide).upload()
    cache = _core.KvCache(model.spec, 4, 32, "float16", device="cuda")
    with pytest.raises(InvalidParameterError, match="of 2048 numbers per token a step on cuda has at most"):
        _core.Runner(model, cache, max_batch_tokens=1 << 20)


@on_device
def test_an_engine_counts() -> None:
    """The counting model's answers leave no room for rounding."""
    model = build(counter()).upload()
    engine = make_engine(model=model, kv_type="float16", n_blocks=12)
    handles = [engine.submit(codes(prompt), sampling(max_tokens=20)) for prompt in ("a", "hello A", "0")]
    drain(engine)
    texts = [handle.result(timeout=0).outputs[0].text for handle in handles]
    assert texts == [counted(prompt, 20) for prompt in ("a", "A", "0")]


@on_device
def test_a_lost_device_ends_the_engine_once() -> None:
    engine = make_engine(model=built("llama", "bf16", device="cuda"), kv_type="float16", n_blocks=12)
    handles = [engine.submit(codes(prompt), sampling(max_tokens=9)) for prompt in ("a", "b")]

    class Lost:
        def __getattr__(self, name: str) -> object:
            raise EngineDeadError("attention: CUDA reports cudaErrorIllegalAddress")

    engine._runner = Lost()  # type: ignore[assignment]
    engine.step()
    for handle in handles:
        with pytest.raises(EngineDeadError, match="IllegalAddress"):
            handle.result(timeout=0)
    with pytest.raises(EngineClosedError):
        engine.submit(codes("a"), sampling(max_tokens=1))


@on_device
def test_an_llm_on_the_device(llama_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = llama_path, {**SIZES, "max_num_seqs": 4}
    with LLM(path, device="cuda", packed_cache=False, **options) as llm:
        assert llm.config["device"] == "cuda" and llm.memory["weights"] == llm._model.weight_bytes
        prompts = ["the cat", "the answer is", "a dog and the cat sat"]
        together = llm.generate(prompts, max_tokens=6, temperature=0)
        alone = [llm.generate(prompt, max_tokens=6, temperature=0) for prompt in prompts]
        assert [out.outputs[0].token_ids for out in together] == [out.outputs[0].token_ids for out in alone]
        drawn = {"max_tokens": 6, "temperature": 1.0, "seed": 3}
        cut = {"top_k": 40, "top_p": 0.9, "min_p": 0.01}
        for filters in ({"top_k": 300}, {"min_p": 0.2}, {"top_k": 5}, {"top_p": 0.7}, cut):
            by_host = llm.generate(prompts[0], logprobs=1, **drawn, **filters)
            there = llm.generate(prompts[0], **drawn, **filters)
            assert there.outputs[0].token_ids == by_host.outputs[0].token_ids
        prefix = llm.save_prefix(list(range(40)))
        assert llm.score(list(range(40))).shape == (39,)
    wrong = pytest.raises(InvalidParameterError, match="other weights or settings")
    with LLM(path, packed_cache=False, **options) as on_cpu, wrong:
        on_cpu.load_prefix(prefix)
    monkeypatch.setattr("tuili.llm.named", lambda device: f"{device}: of another make")
    with LLM(path, device="cuda", packed_cache=False, **options) as elsewhere, wrong:
        elsewhere.load_prefix(prefix)
    exact = {"device": "cuda", "kv_cache_dtype": "float32", "packed_cache": False}
    with LLM(path, **exact, **options) as llm, pytest.raises(InvalidParameterError, match="other weights"):
        assert llm.generate(prompts[0], max_tokens=3, temperature=0).outputs[0].token_ids
        llm.load_prefix(prefix)  # of another type
    with pytest.raises(InvalidParameterError, match="compute"):
        LLM(path, device="cuda", compute="float32", **options)


@on_device
def test_an_encoder_on_the_device(bert_path: Path) -> None:
    options = {"packed_cache": False}
    with LLM(bert_path, device="cuda", **options) as there, LLM(bert_path, **options) as on_cpu:
        vectors = there.embed(["the cat", "a dog sat"])
        assert_close(vectors, on_cpu.embed(["the cat", "a dog sat"]), there.loaded.spec)


@on_device
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_architecture_runs(case: Case, tmp_path: Path) -> None:
    """Rounding the weights of a model once shows how much roundings move its logits. The device rounds the
    same weights, and eight times in a layer what they meet: no more than six times as much is allowed. Where
    two experts' scores lie closer than that a row may go to the other: with experts most rows count, not all.
    """
    folder, ids = write(case, tmp_path), np.array(token_ids(), np.int32)
    exact, model = (
        load(plan_model(folder, dtype=dtype, compute="float32", max_model_len=len(ids))).model
        for dtype in ("float32", "bfloat16")
    )

    def outputs(model: _core.Model) -> np.ndarray:
        if model.spec.kind == "encoder":
            return encode(model, [ids])[0]
        return run(model, ids, How(kv_type="float16")).logits()

    def apart(model: _core.Model) -> float:
        of_rows = np.abs(outputs(model) - expected).max(axis=-1)
        return float(np.median(of_rows) if has_experts else of_rows.max())

    expected, has_experts = outputs(model), any(layer.moe.n_experts for layer in model.spec.layers)
    assert apart(exact.upload()) <= 6 * apart(exact)


def first_layers(plan: LoadPlan, n: int) -> LoadPlan:
    """The same model without the layers behind the first n."""
    spec = plan.spec
    shorter = _core.ModelSpec(
        kind=spec.kind,
        n_vocab=spec.n_vocab,
        d_model=spec.d_model,
        max_positions=spec.max_positions,
        layers=spec.layers[:n],
        ropes=spec.ropes,
        norm=spec.norm,
        norm_eps=spec.norm_eps,
        tied_head=spec.tied_head,
    )
    wanted = {name for name, _ in _core.ModelBuilder(shorter).expected()}
    tensors = [tensor for tensor in plan.tensors if tensor.name in wanted]
    return dataclasses.replace(plan, spec=shorter, tensors=tensors)


@on_device
@pytest.mark.slow
@pytest.mark.models
def test_the_first_layers_of_smollm2_are_the_cpus() -> None:
    try:
        path = resolve(BUILT_IN["smollm2"], None)
    except ModelIOError as error:
        pytest.skip(str(error))
    model = load(first_layers(plan_model(path, compute="float32"), 2)).model
    ids = some_ids(6, n_vocab=model.spec.n_vocab)
    how = How(kv_type="float16")
    assert_close(run(model.upload(), ids, how).logits(), run(model, ids, how).logits(), model.spec)


@on_device
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_random_schedule_changes_no_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(property_schedules, "device", "cuda")
    property_schedules.alone.cache_clear()
    property_schedules.check(seed)
