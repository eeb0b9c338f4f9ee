// int8 pages on the emulated device: codes and scales are those of the contract, and attention reads them as
// it reads pages of f16 that hold what they stand for, bit for bit.

#include "cuda_runtime.h"
#include "device_testing.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT
using cuda::Causal;

struct Heads {
  int64_t n_heads = 4, n_kv_heads = 2, head_dim = 64, block_size = 16;
  int64_t row() const { return n_kv_heads * head_dim; }
};

// Keys and values in pages of codes, whose blocks lie apart and in no order, and in pages of numbers.
template <typename T = __half>
class Coded {
 public:
  Coded(const Heads& heads, const std::vector<float>& k, const std::vector<float>& v)
      : heads_(heads),
        n_keys_(std::ssize(k) / heads.row()),
        n_blocks_((n_keys_ + heads.block_size - 1) / heads.block_size),
        block_(heads.row() * heads.block_size),
        keys_(std::vector<int8_t>(size_t(3 * n_blocks_ * block_), 0x55)),
        values_(std::vector<int8_t>(size_t(3 * n_blocks_ * block_), 0x55)),
        key_scales_(std::vector<float>(size_t(3 * n_blocks_ * block_ / heads.head_dim), NAN)),
        value_scales_(std::vector<float>(size_t(3 * n_blocks_ * block_ / heads.head_dim), NAN)),
        number_keys_(std::vector<T>(size_t(3 * n_blocks_ * block_), rounded<T>(NAN))),
        number_values_(std::vector<T>(size_t(3 * n_blocks_ * block_), rounded<T>(NAN))) {
    for (int64_t i = 0; i < n_blocks_; ++i) blocks_.push_back(int32_t((n_blocks_ - 1 - i) * 3 + i % 2));
    write(codes(), k, v);
    write(numbers(), decoded(keys_.read(), key_scales_.read()),
          decoded(values_.read(), value_scales_.read()));
  }

  KvPages codes() {
    return {keys_.get(),     values_.get(), DType::i8,         heads_.block_size,   heads_.n_kv_heads,
            heads_.head_dim, block_,        key_scales_.get(), value_scales_.get(), block_ / heads_.head_dim};
  }
  KvPages numbers() {
    return {number_keys_.get(), number_values_.get(), type_of<T>(), heads_.block_size,
            heads_.n_kv_heads,  heads_.head_dim,      block_};
  }
  const std::vector<int32_t>& blocks() const { return blocks_; }
  int64_t n_keys() const { return n_keys_; }

  // What kernels/cpu/kernels.h says of kv_write, which the CPU's tests hold to it.
  void require_the_contracts(const std::vector<float>& k, const std::vector<float>& v) {
    const std::vector<int8_t> keys = keys_.read(), values = values_.read();
    const std::vector<float> key_scales = key_scales_.read(), value_scales = value_scales_.read();
    for (int64_t t = 0; t < n_keys_; ++t) {
      for (int64_t h = 0; h < heads_.n_kv_heads; ++h) {
        const int64_t from = t * heads_.row() + h * heads_.head_dim, to = scale_at(t, h);
        require_coded(&k[size_t(from)], &keys[size_t(to * heads_.head_dim)], key_scales[size_t(to)]);
        require_coded(&v[size_t(from)], &values[size_t(to * heads_.head_dim)], value_scales[size_t(to)]);
      }
    }
  }

