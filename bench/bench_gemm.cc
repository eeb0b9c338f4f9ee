// GEMM of every instruction set and weight format, one thread.
//
//   bench_gemm --benchmark_filter=avx2/q4_1
//
// Reports GMAC/s, GB/s of packed weights, and MAC per cycle of a clock measured by dependent adds in the same
// process. Weights rotate over 256 MiB, past the last-level cache, as they do in decoding.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/memory.h"
#include "kernels/cpu/kernels.h"
#include "ops/ops.h"

namespace {

using namespace tuili;

constexpr int64_t kN = 1536, kK = 2048;
constexpr int64_t kRotationBytes = int64_t{256} << 20;

// Cycles per second: one dependent integer add retires per cycle on every x86-64 and AArch64 core.
double clock_hz() {
  static const double hz = [] {
    constexpr int64_t kAdds = 200'000'000;
    uint64_t x = 1;
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < kAdds; i += 8) {
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) asm volatile("" : "+r"(x += 1));
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return kAdds / elapsed.count();
  }();
  return hz;
}

// Rows of a file with finite scales near 1e-2: random bits would make denormals and halve the speed.
std::vector<uint8_t> random_rows(Format format) {
  std::mt19937 random(7);
  std::vector<uint8_t> rows(static_cast<size_t>(kN * ops::row_bytes(format, kK)));
  if (format == Format::f32) {
    std::normal_distribution<float> normal(0, 0.05f);
    for (size_t i = 0; i < rows.size(); i += sizeof(float)) {
      const float value = normal(random);
      std::memcpy(&rows[i], &value, sizeof(float));
    }
    return rows;
  }
  // 0x21 as the high byte of an fp16 is about 0.01; of a bf16 it is tiny but normal; of a code it is a code.
  for (uint8_t& byte : rows) byte = 0x21;
  return rows;
}

struct Weights {
  std::vector<Buffer> memory;
  std::vector<PackedMatrix> matrices;
};

Weights packed_copies(const ops::Context& context, Format format) {
  const std::vector<uint8_t> rows = random_rows(format);
  const int64_t bytes = ops::packed_bytes(format, kN, kK);
  Weights weights;
  for (int64_t total = 0; total < kRotationBytes; total += bytes) {
    Buffer& memory = weights.memory.emplace_back(bytes);
    weights.matrices.push_back(ops::pack(context, format, kN, kK, rows.data(), memory.data()));
  }
  return weights;
}

void gemm(benchmark::State& state, const cpu::Kernels* kernels, Format format, bool integer) {
  const int64_t m = state.range(0);
  Buffer scratch(cpu::kGemmScratch * int64_t{sizeof(float)});
  const ops::Context context{.kernels = kernels, .pool = &ThreadPool::shared()};
  const Weights weights = packed_copies(context, format);
  std::vector<float> x(static_cast<size_t>(m * kK), 0.5f), y(static_cast<size_t>(m * kN));
  Buffer codes(m * kK * 4);
  Carver carver(codes.data());
  const QuantizedRows quantized = ops::quantized_rows(carver, m, kK);
  kernels->quantize_rows(quantized, x.data(), kK, kK, {0, m});
  size_t turn = 0;
  for (auto _ : state) {
    const cpu::GemmArgs args{.y = y.data(),
                             .ldy = kN,
                             .x = x.data(),
                             .ldx = kK,
                             .xq = quantized,
                             .w = weights.matrices[turn++ % weights.matrices.size()],
                             .bias = nullptr,
                             .m = m,
                             .scratch = reinterpret_cast<float*>(scratch.data())};
    (integer ? kernels->gemm_int8 : kernels->gemm_float)(args, {0, args.w.n_panels()});
    benchmark::ClobberMemory();
  }
  const double macs = static_cast<double>(m * kN * kK);
  using benchmark::Counter;
  state.counters["GMAC/s"] = Counter(macs * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] = Counter(static_cast<double>(ops::packed_bytes(format, kN, kK)) * 1e-9,
                                   Counter::kIsIterationInvariantRate);
  state.counters["MAC/cycle"] = Counter(macs / clock_hz(), Counter::kIsIterationInvariantRate);
}

const int registered = [] {
  for (const char* const* isa = cpu::available_isas(); *isa != nullptr; ++isa) {
    const cpu::Kernels* kernels = cpu::find_kernels(*isa);
    for (int i = 0; i < kFormatCount; ++i) {
      const auto format = static_cast<Format>(i);
      for (const bool integer : {true, false}) {
        if (integer && is_float(format)) continue;
        const std::string name = join(*isa, "/", info_of(format).name, integer ? "/int8" : "/float");
        benchmark::RegisterBenchmark(name.c_str(), gemm, kernels, format, integer)->Arg(1)->Arg(4)->Arg(64);
      }
    }
  }
  return 0;
}();

}  // namespace
