"""The C++ core. Everything here checks shapes, dtypes and ranges, raises tuili's errors, and releases the GIL
while it computes. Sizes are in elements unless a name says bytes."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as PySequence
from typing import Literal, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
f32 = NDArray[np.float32]
i32 = NDArray[np.int32]
u16 = NDArray[np.uint16]
u32 = NDArray[np.uint32]
NormPlacement = Literal["pre", "post", "sandwich", "branch", "normed_residual", "parallel", "parallel_two"]
Device = str  # "cpu", "cuda" (the first one) or "cuda:N"; single ops take the first two
QkNorm = Literal["none", "heads", "rotated", "whole", "layer"]
Activation = Literal[
    "silu",
    "gelu",
    "gelu_tanh",
    "relu",
    "quick_gelu",
    "relu_squared",
    "relu6",
    "leaky_relu",
    "hardswish",
    "mish",
    "sigmoid",
    "tanh",
    "identity",
]
ModelKind = Literal["decoder", "encoder", "encoder-decoder"]

__version__: str
MAX_THREADS: int  # that may be asked for
# What a ModelSpec may have at most.
MAX_LAYERS: int
MAX_VOCAB: int
MAX_MODEL: int
MAX_INNER: int
MAX_HEADS: int
MAX_HEAD_DIM: int
MAX_EXPERTS: int
MAX_POSITIONS: int
PACKED_LAYOUT_VERSION: int  # of base/packed.h: files of packed weights with another one cannot be used
KV_LAYOUT_VERSION: int  # of runtime/kv_cache.h: saved prefixes with another one cannot be used
NOTHING_ALLOWED: int  # in place of a token: the parameters leave none; -1: the logits are not numbers
DEFERRED: int  # in place of a token: the caller chooses it, see Runner.sample and Sequence.candidates

def available_isas() -> list[str]:
    """Of "avx512", "avxvnni", "avx2", "neon" and "generic" those that run on this CPU, best first."""

def build_info() -> dict[str, str]:
    """compiler, cuda ("none" | "cuda" | "emulated"), isas compiled in, default isa."""

def device_count() -> int:
    """How many CUDA devices answer. Starts the driver."""

def device_memory(device: Device = "cuda") -> tuple[int, int] | None:
    """Bytes free and in all of a CUDA device; None if none answers. Starts the driver."""

def device_name(device: Device = "cuda") -> str:
    """What a CUDA device is called; InvalidParameterError where it is not there."""

def default_num_threads() -> int:
    """CPUs in the affinity mask, bounded by the cgroup's quota; TUILI_NUM_THREADS overrides."""

def missing_threads() -> int:
    """How many threads the system refused the core, which goes on with fewer."""

@dataclass_transform(kw_only_default=True, frozen_default=True)
def _spec(cls: type[T]) -> type[T]:
    """A struct of the core as data: csrc/model/spec.h says what each field means, unless another is named."""

@_spec
class RopeSpec:
    inv_freq: PySequence[float]
    scale: float = 1.0
    interleaved: bool = False

@_spec
class PositionBias:
    """values [n_heads, size]."""

    values: f32
    origin: int
    relative: bool
    buckets: PySequence[int] = ()
    n_buckets: int = 0

@_spec
class MoeSpec:
    n_experts: int
    n_used: int
    d_ff: int
    scoring: Literal["softmax", "sigmoid", "near_best"] = "softmax"
    near: float = 0.0
    normalize: bool = False
    scale: float = 1.0
    n_groups: int = 1
    n_groups_used: int = 1
    group_top: int = 1
    router_bias: bool = False
    selection_bias: bool = False
    d_ff_shared: int = 0
    shared_gate: bool = False
    clamp: float = 0.0
    steepness: float = 1.0

@_spec
class LatentSpec:
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    query_rank: int = 0
    norm_eps: float = 1e-06

@_spec
class DistanceSpec:
    """places: of the distances 1 - max_positions .. max_positions - 1."""

    places: PySequence[int]
    n_rows: int
    keys: bool
    queries: bool
    shared: bool = False
    norm: bool = False

@_spec
class ConvolutionSpec:
    n_taps: int
    activation: Activation = "tanh"

@_spec
class Xielu:
    alpha_p: float
    alpha_n: float
    beta: float

