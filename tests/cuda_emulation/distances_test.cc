// Scores from distances on the emulated device: bit for bit the chains of the contract, whatever else is in
// the batch.
#include "cuda_runtime.h"
#include "device_testing.h"
#include "ops/on_device.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

constexpr int64_t kHeads = 2, kPlaces = 9, kOrigin = 150, kLongest = 160;
constexpr float kScale = 0.3f;

struct Tables {
  int64_t head_dim;
  std::vector<bf16> keys = normals<bf16>(size_t(kHeads * kPlaces * head_dim), 1);
  std::vector<bf16> queries = normals<bf16>(size_t(kHeads * kPlaces * head_dim), 2);
  std::vector<int32_t> places = [] {
    std::vector<int32_t> places;
    for (int64_t i = 0; i <= 2 * kOrigin; ++i) places.push_back(int32_t(i * (kPlaces - 1) / (2 * kOrigin)));
    return places;
  }();
};

enum class Parts { both, keys, queries };

// Of texts of so many tokens, whose rows of q and k are those of one long text from its beginning on; or of
// the rows `asked` of one text, which are those of q.
std::vector<float> answer(const Tables& tables, const std::vector<float>& q, const std::vector<float>& k,
                          const std::vector<int64_t>& lengths, Parts parts,
                          const std::vector<cuda::AttentionSequence>& asked = {}) {
  const int64_t row = kHeads * tables.head_dim;
  std::vector<float> qs, ks;
  std::vector<cuda::AttentionSequence> texts;
  int64_t n_tokens = 0, max_rows = 0;
  for (const int64_t n : lengths) {
    texts.push_back({int32_t(n_tokens), int32_t(n), 0, int32_t(n), int32_t(7 + n_tokens)});
    if (asked.empty()) qs.insert(qs.end(), q.begin(), q.begin() + n * row);
    ks.insert(ks.end(), k.begin(), k.begin() + n * row);
    n_tokens += n;
    max_rows = std::max(max_rows, n);
  }
  if (!asked.empty()) {
    qs = q;
    n_tokens = std::ssize(q) / row;
  }
  const std::vector<cuda::AttentionSequence>& sequences = asked.empty() ? texts : asked;
  OnDevice<float> bias(std::vector<float>(size_t(kHeads * n_tokens * kLongest), NAN)), q_rows(qs), k_rows(ks);
  OnDevice<cuda::AttentionSequence> list(sequences), whole(texts);
  OnDevice<bf16> keys(tables.keys), queries(tables.queries);
  OnDevice<int32_t> places(tables.places);
  device::check(cuda::distance_bias(nullptr, {.bias = bias.get(),
                                              .ld_bias = kLongest,
                                              .q = q_rows.get(),
                                              .k = k_rows.get(),
                                              .ld = row,
                                              .keys = parts == Parts::queries ? nullptr : keys.get(),
                                              .queries = parts == Parts::keys ? nullptr : queries.get(),
                                              .n_rows = kPlaces,
                                              .places = places.get(),
                                              .origin = kOrigin,
                                              .sequences = list.get(),
                                              .texts = whole.get(),
                                              .n_sequences = std::ssize(sequences),
                                              .n_texts = std::ssize(texts),
                                              .max_rows = max_rows,
                                              .n_tokens = n_tokens,
                                              .n_heads = kHeads,
                                              .head_dim = tables.head_dim,
                                              .scale = kScale}),
                "distance_bias");
  return bias.read();
}

