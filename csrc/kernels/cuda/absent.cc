// A build without CUDA: each launcher throws.
#include "base/check.h"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

[[noreturn]] int absent(const char* op) {
  throw Error(ErrorKind::invalid_parameter,
              join(op, ": tuili was built without CUDA; use device \"cpu\", or build with -DTUILI_CUDA=ON"));
}

}  // namespace

int rms_norm(Stream, const NormArgs&) { return absent("rms_norm"); }
int layer_norm(Stream, const NormArgs&) { return absent("layer_norm"); }
int l2_normalize(Stream, float*, const float*, int64_t, int64_t) { return absent("l2_normalize"); }
int mean_rows(Stream, float*, const float*, std::span<const int32_t>, int64_t) { return absent("mean_rows"); }
int weighted_mean_rows(Stream, float*, const float*, std::span<const int32_t>, int64_t) {
  return absent("weighted_mean_rows");
}
int max_rows(Stream, float*, const float*, std::span<const int32_t>, int64_t) { return absent("max_rows"); }
int embed(Stream, float*, const void*, DType, const int32_t*, int64_t, int64_t, float) {
  return absent("embed");
}
int add_rows(Stream, float*, const float*, const int32_t*, int64_t, int64_t) { return absent("add_rows"); }
int round_to_bf16(Stream, bf16*, const float*, int64_t) { return absent("round_to_bf16"); }
int activate(Stream, Output, const float*, const float*, Activation, int64_t) { return absent("activate"); }
int add(Stream, float*, const float*, const float*, int64_t) { return absent("add"); }
int scale(Stream, float*, float, int64_t) { return absent("scale"); }
int softcap(Stream, float*, float, int64_t) { return absent("softcap"); }
int xielu(Stream, float*, const Xielu&, int64_t) { return absent("xielu"); }
int clamp(Stream, float*, float, float, float, int64_t) { return absent("clamp"); }
int copy_heads(Stream, const CopyHeadsArgs&) { return absent("copy_heads"); }
int rope(Stream, const RopeArgs&) { return absent("rope"); }
int kv_write(Stream, const KvPages&, const float*, const float*, int64_t, const int32_t*, int64_t) {
  return absent("kv_write");
}
int rope_kv_write(Stream, const RopeKvArgs&) { return absent("rope_kv_write"); }
int gather_taps(Stream, const TapArgs&) { return absent("gather_taps"); }
int distance_bias(Stream, const DistanceArgs&) { return absent("distance_bias"); }
int attention(Stream, const AttentionArgs&) { return absent("attention"); }
int gemm(Stream, std::span<const GemmArgs>) { return absent("gemm"); }
int gemm(Stream, std::span<const QuantizedGemmArgs>) { return absent("gemm"); }
int route(Stream, const RouteArgs&) { return absent("route"); }
int sort_by_expert(Stream, int32_t*, int32_t*, const int32_t*, int64_t, int64_t) {
  return absent("sort_by_expert");
}
int scatter_rows(Stream, bf16*, const bf16*, const int32_t*, int64_t, int64_t, int64_t) {
  return absent("scatter_rows");
}
int weighted_sum_rows(Stream, float*, const float*, const int32_t*, const float*, int64_t, int64_t, int64_t) {
  return absent("weighted_sum_rows");
}
int add_gated(Stream, float*, const float*, const float*, int64_t, int64_t) { return absent("add_gated"); }
int gemm_experts(Stream, const ExpertGemmArgs&) { return absent("gemm_experts"); }
int draw(Stream, int32_t*, const float*, const Draw*, int64_t, int64_t) { return absent("draw"); }
int draw_likeliest(Stream, int32_t*, const float*, const Draw*, int64_t, int64_t) {
  return absent("draw_likeliest");
}
int best_logits(Stream, BestLogits*, BestLogit*, const float*, int64_t, int64_t, int64_t, int64_t) {
  return absent("best_logits");
}

}  // namespace tuili::cuda
