// The CUDA kernels on a real device, each beside what the device can do: one command, one table.
//
//   gpu_kernels [TEXT]     only the cases whose name holds TEXT
//
// Limits are measured first: a read stream of 1 GiB, and mma.sync (bf16) on registers alone. "%" is the time
// that the larger of bytes / read stream and operations / mma.sync would take, of the time measured. Operands
// rotate through 512 MiB, past any L2 cache, but for activations. A time is one launch of a captured graph
// of many, the median of 9 replays.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/device_memory.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/ptx.cuh"
#include "ops/ops.h"

namespace tuili::bench {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20, kRotation = 512 * kMiB;
constexpr int kLaunches = 32, kReplays = 9;

void check(int status) { device::check(status, "gpu_kernels"); }

// ---- what the device can do

enum class Fill { codes, floats, halves, bf16s, small_halves };

__device__ uint32_t mixed(uint64_t i) {
  i = (i + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
  i = (i ^ i >> 27) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(i >> 32);
}

// Random words: codes of any bits, or numbers of magnitude 1/2 … 1 (small_halves: near 2^-7).
__global__ void fill(uint32_t* to, int64_t n, Fill kind) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const uint32_t bits = mixed(static_cast<uint64_t>(i));
    switch (kind) {
      case Fill::codes: to[i] = bits; break;
      case Fill::floats: to[i] = (bits & 0x807fffffu) | 0x3f000000u; break;
      case Fill::halves: to[i] = (bits & 0x83ff83ffu) | 0x38003800u; break;
      case Fill::bf16s: to[i] = (bits & 0x807f807fu) | 0x3f003f00u; break;
      case Fill::small_halves: to[i] = (bits & 0x83ff83ffu) | 0x20002000u; break;
    }
  }
}

__global__ void read_all(const uint4* from, int64_t n, uint32_t* sink) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  uint32_t sum = 0;
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    const uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
    sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

constexpr int kPeakSteps = 4096, kPeakTiles = 8;

__global__ void multiply_registers(float* sink) {
  float acc[kPeakTiles][4] = {};
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = (mixed(threadIdx.x + 64 * i) & 0x807f807fu) | 0x3f003f00u;
  for (int i = 0; i < 2; ++i) b[i] = (mixed(threadIdx.x + 999 * (i + 1)) & 0x807f807fu) | 0x3f003f00u;
  for (int step = 0; step < kPeakSteps; ++step) {
#pragma unroll
    for (int j = 0; j < kPeakTiles; ++j) cuda::ptx::mma_m16n8k16<__nv_bfloat16>(acc[j], a, b);
  }
  float sum = 0;
  for (int j = 0; j < kPeakTiles; ++j) sum += acc[j][0] + acc[j][1] + acc[j][2] + acc[j][3];
  if (sum == 0.12345f) *sink = sum;
}

// ---- memory

class Buffer {
 public:
  Buffer(int64_t bytes, Fill kind) : memory_(device::allocate(bytes)) {
    fill<<<1024, 256>>>(static_cast<uint32_t*>(memory_.get()), bytes / 4, kind);
    check(cudaGetLastError());
  }

  template <class T>
  T* get(int64_t byte = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_.get()) + byte);
  }

 private:
  DeviceMemory memory_;
};

std::shared_ptr<Buffer> buffer(int64_t bytes, Fill kind) { return std::make_shared<Buffer>(bytes, kind); }

template <class T>
std::shared_ptr<Buffer> uploaded(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  auto to = buffer((bytes + 3) / 4 * 4, Fill::codes);
  device::copy_to_device(to->template get<void>(), values.data(), bytes, nullptr);
  device::synchronize(nullptr);
  return to;
}

// ---- timing

// Microseconds of one launch; run(stream, turn) enqueues it.
double time_of(const std::function<void(cudaStream_t, int)>& run) {
  const cudaStream_t stream = device::create_stream();
  run(stream, 0);  // loads the kernel
  check(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kLaunches; ++i) run(stream, i);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = -2; i < kReplays; ++i) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(replay, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms;
    check(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 0) times.push_back(1e3 * double{ms} / kLaunches);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  cudaGraphExecDestroy(replay), cudaGraphDestroy(graph);
  device::destroy_stream(stream);
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2];
}

