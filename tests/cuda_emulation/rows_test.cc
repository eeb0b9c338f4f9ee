// Norms and pooling on the emulated device: the bits of the CPU's kernels, whose own tests bound their
// errors.
#include "device_testing.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

constexpr float kEps = 1e-5f;
// Tails, rows of several steps, and rows longer than what is staged.
constexpr int64_t kLengths[] = {1, 7, 31, 32, 33, 64, 576, 1001, 4096, 5000};

enum class Norm { rms, layer };
enum class Addend { no, yes };

struct NormCase {
  Norm norm;
  int64_t n_rows, n;
  Addend addend = Addend::no;
  int64_t inner = 1;  // heads of a row
  int64_t gap = 0;    // elements between one row of heads and the next
  size_t shift = 0;

  int64_t ld() const { return inner * n + gap; }
  size_t count() const { return size_t(n_rows / inner * ld()); }
  std::vector<float> x() const { return normals<float>(count(), uint64_t(n_rows * 1000 + n)); }
  std::vector<float> z() const { return normals<float>(count(), uint64_t(n_rows * 1001 + n)); }
  std::vector<float> gain() const { return normals<float>(size_t(n), uint64_t(n)); }
  std::vector<float> bias() const { return normals<float>(size_t(n), uint64_t(n + 1)); }

  template <typename Out>
  std::vector<Out> run(uint64_t seed) const {
    emulation::set_seed(seed);
    OnDevice<Out> y(count());
    OnDevice<float> from(x(), shift), other(z(), shift), gains(gain(), shift), biases(bias(), shift);
    launch(y.output(), from, other, gains, biases);
    if (addend == Addend::yes) require_same_bits(from.read(), sum(), "x keeps its sum with the addend");
    return y.read();
  }

  std::vector<float> run_in_place(uint64_t seed) const {
    emulation::set_seed(seed);
    OnDevice<float> from(x()), other(z()), gains(gain()), biases(bias());
    OnDevice<bf16> twice(count());
    launch(from.output(), from, other, gains, biases, gap == 0 ? twice.get() : nullptr);
    std::vector<float> y = from.read();
    if (gap == 0) require_same_bits(twice.read(), rounded_all<bf16>(y), "y rounded");
    return y;
  }

  std::vector<float> sum() const {
    std::vector<float> input = x();
    if (addend == Addend::yes)
      cpu_kernels().add(input.data(), input.data(), z().data(), {0, int64_t(count())});
    return input;
  }

  // `y` where no row lies stays as it is.
  std::vector<float> expected(std::vector<float> y) const {
    const std::vector<float> input = sum(), g = gain(), b = bias();
    if (norm == Norm::rms)
      cpu_kernels().rms_norm(y.data(), input.data(), g.data(), n, inner, ld(), kEps, {0, n_rows});
    else
      cpu_kernels().layer_norm(y.data(), input.data(), g.data(), b.data(), n, kEps, {0, n_rows});
    return y;
  }

 private:
  void launch(cuda::Output y, OnDevice<float>& from, OnDevice<float>& other, OnDevice<float>& gains,
              OnDevice<float>& biases, bf16* twice = nullptr) const {
    const cuda::NormArgs args{y,           from.get(),   addend == Addend::yes ? other.get() : nullptr,
                              gains.get(), biases.get(), n_rows,
                              n,           inner,        ld(),
                              kEps,        twice};
    device::check(norm == Norm::rms ? cuda::rms_norm(nullptr, args) : cuda::layer_norm(nullptr, args),
                  "norm");
  }
};

void check_norms(int64_t n_rows, int64_t n) {
  uint64_t seed = 0;
  for (const Norm norm : {Norm::rms, Norm::layer}) {
    for (const Addend addend : {Addend::no, Addend::yes}) {
      const NormCase rows{norm, n_rows, n, addend, 1, 0, size_t(n % 2)};
      const std::vector<float> want = rows.expected(std::vector<float>(rows.count()));
      require_same_bits(rows.run<float>(++seed), want, "f32, n ", n);
      require_same_bits(rows.run<bf16>(++seed), rounded_all<bf16>(want), "bf16, n ", n);
      require_same_bits(rows.run_in_place(++seed), want, "in place, n ", n);
    }
  }
}

TUILI_TEST(norms_have_the_bits_of_the_cpu) {
  for (const int64_t n : kLengths) check_norms(3, n);
}

TUILI_TEST(norms_of_many_short_rows_have_the_bits_of_the_cpu) {
  for (const int64_t n : {1, 33, 1024, 1025}) check_norms(531, n);
  check_norms(528, 2048);
}

TUILI_TEST(rms_norm_of_heads_leaves_what_lies_between_the_rows) {
  for (const int64_t n_tokens : {5, 200}) {
    const NormCase heads{Norm::rms, n_tokens * 3, 20, Addend::no, 3, 7};
    require_same_bits(heads.run_in_place(1), heads.expected(heads.x()), n_tokens, " × 3 heads");
  }
}