 private:
  void require_coded(const float* x, const int8_t* codes, float scale) const {
    float amax = 0;
    bool is_finite = true;
    for (int64_t d = 0; d < heads_.head_dim; ++d) {
      amax = std::max(amax, std::abs(x[d]));
      is_finite = is_finite && std::isfinite(x[d]);
    }
    const bool usable = is_finite && amax >= 0x1p-100f;
    const float want = !is_finite ? NAN : usable ? amax / 127 : 0.0f;
    require(same_bits(&scale, &want, 1), "a scale is ", scale, ", not ", want);
    for (int64_t d = 0; d < heads_.head_dim; ++d) {
      const float code = usable ? std::nearbyint(x[d] * (127 / amax)) : 0.0f;
      require(float(codes[d]) == code, "the code of ", x[d], " beside ", amax, " is ", int(codes[d]),
              ", not ", code);
    }
  }
  int64_t scale_at(int64_t t, int64_t head) const {
    const int64_t size = heads_.block_size;
    return (blocks_[size_t(t / size)] * heads_.n_kv_heads + head) * size + t % size;
  }
  void write(const KvPages& pages, const std::vector<float>& k, const std::vector<float>& v) {
    std::vector<int32_t> slots;
    for (int64_t t = 0; t < n_keys_; ++t)
      slots.push_back(blocks_[size_t(t / heads_.block_size)] * int32_t(heads_.block_size) +
                      int32_t(t % heads_.block_size));
    OnDevice<float> ks(k), vs(v);
    OnDevice<int32_t> places(slots);
    device::check(cuda::kv_write(nullptr, pages, ks.get(), vs.get(), heads_.row(), places.get(), n_keys_),
                  "kv_write");
  }
  std::vector<float> decoded(const std::vector<int8_t>& codes, const std::vector<float>& scales) const {
    std::vector<float> x;
    for (int64_t t = 0; t < n_keys_; ++t)
      for (int64_t i = 0; i < heads_.row(); ++i) {
        const int64_t at = scale_at(t, i / heads_.head_dim);
        x.push_back(float(codes[size_t(at * heads_.head_dim + i % heads_.head_dim)]) * scales[size_t(at)]);
      }
    return x;
  }

  Heads heads_;
  int64_t n_keys_, n_blocks_, block_;  // block_: elements of a block
  std::vector<int32_t> blocks_;
  OnDevice<int8_t> keys_, values_;
  OnDevice<float> key_scales_, value_scales_;
  OnDevice<T> number_keys_, number_values_;
};

std::vector<float> vectors(const Heads& heads, int64_t n_keys, uint64_t seed) {
  return normals<float>(size_t(n_keys * heads.row()), seed);
}

void check_codes(const Heads& heads, const std::vector<float>& k, const std::vector<float>& v) {
  Coded<>(heads, k, v).require_the_contracts(k, v);
}

TUILI_TEST(codes_and_scales_are_those_of_the_contract) {
  check_codes({}, vectors({}, 37, 1), vectors({}, 37, 2));
  for (const int64_t head_dim : {8, 13, 24, 80, 256}) {
    const Heads heads{.n_kv_heads = 3, .head_dim = head_dim, .block_size = 32};
    check_codes(heads, vectors(heads, 5, 3), vectors(heads, 5, 4));
  }
}

TUILI_TEST(codes_of_odd_vectors_are_those_of_the_contract) {
  const Heads heads{.n_kv_heads = 1, .head_dim = 8};
  constexpr float kMany = 65504;
  const std::vector<float> k{0,     0,      0,      0,    0,     0,     0,    0,      // no scale
                             1e-33, 0,      -1e-34, 0,    0,     0,     0,    0,      // below 2^-100
                             NAN,   1,      2,      3,    0,     0,     0,    0,      //
                             127,   0.5f,   1.5f,   2.5f, -0.5f, -1.5f, -127, 63.5f,  // ties go to even
                             kMany, -kMany, 1,      -1,   0,     0,     0,    0};
  check_codes(heads, k, k);
}