struct Limits {
  double bytes_per_us, operations_per_us;
};

Limits measure_limits() {
  const auto data = buffer(1024 * kMiB, Fill::codes), sink = buffer(256, Fill::codes);
  const double read = time_of([&](cudaStream_t stream, int) {
    read_all<<<132 * 16, 512, 0, stream>>>(data->get<uint4>(), 1024 * kMiB / 16, sink->get<uint32_t>());
  });
  constexpr int kBlocks = 132 * 8, kWarps = 4;
  const double multiply = time_of([&](cudaStream_t stream, int) {
    multiply_registers<<<kBlocks, 32 * kWarps, 0, stream>>>(sink->get<float>());
  });
  return {1024.0 * kMiB / read,
          double{kBlocks} * kWarps * kPeakSteps * kPeakTiles * 16 * 8 * 16 * 2 / multiply};
}

struct Case {
  std::string name;
  double bytes, operations;
  std::function<std::function<void(cudaStream_t, int)>()> make;  // owns its data
};

// ---- linear maps

Case dense_gemm(int64_t m, int64_t n, int64_t k) {
  const auto make = [=] {
    const int64_t one = n * k * 2, copies = std::max<int64_t>(1, kRotation / one);
    const auto w = buffer(one * copies, Fill::bf16s), x = buffer(m * k * 2, Fill::bf16s);
    const auto y = buffer(m * n * 4, Fill::codes);
    return [=](cudaStream_t stream, int turn) {
      check(cuda::gemm(stream, {y->get<float>(), x->get<cuda::bf16>(),
                                w->get<cuda::bf16>(turn % copies * one), nullptr, m, n, k}));
    };
  };
  return {join("gemm bf16 m ", m, " n ", n, " k ", k), 2.0 * (n * k + m * k) + 4.0 * m * n, 2.0 * m * n * k,
          make};
}

Case quantized_gemm(Format format, int64_t m, int64_t n, int64_t k) {
  const int64_t one = (ops::device_bytes(format, n, k) + 255) / 256 * 256;
  const auto make = [=] {
    const int64_t copies = std::max<int64_t>(1, kRotation / one);
    const auto w = buffer(one * copies, Fill::small_halves), x = buffer(m * k * 2, Fill::bf16s);
    const auto y = buffer(m * n * 4, Fill::codes);
    std::vector<PackedMatrix> matrices;
    for (int64_t i = 0; i < copies; ++i)
      matrices.push_back({.format = format, .n = n, .k = k, .codes = w->get<uint8_t>(i * one)});
    return [=](cudaStream_t stream, int turn) {
      (void)w;
      check(cuda::gemm(stream,
                       cuda::QuantizedGemmArgs{y->get<float>(), x->get<cuda::bf16>(),
                                               matrices[static_cast<size_t>(turn % copies)], nullptr, m}));
    };
  };
  return {join("gemm ", info_of(format).name, " m ", m, " n ", n, " k ", k),
          double(one) + 2.0 * m * k + 4.0 * m * n, 2.0 * m * n * k, make};
}

// ---- attention

constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128, kBlock = 32, kStride = kBlock * kKvHeads * kDim;

Fill fill_of(DType type) {
  if (type == DType::f32) return Fill::floats;
  return type == DType::f16 ? Fill::halves : Fill::codes;
}