TUILI_TEST(a_row_of_a_norm_ignores_the_others) {
  for (const Norm norm : {Norm::rms, Norm::layer}) {
    const NormCase many{norm, 537, 576};
    const std::vector<float> all = many.run<float>(1), x = many.x();
    for (int64_t t = 0; t < 537; t += 67) {
      OnDevice<float> row(std::vector<float>(x.begin() + t * 576, x.begin() + (t + 1) * 576));
      OnDevice<float> gain(many.gain()), bias(many.bias());
      const cuda::NormArgs args{row.output(), row.get(), nullptr, gain.get(), bias.get(), 1,
                                576,          1,         576,     kEps};
      emulation::set_seed(uint64_t(t));
      device::check(norm == Norm::rms ? cuda::rms_norm(nullptr, args) : cuda::layer_norm(nullptr, args),
                    "norm");
      require(same_bits(row.read().data(), &all[size_t(t * 576)], 576), "row ", t, " depends on its batch");
    }
  }
}

TUILI_TEST(a_norm_of_nothing_is_nothing_and_other_types_are_refused) {
  OnDevice<float> x(std::vector<float>(4));
  cuda::NormArgs args{x.output(), x.get(), nullptr, x.get(), nullptr, 0, 4, 1, 4, kEps};
  device::check(cuda::rms_norm(nullptr, args), "rms_norm");
  args.n_rows = 1;
  args.y.dtype = DType::f16;
  require_error("invalid argument",
                error_of([&] { device::check(cuda::rms_norm(nullptr, args), "rms_norm"); }));
  require_error("invalid argument",
                error_of([&] { device::check(cuda::layer_norm(nullptr, args), "layer_norm"); }));
}

TUILI_TEST(l2_normalize_has_the_bits_of_the_cpu) {
  for (const int64_t n : kLengths) {
    std::vector<float> x = normals<float>(size_t(4 * n), uint64_t(n));
    std::fill_n(x.begin(), n, 0.0f);                                // a row of length zero
    for (int64_t i = 2 * n; i < 3 * n; ++i) x[size_t(i)] *= 1e25f;  // its squares are infinite
    if (n > 1) x[size_t(3 * n)] = NAN;
    std::vector<float> want(x.size());
    cpu_kernels().l2_normalize(want.data(), x.data(), n, {0, 4});
    OnDevice<float> rows(x);
    emulation::set_seed(uint64_t(n));
    device::check(cuda::l2_normalize(nullptr, rows.get(), rows.get(), 4, n), "l2_normalize");
    std::vector<float> got = rows.read();
    for (int64_t i = 3 * n; n > 1 && i < 4 * n; ++i) {
      require(std::isnan(got[size_t(i)]), "a NaN in the row, and element ", i, " is ", got[size_t(i)]);
    }
    got.resize(size_t(n > 1 ? 3 * n : 4 * n));
    want.resize(got.size());
    require_same_bits(got, want, "n ", n);
  }
}

TUILI_TEST(pooled_rows_have_the_bits_of_the_cpu) {
  std::vector<int32_t> n_rows{1, 5, 31, 32, 33, 100, 200};
  for (const int64_t n : {1, 384, 600}) {
    if (n == 1) n_rows.resize(600, 2);  // more texts than one launch takes
    std::vector<float> x, mean, weighted, most;
    for (const int64_t n_tokens : n_rows) {
      std::vector<float> rows = normals<float>(size_t(n_tokens * n), uint64_t(n_tokens + n));
      if (n > 1) rows[size_t(n_tokens / 2 * n)] = NAN;
      for (int64_t t = 0; t < n_tokens && n > 1; ++t) rows[size_t(t * n + 1)] = t % 3 == 1 ? -0.0f : 0.0f;
      x.insert(x.end(), rows.begin(), rows.end());
      std::vector<float> pooled(rows.begin(), rows.begin() + n);
      for (size_t i = size_t(n); i < rows.size(); ++i) {
        float& largest = pooled[i % size_t(n)];
        if (!(rows[i] < largest) && !std::isnan(largest)) largest = rows[i];
      }
      most.insert(most.end(), pooled.begin(), pooled.end());
      cpu_kernels().mean_rows(pooled.data(), rows.data(), n_tokens, n);
      mean.insert(mean.end(), pooled.begin(), pooled.end());
      for (size_t i = 0; i < rows.size(); ++i) rows[i] *= 2 * float(i / size_t(n) + 1) / float(n_tokens + 1);
      cpu_kernels().mean_rows(pooled.data(), rows.data(), n_tokens, n);
      weighted.insert(weighted.end(), pooled.begin(), pooled.end());
    }
    OnDevice<float> rows(x), y(mean.size());
    const auto check = [&](const char* op, int status, std::vector<float> want) {
      device::check(status, op);
      std::vector<float> got = y.read();
      for (size_t i = 0; n > 1 && i < want.size(); i += size_t(n)) {
        require(std::isnan(got[i]) == std::isnan(want[i]), op, ": a NaN gives ", got[i]);
        if (std::isnan(want[i])) got[i] = want[i] = 0;
      }
      require_same_bits(got, want, op, " of ", n);
    };
    emulation::set_seed(uint64_t(n));
    check("mean", cuda::mean_rows(nullptr, y.get(), rows.get(), n_rows, n), mean);
    check("weighted", cuda::weighted_mean_rows(nullptr, y.get(), rows.get(), n_rows, n), weighted);
    check("max", cuda::max_rows(nullptr, y.get(), rows.get(), n_rows, n), most);
    n_rows.resize(7);
  }
  OnDevice<float> x(std::vector<float>(4));
  const std::vector<int32_t> none{1, 0};
  require_error("invalid argument", error_of([&] {
                  device::check(cuda::mean_rows(nullptr, x.get(), x.get(), none, 1), "mean");
                }));
}

}  // namespace
