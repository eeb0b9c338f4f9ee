// Launches of fixed shapes, for what they ask of memory (traffic.py). Their results are tested elsewhere. A
// kernel joins by a line in a table. Of large grids kSampled blocks run: all do the same.
#include <numeric>
#include <vector>

#include "device_testing.h"
#include "ops/ops.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

constexpr int64_t kSampled = 2;

// The device's memory as it is: its values change no count.
class Tensor {
 public:
  Tensor(DType dtype, int64_t rows, int64_t columns)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        memory_(device::allocate(rows * columns * (dtype == DType::f32 ? 4 : 2))) {}

  void* data() const { return memory_.get(); }
  TensorView view() const { return {data(), dtype_, {rows_, columns_}, DeviceKind::cuda}; }
  TensorView row() const { return {data(), dtype_, {columns_}, DeviceKind::cuda}; }

 private:
  DType dtype_;
  int64_t rows_, columns_;
  DeviceMemory memory_;
};

// What weights and pages take, made once.
char* large_memory(int64_t bytes) {
  constexpr int64_t kMost = int64_t{288} << 20;
  static const Tensor memory(DType::bf16, kMost / 2, 1);
  require(bytes <= kMost, bytes, " bytes");
  return static_cast<char*>(memory.data());
}

template <int64_t kM, int64_t kN, int64_t kK>
void gemm() {
  const Tensor x(DType::bf16, kM, kK), y(DType::f32, kM, kN);
  const TensorView w(large_memory(kN * kK * 2), DType::bf16, {kN, kK}, DeviceKind::cuda);
  multiply_dense(y.view(), x.view(), w);
}

template <Format kFormat, int64_t kM, int64_t kN, int64_t kK>
void quantized_gemm() {
  const Tensor x(DType::bf16, kM, kK), y(DType::f32, kM, kN);
  const PackedMatrix w{
      .format = kFormat,
      .n = kN,
      .k = kK,
      .codes = reinterpret_cast<const uint8_t*>(large_memory(ops::device_bytes(kFormat, kN, kK)))};
  device::check(cuda::gemm(nullptr, {static_cast<float*>(y.data()), static_cast<const bf16*>(x.data()), w,
                                     nullptr, kM}),
                "gemm");
}

template <int64_t kTokens, int64_t kModel>
void rms_norm() {
  const Tensor x(DType::f32, kTokens, kModel), y(DType::f32, kTokens, kModel), gain(DType::f32, 1, kModel);
  ops::rms_norm({}, y.view(), x.view(), gain.row(), 1e-5f);
}

// One row per sequence behind kKeys keys: 32 heads over 8 of 128, pages of 32 tokens in f16.
template <int64_t kSequences, int64_t kKeys>
void decode_attention() {
  constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128, kBlock = 32, kPerSequence = kKeys / kBlock;
  constexpr int64_t kStride = kKvHeads * kBlock * kDim, kPageBytes = kSequences * kPerSequence * kStride * 2;
  const int64_t n_partials = cuda::attention_partial_floats(kSequences, kHeads, kDim, kKeys);
  const Tensor q(DType::f32, kSequences, kHeads * kDim), out(DType::bf16, kSequences, kHeads * kDim);
  const Tensor partials(DType::f32, n_partials, 1);
  std::vector<int32_t> ids(kSequences * kPerSequence);
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<cuda::AttentionSequence> texts;
  for (int32_t i = 0; i < kSequences; ++i)
    texts.push_back({i, 1, int32_t{kKeys - 1}, int32_t{kKeys}, i * int32_t{kPerSequence}});
  OnDevice<int32_t> blocks(ids);
  OnDevice<cuda::AttentionSequence> sequences(texts);
  char* const pages = large_memory(2 * kPageBytes);
  cuda::AttentionArgs args{};
  args.out = {out.data(), DType::bf16};
  args.ld_out = args.ld_q = kHeads * kDim;
  args.q = static_cast<const float*>(q.data());
  args.pages = {pages, pages + kPageBytes, DType::f16, kBlock, kKvHeads, kDim, kStride};
  args.blocks = blocks.get();
  args.sequences = sequences.get();
  args.n_sequences = args.n_tokens = kSequences;
  args.max_rows = 1;
  args.max_keys = kKeys;
  args.n_heads = kHeads;
  args.causal = cuda::Causal::yes;
  args.scale = 0x1p-3f;
  args.partials = static_cast<float*>(partials.data());
  args.partial_floats = n_partials;
  device::check(cuda::attention(nullptr, args), "attention");
}