// `n_sequences` of `n_rows` new rows at the end of `n_keys` keys, 32 heads of 128 over 8; scales of codes of
// 8 bits beside them.
Case attention(int64_t n_sequences, int64_t n_rows, int64_t n_keys, DType type = DType::f16) {
  const int64_t table = n_keys / kBlock, n_tokens = n_sequences * n_rows;
  const int64_t scales = type == DType::i8 ? kStride / kDim : 0;  // of a block
  const auto make = [=] {
    const int64_t blocks_of_one = n_sequences * table, one = blocks_of_one * kStride * size_of(type);
    const int64_t copies = std::max<int64_t>(1, kRotation / 2 / one);
    const auto k = buffer(one * copies, fill_of(type)), v = buffer(one * copies, fill_of(type));
    const auto k_scale = buffer(std::max<int64_t>(blocks_of_one * scales, 1) * 4, Fill::floats);
    const auto v_scale = buffer(std::max<int64_t>(blocks_of_one * scales, 1) * 4, Fill::floats);
    const auto q = buffer(n_tokens * kHeads * kDim * 4, Fill::floats);
    const auto out = buffer(n_tokens * kHeads * kDim * 2, Fill::codes);
    const int64_t floats =
        std::min(cuda::attention_partial_floats(n_tokens, kHeads, kDim, n_keys), 64 * kMiB);
    const auto partials = buffer(std::max<int64_t>(floats, 1) * 4, Fill::floats);
    std::vector<int32_t> blocks;
    std::vector<cuda::AttentionSequence> sequences;
    for (int64_t i = 0; i < n_sequences; ++i) {
      sequences.push_back({int32_t(i * n_rows), int32_t(n_rows), int32_t(n_keys - n_rows), int32_t(n_keys),
                           int32_t(blocks.size())});
      for (int64_t j = 0; j < table; ++j) blocks.push_back(int32_t(j * n_sequences + i));
    }
    const auto tables = uploaded(blocks), list = uploaded(sequences);
    return [=](cudaStream_t stream, int turn) {
      const int64_t at = turn % copies * one;
      check(
          cuda::attention(stream, {.out = {out->get<void>(), DType::bf16},
                                   .ld_out = kHeads * kDim,
                                   .q = q->get<float>(),
                                   .ld_q = kHeads * kDim,
                                   .pages = {k->get<void>(at), v->get<void>(at), type, kBlock, kKvHeads, kDim,
                                             kStride, k_scale->get<float>(), v_scale->get<float>(), scales},
                                   .blocks = tables->get<int32_t>(),
                                   .sequences = list->get<cuda::AttentionSequence>(),
                                   .n_sequences = n_sequences,
                                   .max_rows = n_rows,
                                   .max_keys = n_keys,
                                   .n_tokens = n_tokens,
                                   .n_heads = kHeads,
                                   .window = 0,
                                   .causal = cuda::Causal::yes,
                                   .scale = 0.088f,
                                   .softcap = 0,
                                   .partials = partials->get<float>(),
                                   .partial_floats = floats}));
    };
  };
  const double seen = double(n_sequences) * n_rows * (double(n_keys) - (n_rows - 1) / 2.0);
  const double bytes = 2.0 * n_sequences * n_keys * kKvHeads * (kDim * size_of(type) + (scales ? 4 : 0)) +
                       6.0 * n_tokens * kHeads * kDim;
  return {join("attention ", type == DType::f16 ? "" : name_of(type), type == DType::f16 ? "" : " ",
               n_sequences, " × ", n_rows, " rows, ", n_keys, " keys"),
          bytes, 4.0 * seen * kHeads * kDim, make};
}

// DeBERTa's biases of `n_texts` of `n_rows` rows: 12 heads of 64, 512 distances.
Case distances(int64_t n_texts, int64_t n_rows) {
  constexpr int64_t kHeads = 12, kDim = 64, kDistances = 512;
  const int64_t n_tokens = n_texts * n_rows, ld_bias = (n_rows + 7) / 8 * 8;
  const auto make = [=] {
    const auto bias = buffer(kHeads * n_tokens * ld_bias * 4, Fill::floats);
    const auto q = buffer(n_tokens * kHeads * kDim * 4, Fill::floats);
    const auto k = buffer(n_tokens * kHeads * kDim * 4, Fill::floats);
    const auto keys = buffer(kHeads * kDistances * kDim * 2, Fill::bf16s);
    const auto queries = buffer(kHeads * kDistances * kDim * 2, Fill::bf16s);
    std::vector<int32_t> places;
    for (int64_t i = -n_rows; i <= n_rows; ++i)
      places.push_back(static_cast<int32_t>(std::clamp<int64_t>(i + kDistances / 2, 0, kDistances - 1)));
    std::vector<cuda::AttentionSequence> texts;
    for (int64_t i = 0; i < n_texts; ++i)
      texts.push_back({int32_t(i * n_rows), int32_t(n_rows), 0, int32_t(n_rows), int32_t(i)});
    const auto table = uploaded(places), list = uploaded(texts);
    return [=](cudaStream_t stream, int) {
      check(cuda::distance_bias(stream, {.bias = bias->get<float>(),
                                         .ld_bias = ld_bias,
                                         .q = q->get<float>(),
                                         .k = k->get<float>(),
                                         .ld = kHeads * kDim,
                                         .keys = keys->get<cuda::bf16>(),
                                         .queries = queries->get<cuda::bf16>(),
                                         .n_rows = kDistances,
                                         .places = table->get<int32_t>(),
                                         .origin = n_rows,
                                         .sequences = list->get<cuda::AttentionSequence>(),
                                         .texts = list->get<cuda::AttentionSequence>(),
                                         .n_sequences = n_texts,
                                         .n_texts = n_texts,
                                         .max_rows = n_rows,
                                         .n_tokens = n_tokens,
                                         .n_heads = kHeads,
                                         .head_dim = kDim,
                                         .scale = 0.07f}));
    };
  };
  return {join("distances ", n_texts, " × ", n_rows, " rows"),
          4.0 * kHeads * n_tokens * n_rows + 8.0 * n_tokens * kHeads * kDim,
          4.0 * kHeads * n_tokens * n_rows * kDim, make};
}