@_spec
class LayerSpec:
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    norm_placement: NormPlacement = "pre"
    attention_norm: bool = True
    activation: Activation = "silu"
    xielu: Xielu = ...
    gated: bool = True
    qk_norm: QkNorm = "none"
    qkv_clip: float = 0.0
    rope: int = -1
    rope_values: bool = False
    position_bias: int = -1
    causal: bool = True
    sliding_window: int = 0
    attention_scale: float = 0.0
    score_softcap: float = 0.0
    attention_gate: bool = False
    sinks: bool = False
    residual_scale: float = 1.0
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    moe: MoeSpec = ...
    latent: LatentSpec = ...
    cross_attention: bool = False
    weights_of: int = -1

@_spec
class TaskHead:
    """out(norm(activation(dense(x)))) of final hidden states; n_out 0: there is none, or a decoder's
    head in the place of out."""

    n_out: int
    rows: Literal["all", "first", "last", "mean"] = "all"
    d_inner: int = 0
    dense_bias: bool = True
    activation: Activation | Literal["none"] = "none"
    norm: bool = False
    out_bias: bool = True
    tied: bool = False

@_spec
class ModelSpec:
    """encoder: of an encoder-decoder; its shares_embedding says that it looks tokens up in the decoder's.
    Fields that disagree raise ModelFormatError, which names the first."""

    kind: ModelKind
    n_vocab: int
    d_model: int
    max_positions: int
    layers: PySequence[LayerSpec]
    ropes: PySequence[RopeSpec] = ()
    position_biases: PySequence[PositionBias] = ()
    d_embedding: int = 0
    embedding_scale: float = 1.0
    n_positions_learned: int = 0
    position_offset: int = 0
    padding_id: int = -1
    n_token_types: int = 0
    embedding_norm: bool = False
    norm_before_positions: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-05
    final_norm: bool = True
    has_head: bool = True
    tied_head: bool = False
    head_bias: bool = False
    logit_softcap: float = 0.0
    logit_scale: float = 1.0
    project_last: bool = False
    norm_projected: bool = False
    task_head: TaskHead = ...
    encoder: ModelSpec | None = None
    shares_embedding: bool = False
    distances: DistanceSpec = ...
    convolution: ConvolutionSpec = ...
    def without_words(self, task_head: TaskHead = ..., *, causal: bool = True) -> ModelSpec:
        """A decoder's layers as an encoder, with a task head or none in place of the head for words.

        causal  False: every token sees those behind it, too
        """

Format = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"]

