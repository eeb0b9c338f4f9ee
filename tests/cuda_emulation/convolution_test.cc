// What convolutions multiply, on the emulated device: every row's neighbours, of its own text alone.
#include "cuda_runtime.h"
#include "device_testing.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

std::vector<bf16> gathered(const std::vector<float>& x, const std::vector<int32_t>& lengths, int64_t d,
                           int64_t n_taps) {
  std::vector<cuda::AttentionSequence> texts;
  int32_t n_tokens = 0, most = 0;
  for (const int32_t n : lengths) {
    texts.push_back({n_tokens, n, 0, n, 0});
    n_tokens += n;
    most = std::max(most, n);
  }
  OnDevice<float> rows(x);
  OnDevice<bf16> y(std::vector<bf16>(size_t(n_tokens * d * n_taps), rounded<bf16>(NAN)));
  OnDevice<cuda::AttentionSequence> list(texts);
  device::check(
      cuda::gather_taps(nullptr, {y.get(), rows.get(), list.get(), std::ssize(texts), most + 2, d, n_taps}),
      "gather_taps");
  return y.read();
}

TUILI_TEST(taps_are_the_rows_around_each_row_of_a_text) {
  const std::vector<int32_t> lengths{7, 1, 30};
  for (const int64_t d : {1, 40, 300}) {
    for (const int64_t n_taps : {1, 3, 5}) {
      const std::vector<float> x = normals<float>(size_t(38 * d), uint64_t(d));
      std::vector<bf16> want;
      int64_t first = 0;
      for (const int64_t n : lengths) {
        for (int64_t t = 0; t < n; ++t)
          for (int64_t c = 0; c < d; ++c)
            for (int64_t j = 0; j < n_taps; ++j) {
              const int64_t from = t + j - n_taps / 2;
              want.push_back(
                  rounded<bf16>(from < 0 || from >= n ? 0.0 : double{x[size_t((first + from) * d + c)]}));
            }
        first += n;
      }
      require_same_bits(gathered(x, lengths, d, n_taps), want, n_taps, " taps of ", d);
    }
  }
}

TUILI_TEST(taps_of_no_text_are_no_launch_and_of_too_many_are_refused) {
  const auto status = [](int64_t n_texts, int64_t d) {
    return cuda::gather_taps(nullptr, {nullptr, nullptr, nullptr, n_texts, 1, d, 3});
  };
  require(status(0, 8) == cudaSuccess, "no text is an error");
  require(status(65536, 8) == cudaErrorInvalidValue, "65,536 texts");
  require(status(1, int64_t{1} << 30) == cudaErrorInvalidValue, "rows of 3 · 2^30");
}

}  // namespace