// Of `n_rows` new tokens: RoPE of 32 heads of queries, and of keys on their way to the pages.
Case rope_and_write(int64_t n_rows, DType type) {
  const auto make = [=] {
    const int64_t n_blocks = (n_rows + kBlock - 1) / kBlock, bytes = n_blocks * kStride * size_of(type);
    const auto q = buffer(n_rows * kHeads * kDim * 4, Fill::floats);
    const auto k = buffer(n_rows * kKvHeads * kDim * 4, Fill::floats);
    const auto v = buffer(n_rows * kKvHeads * kDim * 4, Fill::floats);
    const auto turns = buffer(n_rows * kDim * 4, Fill::floats);
    const auto k_pages = buffer(bytes, Fill::codes), v_pages = buffer(bytes, Fill::codes);
    std::vector<int32_t> all(static_cast<size_t>(n_rows));
    for (int64_t i = 0; i < n_rows; ++i) all[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    const auto slots = uploaded(all);
    return [=](cudaStream_t stream, int) {
      const cuda::RopeArgs rope{q->get<float>(),
                                kHeads * kDim,
                                turns->get<float>(),
                                turns->get<float>(n_rows * kDim * 2),
                                n_rows,
                                kHeads,
                                kDim,
                                kDim / 2,
                                cuda::RopePairs::halves};
      const KvPages pages{k_pages->get<void>(), v_pages->get<void>(), type, kBlock, kKvHeads, kDim, kStride};
      check(cuda::rope_kv_write(
          stream, {rope, k->get<float>(), v->get<float>(), kKvHeads * kDim, pages, slots->get<int32_t>()}));
    };
  };
  return {join("rope and kv_write ", n_rows, " × 32 + 8 heads"),
          double(n_rows) * kDim * (8.0 * kHeads + 8.0 * kKvHeads + 2.0 * size_of(type) * kKvHeads + 4.0), 0,
          make};
}

// ---- experts

// Of 64 experts the rows of `n_tokens`, 8 experts each, all alike busy: an MLP's way up, 2,048 to 1,024.
Case experts_gemm(Format format, int64_t n_tokens) {
  constexpr int64_t kExperts = 64, kUsed = 8, kN = 1024, kK = 2048;
  const bool dense = format == Format::bf16;
  const int64_t one = dense ? kN * kK * 2 : (ops::device_bytes(format, kN, kK) + 255) / 256 * 256;
  const int64_t n_rows = n_tokens * kUsed, n_busy = std::min(n_rows, kExperts);
  const auto make = [=] {
    const auto w = buffer(one * kExperts * 2, dense ? Fill::bf16s : Fill::small_halves);
    const auto x = buffer(n_rows * kK * 2, Fill::bf16s), y = buffer(n_rows * kN * 4, Fill::codes);
    std::vector<cuda::ExpertMap> maps;
    std::vector<int32_t> first{0};
    for (int64_t i = 0; i < 2 * kExperts; ++i)  // two sets of weights, by turns
      maps.push_back({{.format = format, .n = kN, .k = kK, .codes = w->get<uint8_t>(i * one)}, nullptr});
    for (int64_t i = 0; i < kExperts; ++i) first.push_back(static_cast<int32_t>(n_rows * (i + 1) / kExperts));
    const auto all_maps = uploaded(maps);
    const auto starts = uploaded(first);
    return [=](cudaStream_t stream, int turn) {
      (void)w;
      check(cuda::gemm_experts(stream, {y->get<float>(), x->get<cuda::bf16>(),
                                        all_maps->get<cuda::ExpertMap>() + turn % 2 * kExperts,
                                        starts->get<int32_t>(), format, kN, kK, kExperts, n_rows}));
    };
  };
  return {join("experts ", info_of(format).name, " ", n_tokens, " tokens × 8 of 64"),
          double(one) * n_busy + 2.0 * n_rows * kK + 4.0 * n_rows * kN, 2.0 * n_rows * kN * kK, make};
}

// ---- rows and elements

Case norm(int64_t n_rows, int64_t n) {
  const auto make = [=] {
    const int64_t copies = std::clamp<int64_t>(kRotation / (n_rows * n * 4), 1, kLaunches);
    const auto x = buffer(n_rows * n * 4 * copies, Fill::floats), y = buffer(n_rows * n * 2, Fill::codes);
    const auto z = buffer(n_rows * n * 4, Fill::floats), gain = buffer(n * 4, Fill::floats);
    return [=](cudaStream_t stream, int turn) {
      check(cuda::rms_norm(stream, {{y->get<void>(), DType::bf16},
                                    x->get<float>(turn % copies * n_rows * n * 4),
                                    z->get<float>(),
                                    gain->get<float>(),
                                    nullptr,
                                    n_rows,
                                    n,
                                    1,
                                    n,
                                    1e-5f}));
    };
  };
  return {join("rms_norm with residual ", n_rows, " × ", n), 14.0 * n_rows * n, 0, make};
}

// Of an encoder: a residual added, then the norm in its place and rounded once more.
Case post_norm(int64_t n_rows, int64_t n) {
  const auto make = [=] {
    const auto x = buffer(n_rows * n * 4, Fill::floats), z = buffer(n_rows * n * 4, Fill::floats);
    const auto rounded = buffer(n_rows * n * 2, Fill::codes), gain = buffer(n * 4, Fill::floats);
    return [=](cudaStream_t stream, int) {
      check(cuda::layer_norm(stream, {.y = {x->get<void>(), DType::f32},
                                      .x = x->get<float>(),
                                      .addend = z->get<float>(),
                                      .gain = gain->get<float>(),
                                      .bias = gain->get<float>(),
                                      .n_rows = n_rows,
                                      .n = n,
                                      .inner = 1,
                                      .ld = n,
                                      .eps = 1e-5f,
                                      .rounded = rounded->get<cuda::bf16>()}));
    };
  };
  return {join("layer_norm of a sum, f32 and bf16 ", n_rows, " × ", n), 14.0 * n_rows * n, 0, make};
}

Case pooling(int32_t n_texts, int32_t n_rows, int64_t n) {
  const auto make = [=] {
    const auto x = buffer(n * n_texts * n_rows * 4, Fill::floats), y = buffer(n * n_texts * 4, Fill::codes);
    return [=, texts = std::vector<int32_t>(static_cast<size_t>(n_texts), n_rows)](cudaStream_t stream, int) {
      check(cuda::mean_rows(stream, y->get<float>(), x->get<float>(), texts, n));
    };
  };
  return {join("means of ", n_texts, " × ", n_rows, " × ", n), 4.0 * n * n_texts * (n_rows + 1.0), 0, make};
}

// Keys and values of `n_rows` tokens, heads of 64, into pages of f16.
Case page_writing(int64_t n_rows, int64_t n_heads) {
  const auto make = [=] {
    const int64_t d = n_heads * 64, stride = kBlock * d, bytes = (n_rows / kBlock + 1) * stride * 2;
    const auto k = buffer(n_rows * d * 4, Fill::floats), v = buffer(n_rows * d * 4, Fill::floats);
    const auto k_pages = buffer(bytes, Fill::codes), v_pages = buffer(bytes, Fill::codes);
    std::vector<int32_t> all(static_cast<size_t>(n_rows));
    std::iota(all.begin(), all.end(), 0);
    const auto slots = uploaded(all);
    return [=](cudaStream_t stream, int) {
      const KvPages pages{
          k_pages->get<void>(), v_pages->get<void>(), DType::f16, kBlock, n_heads, 64, stride};
      check(
          cuda::kv_write(stream, pages, k->get<float>(), v->get<float>(), d, slots->get<int32_t>(), n_rows));
    };
  };
  return {join("kv_write ", n_rows, " × ", n_heads, " heads"), 12.0 * n_rows * n_heads * 64, 0, make};
}

// gelu, or silu gated.
Case activation(cuda::Activation kind, int64_t count) {
  const bool gated = kind == cuda::Activation::silu;
  const auto make = [=] {
    const auto gate = buffer(count * 4, Fill::floats), up = buffer(gated ? count * 4 : 4, Fill::floats);
    const auto y = buffer(count * 2, Fill::codes);
    return [=](cudaStream_t stream, int) {
      check(cuda::activate(stream, {y->get<void>(), DType::bf16}, gate->get<float>(),
                           gated ? up->get<float>() : nullptr, kind, count));
    };
  };
  return {join(gated ? "silu gated " : "gelu ", count), (gated ? 10.0 : 6.0) * count, 0, make};
}

enum class Choice { greedy, draw, draw_likeliest };

Case choice(Choice kind, int64_t n_rows, int64_t n_vocab) {
  const auto make = [=] {
    const int64_t copies = std::clamp<int64_t>(kRotation / (n_rows * n_vocab * 4), 1, kLaunches);
    const auto logits = buffer(n_rows * n_vocab * 4 * copies, Fill::floats),
               tokens = buffer(n_rows * 4, Fill::codes);
    cuda::Draw draw{7, 3, 0.8f};
    if (kind == Choice::greedy) draw.temperature = 0;
    if (kind == Choice::draw_likeliest) draw.top_k = 40;
    const auto draws = uploaded(std::vector<cuda::Draw>(static_cast<size_t>(n_rows), draw));
    return [=](cudaStream_t stream, int turn) {
      const float* const rows = logits->get<float>(turn % copies * n_rows * n_vocab * 4);
      int32_t* const to = tokens->get<int32_t>();
      const auto* const asked = draws->get<cuda::Draw>();
      const auto launch = kind == Choice::draw_likeliest ? cuda::draw_likeliest : cuda::draw;
      check(launch(stream, to, rows, asked, n_rows, n_vocab));
    };
  };
  constexpr const char* kNames[] = {"draw greedily ", "draw ", "draw top_k 40 "};
  return {join(kNames[static_cast<int>(kind)], n_rows, " × ", n_vocab), 4.0 * n_rows * n_vocab, 0, make};
}

// Of a beam search of 4: capacity as runtime/choices.cc has it.
Case best_logits(int64_t n_rows, int64_t n_vocab) {
  const auto make = [=] {
    constexpr int64_t kBest = 17, kCapacity = 45;
    const int64_t copies = std::clamp<int64_t>(kRotation / (n_rows * n_vocab * 4), 1, kLaunches);
    const auto logits = buffer(n_rows * n_vocab * 4 * copies, Fill::floats),
               best = buffer(n_rows * (16 + 8 * kCapacity), Fill::codes);
    return [=](cudaStream_t stream, int turn) {
      auto* const rows = best->get<cuda::BestLogits>();
      check(cuda::best_logits(stream, rows, reinterpret_cast<cuda::BestLogit*>(rows + n_rows),
                              logits->get<float>(turn % copies * n_rows * n_vocab * 4), n_rows, n_vocab,
                              kBest, kCapacity));
    };
  };
  return {join("best logits ", n_rows, " × ", n_vocab), 4.0 * n_rows * n_vocab, 0, make};
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const int64_t m : {1, 16, 64, 512, 4096}) cases.push_back(dense_gemm(m, 4096, 4096));
  for (const int64_t m : {1, 16}) cases.push_back(dense_gemm(m, 2048, 2048));
  for (const int64_t m : {32, 128, 256, 2048}) cases.push_back(dense_gemm(m, 2048, 2048));
  for (const int64_t m : {64, 128, 256, 512}) cases.push_back(dense_gemm(m, 4096, 14336));
  for (const int64_t m : {64, 128, 512, 2048}) cases.push_back(dense_gemm(m, 28672, 4096));
  cases.push_back(dense_gemm(8192, 8192, 8192));
  for (const int64_t m : {1, 16}) cases.push_back(dense_gemm(m, 28672, 4096));
  for (const Format format : {Format::q8_0, Format::q4_0, Format::q4_1, Format::q4_k, Format::q6_k})
    for (const int64_t m : {1, 16, 64, 128, 512}) cases.push_back(quantized_gemm(format, m, 4096, 4096));
  for (const int64_t m : {32, 128, 256, 2048}) cases.push_back(quantized_gemm(Format::q4_0, m, 2048, 2048));
  for (const int64_t m : {64, 256, 2048}) cases.push_back(quantized_gemm(Format::q4_0, m, 28672, 4096));
  for (const int64_t m : {1, 16}) cases.push_back(quantized_gemm(Format::q4_0, m, 28672, 4096));
  for (const int64_t m : {1, 16}) cases.push_back(quantized_gemm(Format::q4_0, m, 2048, 2048));
  for (const int64_t n_sequences : {1, 16, 64})
    for (const int64_t n_keys : {512, 4096}) cases.push_back(attention(n_sequences, 1, n_keys));
  cases.push_back(attention(1, 1, 32768));
  for (const int64_t n_rows : {512, 2048, 8192}) cases.push_back(attention(1, n_rows, n_rows));
  for (const DType type : {DType::i8, DType::f32})
    for (const int64_t n_sequences : {1, 16, 64}) cases.push_back(attention(n_sequences, 1, 4096, type));
  for (const DType type : {DType::i8, DType::f32}) cases.push_back(attention(1, 2048, 2048, type));
  for (const int64_t n_texts : {1, 32}) cases.push_back(distances(n_texts, 128));
  cases.push_back(distances(8, 512));
  for (const int64_t n_rows : {1, 16, 2048}) cases.push_back(rope_and_write(n_rows, DType::f16));
  for (const Format format : {Format::bf16, Format::q4_0})
    for (const int64_t n_tokens : {1, 16, 64, 2048}) cases.push_back(experts_gemm(format, n_tokens));
  for (const int64_t n_rows : {1, 16, 4096}) cases.push_back(norm(n_rows, 4096));
  cases.push_back(norm(2000, 2048));
  for (const int64_t n_rows : {1, 16, 4096})
    cases.push_back(activation(cuda::Activation::silu, n_rows * 14336));
  cases.push_back(activation(cuda::Activation::silu, 2000 * 5632));
  for (const int64_t n_rows : {1, 126, 8190}) cases.push_back(post_norm(n_rows, 768));
  for (const int64_t n_rows : {1, 126, 8190})
    cases.push_back(activation(cuda::Activation::gelu, n_rows * 3072));
  for (const int64_t n_rows : {1, 126, 8190}) cases.push_back(page_writing(n_rows, 12));
  for (const int32_t n_texts : {1, 65}) cases.push_back(pooling(n_texts, 126, 768));
  for (const Choice kind : {Choice::greedy, Choice::draw, Choice::draw_likeliest})
    for (const int64_t n_rows : {1, 16}) cases.push_back(choice(kind, n_rows, 131072));
  for (const int64_t n_rows : {4, 32, 512}) cases.push_back(best_logits(n_rows, 32000));
  cases.push_back(best_logits(16, 262144));
  return cases;
}

int run_all(const char* only) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0));
  const Limits limits = measure_limits();
  std::printf("%s: read stream %.0f GB/s, mma.sync bf16 %.0f TFLOP/s\n", properties.name,
              limits.bytes_per_us / 1e3, limits.operations_per_us / 1e6);
  std::printf("%-44s %10s %8s %9s %6s\n", "kernel", "µs", "GB/s", "TFLOP/s", "%");
  for (const Case& one : all_cases()) {
    if (one.name.find(only) == std::string::npos) continue;
    const double us = time_of(one.make());
    const double bound = std::max(one.bytes / limits.bytes_per_us, one.operations / limits.operations_per_us);
    std::printf("%-44s %10.2f %8.0f %9.1f %6.1f\n", one.name.c_str(), us, one.bytes / us / 1e3,
                one.operations / us / 1e6, 100 * bound / us);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace tuili::bench

int main(int argc, char** argv) {
  try {
    return tuili::bench::run_all(argc > 1 ? argv[1] : "");
  } catch (const tuili::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