void check(int64_t head_dim, Parts parts, int64_t n) {
  const Tables tables{head_dim};
  const auto size = size_t(std::max<int64_t>(n, 5) * kHeads * head_dim);  // of the text beside, too
  const std::vector<float> q = normals<float>(size, 3), k = normals<float>(size, 4);
  const auto found = answer(tables, q, k, {n}, parts), beside = answer(tables, q, k, {5, n, 1}, parts);
  for (int64_t head = 0; head < kHeads; ++head) {
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t key = 0; key < n; ++key) {
        const int64_t place = tables.places[size_t(kOrigin + row - key)];
        const auto product = [&](const std::vector<float>& x, int64_t t, const std::vector<bf16>& table) {
          float sum = 0;
          for (int64_t d = 0; d < head_dim; ++d)
            sum = std::fma(x[size_t((t * kHeads + head) * head_dim + d)],
                           float(value(table[size_t((head * kPlaces + place) * head_dim + d)])), sum);
          return sum;
        };
        float score = parts == Parts::queries ? 0 : product(q, row, tables.keys);
        if (parts != Parts::keys) score += product(k, key, tables.queries);
        const float got = found[size_t((head * n + row) * kLongest + key)], want = score * kScale;
        require(same_bits(&got, &want, 1), "row ", row, ", key ", key, ": ", got, ", not ", want);
        const float other = beside[size_t((head * (n + 6) + 5 + row) * kLongest + key)];
        require(same_bits(&got, &other, 1), "row ", row, ", key ", key, " depends on its batch");
      }
    }
  }
}

TUILI_TEST(scores_from_distances_are_the_chains_of_the_contract_in_any_batch) {
  check(64, Parts::both, 150);
  check(8, Parts::keys, 20);
  check(24, Parts::queries, 20);
  check(7, Parts::both, 20);
}

// Tiles of 32 rows and 64 keys, slices of 64 dimensions.
TUILI_TEST(scores_from_distances_at_the_edges_of_tiles_are_the_chains_of_the_contract) {
  for (const int64_t n : {1, 31, 32, 33, 63, 64, 65, 96, 97}) check(8, Parts::both, n);
  for (const int64_t head_dim : {1, 63, 65, 72, 131, 256}) check(head_dim, Parts::both, 34);
}

TUILI_TEST(rows_of_a_text_have_the_bits_of_all_its_rows) {
  const Tables tables{24};
  const int64_t n = 20, row = kHeads * tables.head_dim, asked = 13, n_asked = 2;
  const std::vector<float> q = normals<float>(size_t(n * row), 3), k = normals<float>(size_t(n * row), 4);
  const auto all = answer(tables, q, k, {n}, Parts::both);
  const std::vector<float> some(q.begin() + asked * row, q.begin() + (asked + n_asked) * row);
  const auto found = answer(tables, some, k, {n}, Parts::both, {{0, n_asked, asked, n, 7}});
  for (int64_t head = 0; head < kHeads; ++head)
    for (int64_t i = 0; i < n_asked; ++i)
      require(same_bits(&found[size_t((head * n_asked + i) * kLongest)],
                        &all[size_t((head * n + asked + i) * kLongest)], n),
              "head ", head, ", row ", asked + i);
}

TUILI_TEST(biases_of_more_than_kernels_count_are_refused) {
  cuda::DistanceArgs args{};
  args.n_sequences = args.max_rows = args.n_tokens = args.n_heads = 1;
  args.head_dim = 8;
  args.ld_bias = int64_t{1} << 32;
  require(cuda::distance_bias(nullptr, args) == cudaErrorInvalidValue, "a bias of 2^32");
}

TUILI_TEST(distances_beyond_the_table_of_places_are_refused) {
  const int64_t n = 4, d = 8;
  OnDevice<float> q(std::vector<float>(n * d, 1.0f)), scores(size_t(n * 64));
  OnDevice<cuda::AttentionSequence> texts({{0, int32_t(n), 0, int32_t(n), 0}});
  OnDevice<int32_t> places(std::vector<int32_t>(2 * n - 1));
  const TensorView x = q.view({n, d});
  ops::AttentionSpec spec;
  spec.n_heads = spec.n_kv_heads = 1;
  spec.head_dim = d;
  spec.causal = false;
  const ops::DeviceSequences sequences{texts.get(), 1, nullptr, n, 64};
  ops::Distances distances;
  distances.places = places.get();
  distances.n_rows = kPlaces;
  distances.room.scores = scores.view({1, n * 64});
  const auto error = [&](int64_t origin) {
    distances.origin = origin;
    return error_of([&] {
      ops::on_device::distance_attention({}, spec, x, x, x, {}, sequences, sequences, distances, {});
    });
  };
  require_error("texts of 4 rows; there are places for distances up to 2", error(2));
  require_error("pages of 0 heads", error(3));
}

}  // namespace