template <int64_t kRows, int64_t kVocab>
void draw_likeliest() {
  constexpr uint64_t kTopP = uint64_t{0xE6} << 56;  // 0.9
  OnDevice<float> logits(normals<float>(kRows * kVocab, 1, 4));
  OnDevice<cuda::Draw> draws(std::vector<cuda::Draw>(kRows, {7, 3, 0.8f, 0.0f, 0, kTopP}));
  OnDevice<int32_t> tokens(static_cast<size_t>(kRows));
  device::check(cuda::draw_likeliest(nullptr, tokens.get(), logits.get(), draws.get(), kRows, kVocab),
                "draw_likeliest");
  require(tokens.read()[0] >= 0, "the host must draw");
}

template <int64_t kRows, int64_t kVocab>
void best_logits() {
  OnDevice<float> logits(normals<float>(kRows * kVocab, 1, 4));
  OnDevice<cuda::BestLogits> rows(static_cast<size_t>(kRows));
  OnDevice<cuda::BestLogit> listed(static_cast<size_t>(kRows * 45));
  device::check(cuda::best_logits(nullptr, rows.get(), listed.get(), logits.get(), kRows, kVocab, 17, 45),
                "best_logits");
  require(rows.read()[0].count <= 45, "they are not listed");
}

template <int64_t kTokens, int64_t kModel>
void gather_taps() {
  const Tensor x(DType::f32, kTokens, kModel), y(DType::bf16, kTokens, 3 * kModel);
  OnDevice<cuda::AttentionSequence> text({{0, int32_t{kTokens}, 0, int32_t{kTokens}, 0}});
  device::check(cuda::gather_taps(nullptr, {static_cast<bf16*>(y.data()), static_cast<const float*>(x.data()),
                                            text.get(), 1, kTokens, kModel, 3}),
                "gather_taps");
}

template <int64_t kTokens, int64_t kModel>
void mean_rows() {
  const Tensor x(DType::f32, kTokens, kModel), y(DType::f32, 1, kModel);
  const std::vector<int32_t> n_rows{int32_t{kTokens}};
  device::check(cuda::mean_rows(nullptr, static_cast<float*>(y.data()), static_cast<const float*>(x.data()),
                                n_rows, kModel),
                "mean_rows");
}

template <void (*kShape)()>
void sampled() {
  emulation::set_sample(kSampled);
  try {
    kShape();
  } catch (...) {
    emulation::set_sample(0);
    throw;
  }
  emulation::set_sample(0);
}

// Weights of 4,096 inputs, for 4,096 and 28,672 outputs.
#define TUILI_SKINNY(m)                                                                                    \
  {"shape: gemm m " #m " n 4096 k 4096", sampled<gemm<m, 4096, 4096>>},                                    \
      {"shape: gemm m " #m " n 28672 k 4096", sampled<gemm<m, 28672, 4096>>},                              \
      {"shape: gemm q8_0 m " #m " n 4096 k 4096", sampled<quantized_gemm<Format::q8_0, m, 4096, 4096>>},   \
      {"shape: gemm q8_0 m " #m " n 28672 k 4096", sampled<quantized_gemm<Format::q8_0, m, 28672, 4096>>}, \
      {"shape: gemm q4_0 m " #m " n 4096 k 4096", sampled<quantized_gemm<Format::q4_0, m, 4096, 4096>>}, { \
    "shape: gemm q4_0 m " #m " n 28672 k 4096", sampled<quantized_gemm<Format::q4_0, m, 28672, 4096>>      \
  }

const Registration kShapes[] = {
    TUILI_SKINNY(1),
    TUILI_SKINNY(8),
    TUILI_SKINNY(16),
    {"shape: gemm m 64 n 4096 k 512", sampled<gemm<64, 4096, 512>>},
    {"shape: gemm m 128 n 4096 k 512", sampled<gemm<128, 4096, 512>>},
    {"shape: gemm m 256 n 4096 k 512", sampled<gemm<256, 4096, 512>>},
    {"shape: gemm m 512 n 4096 k 512", sampled<gemm<512, 4096, 512>>},
    {"shape: gemm m 4096 n 4096 k 512", sampled<gemm<4096, 4096, 512>>},
    {"shape: attention 16 rows behind 4096 keys", sampled<decode_attention<16, 4096>>},
    {"shape: draw top_p 2 × 131072", draw_likeliest<2, 131072>},
    {"shape: best logits 4 × 32000", best_logits<4, 32000>},
    {"shape: taps 4 × 1536", gather_taps<4, 1536>},
    {"shape: rms_norm n_tokens 4 d_model 2048", rms_norm<4, 2048>},
    {"shape: mean n_tokens 126 d_model 768", mean_rows<126, 768>},
};

}  // namespace