// Rows [first, n_keys) of q over the pages, in one launch.
template <typename T>
std::vector<float> attend(Coded<T>& text, const Heads& heads, const KvPages& pages, int64_t first,
                          Causal causal, int64_t window, int64_t most_keys) {
  const int64_t n_rows = text.n_keys() - first, row = heads.n_heads * heads.head_dim;
  const int64_t max_keys = std::max(text.n_keys(), most_keys);
  const int64_t one_split = max_keys > 512 ? n_rows * heads.n_heads * (heads.head_dim + 2) : 0;
  const int64_t floats =
      most_keys ? one_split : cuda::attention_partial_floats(n_rows, heads.n_heads, heads.head_dim, max_keys);
  OnDevice<float> q(normals<float>(size_t(n_rows * row), 5)), out(size_t(n_rows * row)),
      partials(std::vector<float>(size_t(floats), NAN));
  OnDevice<int32_t> table(text.blocks());
  OnDevice<cuda::AttentionSequence> list(
      std::vector<cuda::AttentionSequence>{{0, int32_t(n_rows), int32_t(first), int32_t(text.n_keys()), 0}});
  device::check(cuda::attention(nullptr, {.out = out.output(),
                                          .ld_out = row,
                                          .q = q.get(),
                                          .ld_q = row,
                                          .pages = pages,
                                          .blocks = table.get(),
                                          .sequences = list.get(),
                                          .n_sequences = 1,
                                          .max_rows = n_rows,
                                          .max_keys = max_keys,
                                          .n_tokens = n_rows,
                                          .n_heads = heads.n_heads,
                                          .window = window,
                                          .causal = causal,
                                          .scale = 1 / std::sqrt(float(heads.head_dim)),
                                          .softcap = 0,
                                          .partials = partials.get(),
                                          .partial_floats = floats}),
                "attention");
  return out.read();
}

template <typename T = __half>
void check_attention(const Heads& heads, int64_t n_keys, int64_t first, Causal causal = Causal::yes,
                     int64_t window = 0, int64_t most_keys = 0) {
  Coded<T> text(heads, vectors(heads, n_keys, 1), vectors(heads, n_keys, 2));
  require_same_bits(attend(text, heads, text.codes(), first, causal, window, most_keys),
                    attend(text, heads, text.numbers(), first, causal, window, most_keys), "codes, ", n_keys,
                    " keys, heads of ", heads.head_dim);
}

TUILI_TEST(attention_over_codes_has_the_bits_of_that_over_their_halves) {
  constexpr int64_t kCrowded = 512 * 400;  // so many splits that other shapes take them
  for (const int64_t head_dim : {8, 24, 64, 80, 128, 136, 256}) {
    const Heads heads{.head_dim = head_dim, .block_size = head_dim == 80 ? 32 : 16};
    check_attention(heads, 150, 149);
    check_attention(heads, 150, 110);
    if (head_dim % 64 == 0) check_attention(heads, 100, 20, Causal::yes, 0, kCrowded);
    if (head_dim % 64 == 0) check_attention(heads, 100, 99, Causal::yes, 0, kCrowded);
  }
  check_attention({.n_heads = 2, .n_kv_heads = 1, .block_size = 64}, 600, 590);
  check_attention({.n_heads = 2, .n_kv_heads = 1}, 200, 150, Causal::yes, 40);
  check_attention({.n_heads = 2, .n_kv_heads = 2}, 90, 0, Causal::no);
}

// Without tensor cores nothing is rounded but the product of scale and code.
TUILI_TEST(attention_over_codes_of_odd_heads_has_the_bits_of_that_over_their_numbers) {
  check_attention<float>({.head_dim = 13}, 90, 85);
  check_attention<float>({.n_heads = 2, .n_kv_heads = 1, .head_dim = 180, .block_size = 32}, 70, 69);
}

TUILI_TEST(pages_of_codes_without_scales_or_too_wide_are_refused) {
  const Heads heads{};
  Coded<> text(heads, vectors(heads, 3, 1), vectors(heads, 3, 2));
  KvPages bare = text.codes(), wide = text.codes();
  bare.v_scale = nullptr;
  wide.head_dim = 264;
  OnDevice<float> x(vectors(heads, 3, 1));
  OnDevice<int32_t> slots(std::vector<int32_t>{0, 1, 2});
  for (const KvPages& pages : {bare, wide})
    require(cuda::kv_write(nullptr, pages, x.get(), x.get(), heads.row(), slots.get(), 3) ==
                cudaErrorInvalidValue,
            "kv_write takes them");
  cuda::AttentionArgs args{};
  args.pages = bare;
  args.n_sequences = args.max_rows = args.n_tokens = 1;
  args.max_keys = 40;
  args.n_heads = 4;
  args.scale = 1;
  require(cuda::attention(nullptr, args) == cudaErrorInvalidValue, "attention takes them");
}

}  // namespace