class ModelBuilder:
    def __init__(
        self, spec: ModelSpec, *, compute: Literal["auto", "int8", "float32"] = "auto", num_threads: int = 0
    ) -> None:
        """Allocates nothing until `add`. num_threads 0: the default."""
    def expected(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor the spec needs, in layer order."""
    def add(self, name: str, format: Format, shape: PySequence[int], data: NDArray[np.uint8]) -> None:
        """Checks the shape against the spec and packs. data: the rows in the format's own encoding,
        C-contiguous. Vectors (norms, biases, and the position and token type tables) must be f32, f16 or
        bf16."""
    def map(self, fd: int, n_bytes: int) -> None:
        """Maps a file of exactly n_bytes for `place`; fd may be closed afterwards. The file must never be
        truncated while the model lives."""
    def place(self, name: str, format: Format, begin: int, n_bytes: int) -> None:
        """In place of `add`: the tensor's packed bytes are these of the mapped file. Raises ModelFormatError
        unless they are in the file, aligned to 64, and as many as shape and format take."""
    def finish(self) -> Model:
        """Raises ModelFormatError naming the tensors that are missing."""

class Model:
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def screen_bytes(self) -> int:
        """Of those: the copy of a float head that greedy steps read instead of the head; 0 without one."""
    @property
    def device(self) -> Device: ...
    def upload(self, device: Device = "cuda", *, num_threads: int = 0) -> Model:
        """A copy in a device's memory, for a Runner; it has no packed_tensors. Float matrices are rounded to
        bfloat16. Raises ModelUnsupportedError naming what has no kernel, EngineOutOfMemoryError."""
    def packed_tensors(self) -> list[tuple[str, Format, NDArray[np.uint8]]]:
        """Name, format and packed bytes (read-only, not copied) of every tensor, in the order they came."""
    def mapped_range(self, begin: int, n_bytes: int) -> NDArray[np.uint8]:
        """Bytes of the file that the model is mapped from (read-only, not copied)."""

@_spec
class SamplingParams:
    """Resolved parameters of one sequence (runtime/sequence.h); generation/params.py validates them."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    source_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    source_ngram_size: int = 0
    seed: int = 0
    logit_bias: PySequence[tuple[int, float]] = ()
    sequence_bias: PySequence[tuple[PySequence[int], float]] = ()
    allowed_token_ids: PySequence[int] = ()
    bad_words: PySequence[PySequence[int]] = ()
    not_first: PySequence[int] = ()
    ending: PySequence[int] = ()
    min_tokens: int = 0
    ending_growth: float = 1.0
    ending_from: int = 0
    forced_first: int = -1
    forced_last: PySequence[int] = ()
    n_before_last: int = -1
    n_logprobs: int = -1
    n_candidates: int = 0
    renormalize: bool = False

class Sequence:
    """One request's decoding state: tokens, KV block ids, how many tokens are computed."""

    def __init__(
        self,
        token_ids: i32,
        sampling: SamplingParams | None = None,
        *,
        salt: int = 0,
        token_type_ids: i32 | None = None,
        collect_logits: bool = False,
        collect_hidden: bool = False,
        prompt_logprobs: int = -1,
        stop_ids: PySequence[int] = (),
        max_tokens: int | None = None,
        prompt_lookup: int = 0,
        deferred: bool = False,
        source: i32 | None = None,
    ) -> None:
        """token_ids int32 [n_tokens >= 1]. source int32 [n >= 1]: what the encoder of an encoder-decoder
        reads, in the first step. collect_logits keeps the float32 logits of every row computed;
        collect_hidden the hidden states after the embedding and each layer; prompt_logprobs k >= 0 the
        log-probability of each prompt token after the first and the k best there. stop_ids end a Runner.run,
        and nothing else; so do max_tokens, of prompt and output together. prompt_lookup: in a run, up to so
        many tokens of a step are guessed. deferred: steps choose no token, Runner.sample does."""
    @property
    def n_prompt(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def n_computed(self) -> int: ...
    @property
    def n_source(self) -> int: ...
    @property
    def n_source_pending(self) -> int:
        """Tokens of the source if it is not encoded."""
    @property
    def n_blocks(self) -> int: ...
    @property
    def block_ids(self) -> list[int]: ...
    @property
    def source_block_ids(self) -> list[int]: ...
    @property
    def window_block_ids(self) -> list[list[int]]:
        """Per window of the pool: the ids of its blocks, -1 for those given back."""
    def token_ids(self, begin: int = 0) -> list[int]: ...
    def append_token(self, token_id: int) -> None:
        """Appends a token chosen outside the sampler."""
    def logits(self) -> f32:
        """A copy, [n_computed, n_vocab]; needs collect_logits."""
    def next_logits(self) -> f32:
        """A copy, [n_vocab]: what the next token of a deferred sequence is to be chosen from; empty when none
        is due. Of a beam log-probabilities."""
    def candidates(self) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
        """What a beam may go on with after the step that computed its last token: n_candidates tokens with
        their log-probability as the parameters changed it, likeliest first, and with the model's own; and the
        n_logprobs best under the latter."""
    def allow(self, mask: u32) -> None:
        """From now on the next token is one of those whose bit is set: bit id % 32 of word id / 32, in
        ceil(n_vocab / 32) words, copied. No word: all tokens. Comes before everything else in
        SamplingParams."""
    def hidden_states(self) -> f32:
        """A copy, [n_layers + 1, n_computed, d_model]; needs collect_hidden. Entry 0 is the embedding (after
        its norm and scale); entry n_layers is the last layer's output after the final norm, as in
        transformers."""
    def prompt_logprobs(self) -> list[tuple[float, list[tuple[int, float]]]]:
        """One entry per prompt token after the first: (log-probability, k best (id, log-probability)),
        nats."""

class BeamText:
    """A continuation that a search found."""

    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[tuple[float, list[tuple[int, float]]]]:
        """Per token under the model's own logits, and the n_logprobs best (id, log-probability)."""
    @property
    def score(self) -> float: ...
    @property
    def ended(self) -> bool:
        """By what the search asked."""

class BeamSearch:
    """Which continuations of a prompt go on, and which are the best: as transformers 5 has it, with float32
    scores, the sum of the log-probabilities / length ** length_penalty."""

    def __init__(
        self,
        width: int,
        ending: PySequence[int],
        max_tokens: int,
        *,
        length_penalty: float,
        early_stopping: bool | Literal["never"],
        may_end: bool = False,
    ) -> None:
        """width: beams that go on. ending: ids that finish a continuation, as max_tokens does; may_end:
        something else does, too. early_stopping True: `width` finished continuations end the search. False:
        it ends when the best beam, as long as it is now, scores no more than the worst of them; "never": or
        as long as it may become, where that is better."""
    @property
    def n_candidates(self) -> int:
        """Tokens to look at of each beam."""
    @property
    def begun(self) -> bool: ...
    @property
    def done(self) -> bool: ...
    def advance(
        self,
        candidates: PySequence[tuple[PySequence[tuple[int, float, float]], PySequence[tuple[int, float]]]],
        ends: Callable[[int, int], bool] | None = None,
    ) -> list[int]:
        """Takes a step; returns which of the beams before it each of the running ones continues. candidates:
        per running beam what Sequence.candidates has. ends: whether a token finishes the continuation of a
        beam, by its number, for another reason; asked in the order of their rank, as long as it matters."""
    def best(self, n: int) -> list[BeamText]:
        """The n best so far: finished ones, then those that still run; fewer if there are."""

class BeamRows:
    """A search on sequences of one prompt, as many as it has beams: see Runner.advance_beams. The first
    computes the prompt, and the others follow it in the first step."""

    def __init__(self, search: BeamSearch, sequences: PySequence[Sequence]) -> None: ...
    @property
    def ready(self) -> bool:
        """Whether all tokens of all sequences are computed."""
    @property
    def moves(self) -> list[tuple[int, int, int, bool]]:
        """Per running beam after the last step the beam before it that it continues, the place of the
        sequence that it is in, its last token, and whether it is one or only holds a place. Empty if the step
        ended the search."""
    def check(self) -> None:
        """Raises, once, what went wrong in the last step."""

class WindowState:
    """The blocks of a pool for the layers with one sliding window."""

    @property
    def window(self) -> int: ...
    @property
    def span(self) -> int:
        """Blocks that a sequence needs at once at most."""
    @property
    def n_blocks(self) -> int: ...
    @property
    def n_free(self) -> int: ...
    @property
    def n_cached(self) -> int: ...
    @property
    def n_evictions(self) -> int: ...

class BlockPool:
    """Ids of KV blocks and who holds them. Knows no tensors. All or nothing; never throws for want of
    blocks. Cached blocks are given away oldest first; a salt that has more than half of all blocks, held or
    cached, gives up its own before those of others. In the area of a sliding window sequences hold only what
    tokens to come may see; its blocks are found with those for all keys, of which n_blocks, n_free … tell."""

    def __init__(
        self,
        n_blocks: int,
        block_size: int = 32,
        *,
        prefix_cache: bool = True,
        key: int = 0,
        hash_mask: int = 0xFFFFFFFFFFFFFFFF,
        windows: Mapping[int, int] = ...,
        step_tokens: int = 512,
    ) -> None:
        """key: secret of the prefix hash; 0 draws one. hash_mask: tests set 0, so that every prefix
        collides. windows: number of blocks by window, as the cache has them. step_tokens: a step computes no
        more of one sequence."""
    @property
    def n_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def n_free(self) -> int:
        """Blocks that `take` can give: unused ones and cached ones that nobody holds."""
    @property
    def n_cached(self) -> int:
        """Findable blocks that nobody holds."""
    @property
    def n_hits(self) -> int: ...
    @property
    def n_evictions(self) -> int: ...
    @property
    def n_spared(self) -> int:
        """Evictions in which a salt with more than half of all blocks gave up its own in place of an older
        one of another salt."""
    @property
    def n_salts(self) -> int:
        """Salts that have blocks, held or cached."""
    @property
    def least_free(self) -> int:
        """The smallest n_free of all areas."""
    @property
    def windows(self) -> list[WindowState]:
        """The shortest first."""
    @staticmethod
    def window_span(window: int, block_size: int, step_tokens: int) -> int:
        """Blocks of a window that a sequence needs at once at most."""
    def attach_prefix(self, sequence: Sequence) -> int:
        """Shares the longest cached prefix of whole blocks that leaves at least one token to compute; the
        sequence must hold no block. Sets n_computed and returns it. 0 for a sequence that collects rows: they
        must be computed."""
    def attach_chain(self, sequence: Sequence, n_tokens: int) -> int:
        """The same, of n_tokens at most, without the blocks of windows: nothing can be computed on it."""
    def fork(
        self, child: Sequence, parent: Sequence, n_tokens: int
    ) -> tuple[list[int], list[int], tuple[int, int]] | None:
        """Lets child, which holds no blocks, begin with n_tokens that parent has computed, without a copy of
        whole blocks. Returns (from, to, tokens) for Runner.copy_block at once, equal ids where there is
        nothing to copy; None, and nothing has changed, if no block is free, or parent has given back what
        child would see."""
    def follow(
        self, child: Sequence, parent: Sequence, token_id: int
    ) -> tuple[list[int], list[int], tuple[int, int]] | None:
        """Makes child, of the same prompt and source, what parent has computed and token_id; what they have
        in common stays. Otherwise as fork; but after None child holds nothing."""
    def share_source(self, child: Sequence, parent: Sequence) -> None:
        """Lets child read the source's keys and values that parent, with the same source, has. Nothing
        happens if child holds a source's blocks, or parent's are not computed."""
    def grow(self, sequence: Sequence, n_tokens: int, *, position: int | None = None) -> bool:
        """Gives the sequence blocks for n_tokens in all; False (and nothing taken) if there are too few. Of a
        window's: takes back what tokens from position (None: n_computed) on do not see, and gives only what a
        step there reads or fills."""
    def grow_decoding(self, sequences: PySequence[Sequence]) -> list[int] | None:
        """Grows those whose only token to compute is one that they drew, and returns their places; None if
        one finds no block: those before it have theirs."""
    def grow_ahead(self, sequences: PySequence[Sequence], n_steps: int, *, n_spare: int) -> bool:
        """Grows all by n_steps tokens, unless that leaves less than n_spare blocks free in an area."""
    def room(self, sequences: PySequence[Sequence]) -> int:
        """Tokens that each of them may compute in the blocks that it has."""
    def release_unseen(self, sequences: PySequence[Sequence]) -> None:
        """Takes back what no token to come sees."""
    def publish(self, sequence: Sequence) -> None:
        """Makes the sequence's computed whole blocks findable."""
    def release(self, sequence: Sequence) -> None:
        """Takes all blocks back and sets n_computed to 0; the tokens stay (preemption by recompute)."""
    def take(self, n: int) -> list[int] | None: ...
    def share(self, block_id: int) -> None: ...
    def drop(self, block_id: int) -> None: ...
    def clear_cache(self) -> None: ...
    def n_owners(self, block_id: int) -> int: ...
    def check_invariants(self) -> None:
        """free + cached + held = total; hash index and blocks in bijection. Raises TuiliError("internal")."""

KvType = Literal["float32", "float16", "bfloat16", "int8"]

class KvCache:
    def __init__(
        self,
        spec: ModelSpec,
        n_blocks: int,
        block_size: int = 32,
        dtype: KvType = "float32",
        *,
        windows: Mapping[int, int] = ...,
        device: Device = "cpu",
    ) -> None:
        """windows: number of blocks for the layers with this sliding window; layers with another one have
        theirs among the n_blocks of those without."""
    @property
    def bytes(self) -> int: ...
    def poison(self) -> None:
        """Writes NaN over all pages, for tests: no later step may notice."""
    def prefix_bytes(self, n_tokens: int, n_blocks: int) -> int:
        """Bytes of the first n_blocks blocks of a prefix of n_tokens: block after block, without what tokens
        after the prefix do not see."""
    def read(self, sequence: Sequence, n_tokens: int, first: int, n: int) -> NDArray[np.uint8]:
        """Bytes of blocks [first, first + n) of a prefix of n_tokens that the sequence has computed."""
    def write(self, sequence: Sequence, n_tokens: int, n: int, blocks: NDArray[np.uint8]) -> None:
        """Bytes of a prefix of n_tokens become the sequence's next n blocks, from n_computed on; their tokens
        count as computed."""
    def is_finite(self, n_tokens: int, first: int, n: int, blocks: NDArray[np.uint8]) -> bool:
        """Whether the bytes of blocks [first, first + n) of a prefix hold finite keys and values only."""
    @staticmethod
    def block_bytes(
        spec: ModelSpec, block_size: int = 32, dtype: KvType = "float32", *, window: int | None = None
    ) -> int:
        """Bytes of a block over the layers with this sliding window (0: none), or over all layers."""

class StepResult:
    @property
    def token_ids(self) -> list[int]:
        """One per sampled sequence, in order; already appended. -1: the logits are not numbers; -2: every
        token is banned; -3: the sequence is deferred. Nothing is appended for these."""
    @property
    def logprobs(self) -> list[tuple[float, list[tuple[int, float]]] | None]:
        """Per sampled sequence: None, or the chosen token's log-probability and the n_logprobs best (id,
        log-probability), in nats, under the model's own logits: before bias, penalties and temperature."""

class RunResult:
    @property
    def n_steps(self) -> int: ...
    @property
    def n_drafted(self) -> int:
        """Tokens that were guessed, right or wrong."""
    @property
    def token_ids(self) -> list[list[int]]:
        """What each sequence drew, one per step, or more with prompt_lookup; already appended, but for a -1
        or -2 (see StepResult) at the end."""
    @property
    def logprobs(self) -> list[list[tuple[float, list[tuple[int, float]]]]]:
        """Of these tokens, for sequences that ask for them; else empty."""

class Runner:
    """Owns the workspace; runs steps. One thread at a time."""

    def __init__(
        self,
        model: Model,
        cache: KvCache | None = None,
        *,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
        max_source_tokens: int = 0,
        num_threads: int = 0,
        isa: str | None = None,
    ) -> None:
        """max_source_tokens: of the sources that a step encodes, at least 1 where an encoder reads
        them; such a model has a cache, also one that reads whole texts for a task head."""
    @property
    def workspace_bytes(self) -> int: ...
    @staticmethod
    def most_workspace_bytes(
        model: Model, *, max_batch_tokens: int, max_seqs: int, max_source_tokens: int = 0
    ) -> int:
        """A decoder's, or an encoder-decoder's, with the largest cache and the default num_threads; less
        with a cache that holds no full text."""
    @property
    def n_threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def expect_work(self) -> None:
        """Wakes the threads that a call in less than a millisecond needs; from any thread, at any time."""
    def step(
        self, sequences: PySequence[Sequence], n_new: PySequence[int], sample: PySequence[bool]
    ) -> StepResult:
        """Computes tokens [n_computed, n_computed + n_new[i]) of each sequence, in one ragged batch, and
        samples the next token where sample[i] (then n_new must reach the sequence's last token). Blocks must
        already be there. The engine's own logits never leave C++ except through collect_*."""
    def run(self, sequences: PySequence[Sequence], *, max_steps: int, max_s: float) -> RunResult:
        """Decodes on without the GIL: steps of one token per sequence, until one of them draws one of its
        stop_ids or nothing, has max_tokens, has filled its blocks or reached the model's length, or until
        max_steps are done, max_s seconds have passed or interrupt() is called. At least one step. Each
        sequence has one token to compute, is not deferred, has no mask or token types and asks for no logits
        or hidden states. With prompt_lookup a step may give it several; they are, bit for bit, what as many
        calls of step would draw."""
    def sample(self, sequence: Sequence, logits: f32) -> StepResult:
        """Chooses and appends the next token of a deferred sequence, which a step has computed to its end,
        from `logits` [n_vocab] in place of next_logits(); log-probabilities are still under those."""
    def copy_block(self, from_ids: PySequence[int], to_ids: PySequence[int], tokens: tuple[int, int]) -> None:
        """Copies tokens [begin, end) of a block to another, or to itself, between steps; one id per area. The
        others may be copied, too."""
    def advance_beams(
        self,
        pool: BlockPool,
        searches: PySequence[BeamRows],
        ends: PySequence[Callable[[int, int], bool] | None],
    ) -> None:
        """A step of each search, of whose beams the last tokens are computed: the likeliest tokens are
        appended to sequences that share what their beams have in common. ends: as BeamSearch.advance has it.
        An error of one search is kept for its check(). Blocks are copied without the GIL."""
    def interrupt(self) -> None:
        """Ends a run after the step it is in, or the next run after its first step; from any thread.
        Forgotten when a run or a step returns: leave the reason where the runner's thread looks between runs,
        then interrupt."""
    def encode(
        self,
        sequences: PySequence[Sequence],
        pooling: Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean"],
        normalize: bool,
        n_skipped: int = 0,
    ) -> f32:
        """Encoders: one vector per sequence, float32 [n_seqs, d_model]; nothing is cached. The sum of tokens
        must fit into max_batch_tokens. Sequences that collect hidden states get them. n_skipped tokens at the
        beginning do not count, but the last one always does."""
    def answer(
        self, sequences: PySequence[Sequence], positions: PySequence[PySequence[int]] | None = None
    ) -> f32:
        """Encoders with a task head: its answers, float32 [n_answers, n_out], sequence by sequence: one each,
        or one per token, or, given positions, one per position."""
    def n_allocations(self) -> int:
        """Heap allocations made inside steps since construction (a test wants 0 after warm-up)."""
    def n_last_rows(self) -> int:
        """Rows that went through the last layer's MLP since construction: those that somebody asked for."""
    def n_screened(self) -> int:
        """Tokens chosen since construction without all logits: greedy ones of float heads with at least 4096
        outputs, on the CPU."""
    def n_listed(self) -> int:
        """Beams ranked since construction from what a device listed of their logits, which stayed there."""

class PackedWeight:
    """One packed matrix, for single ops."""

    def __init__(self, format: Format, n: int, k: int, data: NDArray[np.uint8]) -> None: ...
    @property
    def bytes(self) -> int: ...

class ops:
    """The submodule `tuili._core.ops`: single ops on numpy arrays, for tests and for what Python
    does with vectors. All floats are float32,
    C-contiguous copies are returned. isa None is the default table."""

    @staticmethod
    def gemm(
        x: f32,
        w: PackedWeight,
        bias: f32 | None = None,
        *,
        compute: Literal["auto", "int8", "float32"] = "auto",
        isa: str | None = None,
        num_threads: int = 1,
    ) -> f32:
        """x [m, k] -> [m, n]. "auto": integer dot products when w is quantized, "int8": the same without
        second bytes for outliers."""
    @staticmethod
    def screened_argmax(
        x: f32,
        w: PackedWeight,
        bias: f32 | None = None,
        *,
        factor: float = 1.0,
        isa: str | None = None,
        num_threads: int = 1,
    ) -> list[int] | None:
        """The first maximum of each row of gemm(x, w, bias) · factor, w in a float format with at least 4096
        rows of a multiple of 32, from an int8 copy and a few of its rows; None if all must be looked at."""
    @staticmethod
    def quantize_rows(
        x: f32, *, keep_outliers: bool = True, isa: str | None = None
    ) -> tuple[i32, f32, i32, f32, i32]:
        """(codes [m, 32 · groups], scale [m, groups], sums of the codes of each half of a group
        [m, groups, 2], scale · Σ codes [m, groups], how many outlier quads a row has [m]) as base/packed.h
        defines them."""
    @staticmethod
    def embed(w: PackedWeight, ids: i32, scale: float = 1.0, *, isa: str | None = None) -> f32: ...
    @staticmethod
    def rms_norm(x: f32, gain: f32, eps: float, *, isa: str | None = None, device: Device = "cpu") -> f32: ...
    @staticmethod
    def layer_norm(
        x: f32, gain: f32, bias: f32, eps: float, *, isa: str | None = None, device: Device = "cpu"
    ) -> f32: ...
    @staticmethod
    def rope_table(positions: i32, inv_freq: f32, scale: float = 1.0) -> tuple[f32, f32]:
        """cos, sin [n_tokens, len(inv_freq)]."""
    @staticmethod
    def rope(
        x: f32,
        cos: f32,
        sin: f32,
        n_heads: int,
        *,
        interleaved: bool = False,
        isa: str | None = None,
        device: Device = "cpu",
    ) -> f32: ...
    @staticmethod
    def attention(
        q: f32,
        k: f32,
        v: f32,
        *,
        position: int = 0,
        causal: bool = True,
        window: int = 0,
        scale: float = 1.0,
        softcap: float = 0.0,
        kv_dtype: KvType = "float32",
        block_size: int = 32,
        bias: f32 | None = None,
        bias_origin: int = 0,
        bias_relative: bool = False,
        sinks: f32 | None = None,
        isa: str | None = None,
        num_threads: int = 1,
    ) -> f32:
        """q [n_rows, n_heads, head_dim] at positions position, position + 1, …; k, v [n_keys, n_kv_heads,
        head_dim], written into pages in a shuffled order of blocks. Returns [n_rows, n_heads, head_dim].
        bias [n_heads, size] as PositionBias has it, sinks [n_heads]."""
    @staticmethod
    def activate(
        gate: f32,
        up: f32 | None = None,
        kind: Activation = "silu",
        *,
        isa: str | None = None,
        device: Device = "cpu",
    ) -> f32: ...
    @staticmethod
    def add(x: f32, z: f32, *, isa: str | None = None, device: Device = "cpu") -> f32: ...
    @staticmethod
    def softcap(x: f32, cap: float, *, isa: str | None = None, device: Device = "cpu") -> f32: ...
    @staticmethod
    def xielu(
        x: f32, alpha_p: float, alpha_n: float, beta: float, *, isa: str | None = None, device: Device = "cpu"
    ) -> f32: ...
    @staticmethod
    def softmax_stats(x: f32, *, isa: str | None = None) -> tuple[float, float]: ...
    @staticmethod
    def exp_shifted(x: f32, shift: float, *, isa: str | None = None) -> f32: ...
    @staticmethod
    def mean_rows(x: f32, *, isa: str | None = None, device: Device = "cpu") -> f32: ...
    @staticmethod
    def l2_normalize(x: f32, *, isa: str | None = None, device: Device = "cpu") -> f32: ...
    @staticmethod
    def philox(seed: int, counter: int) -> tuple[int, int, int, int]: ...
    @staticmethod
    def sample(logits: f32, sampling: SamplingParams, history: i32, n_prompt: int) -> int:
        """The token that the runner would append after `history` (prompt, then generated); -1, -2 as
        StepResult."""
    @staticmethod
    def logprobs(logits: f32, token: int, n_best: int) -> tuple[float, list[tuple[int, float]]]:
        """Log-probability of the token, and of the n_best likeliest with their ids: equal ones by id."""
    @staticmethod
    def gemm_on_device(x: u16, w: u16 | PackedWeight) -> f32:
        """x [m, k] · w [n, k]ᵀ -> [m, n] on the CUDA device; uint16 holds bfloat16. Builds without
        CUDA lack this and those below."""
    @staticmethod
    def attention_on_device(
        q: f32,
        k: f32,
        v: f32,
        *,
        position: int = 0,
        causal: bool = True,
        window: int = 0,
        scale: float = 1.0,
        softcap: float = 0.0,
        kv_dtype: Literal["float16", "bfloat16"] = "bfloat16",
        block_size: int = 32,
    ) -> f32:
        """As `attention`; q is rounded as keys and values are."""

class limits:
    """The submodule `tuili._core.limits`: what this machine can do at most, one sample of about a tenth of a
    second each. n_threads 0: the default; isa None: the best table that runs here."""

    @staticmethod
    def clock_hz() -> float:
        """Cycles per second, by additions that wait for each other."""
    @staticmethod
    def read_bandwidth(n_threads: int = 0, bytes: int = 1 << 29) -> float:
        """Bytes per second that the threads read together, each its part of `bytes` in a row."""
    @staticmethod
    def float_peak(n_threads: int = 0, isa: str | None = None) -> float:
        """float32 multiply-adds per second in registers, all threads together."""
    @staticmethod
    def int8_peak(n_threads: int = 0, isa: str | None = None) -> float:
        """Exact int8 multiply-adds per second in registers, all threads together."""
