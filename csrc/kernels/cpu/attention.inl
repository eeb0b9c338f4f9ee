// Attention over paged keys and values. Up to 12 queries (a query is one row of one head) of one kv head go
// through the key tiles together: scores and the weighted sum of values are then small GEMMs, and each key
// and value is loaded once for several queries. The bits of a query do not depend on its companions: keys
// that it does not see have p = 0, which changes no sum but for the sign of a zero, and the last step removes
// that.
//
// Log: decoding of SmolLM2 Q4_1 behind 1,050 and 3,100 keys (f16, 2 threads), GB/s of keys and values beyond
// the time at 8 keys; the machine reads 26-34.
//   v1 asks for all pages of the tile at once       14.7, 14.1
//   v2 a few lines at a time, one half tile ahead   16.7, 18.5
//   v3 one tile ahead, into the second cache        26, 26
// Cycles per key of a query, encoders' heads of 32 with 8 / 104 / 200 keys (AVX-512; AVX2):
//   v3 8 rows at a time                             34 / 6.4 / 6.1    40 / 7.4 / 7.4
//   v4 12 rows; no exp of 16 keys that are unseen;
//      no prefetches beside the chains              20 / 5.3 / 5.0    23 / 6.1 / 5.6
// v5 asks for the next head's pages during a head's last tile: a Marian's decoder (bench/translation.py,
//    int8, one thread, AVX-512), 32 rows 1,880 -> 2,130 tokens a second; 64 rows of beams 620 -> 670
// v6 asks for the lines of a page in a loop of their own: one row takes 5 to 33 % fewer instructions (AVX2)
// v7 has all heads of a row of many on one thread, so that what v5 asks for is what comes next: 16 sequences
//    of SmolLM2 Q4_0 at 128-192 keys, 2 threads, 90 -> 77 us a layer. One with most of the keys keeps its
//    heads apart (ops/attention.cc): beside three short ones a step of a tiny model 93 -> 60 us
// Tried without gain: asking ahead for the lines that a new key is written to; for encoders all rows of a
// head in turn, tiles of 6 rows by 4 pieces, no divisions to find rows, a short way for tiles that are seen
// whole (together -0.2 to -0.5 %).

namespace tuili::cpu::TUILI_ISA {
namespace {

constexpr int64_t kFewQueries = 8;  // as in decoding: bound by memory

TUILI_INLINE int64_t padded(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Queries first, first + 1, … of one kv head, numbered row by row, head by head.
constexpr int64_t kMaxima = 16;  // kQueryTile, padded so that one exp serves all queries
struct Queries {
  int64_t count;
  int64_t stride;                                      // floats between queries in q, out and total
  float* q;                                            // [count][stride]
  float* scores;                                       // [count][64], then the probabilities
  float* out;                                          // of the current split   [count][stride]
  float* total;                                        // of the splits so far   [count][stride]
  Range seen[kQueryTile];                              // keys that a query sees
  const float* bias[kQueryTile];                       // of key 0, if there is a bias
  float max[kMaxima], sum[kQueryTile];                 // of the current split
  float new_max[kMaxima];                              // with the current tile
  float total_max[kQueryTile], total_sum[kQueryTile];  // of the splits so far; sum 0: none
};

TUILI_INLINE Range seen_keys(const AttentionArgs& args, int64_t row) {
  const int64_t position = args.position + row;
  const int64_t after = args.causal ? 1 : args.window > 0 ? args.window : args.n_keys;
  const int64_t end = smaller(position + after, args.n_keys);
  return {args.window > 0 ? larger(0, position - args.window + 1) : 0, end};
}

TUILI_INLINE Range overlap(Range a, Range b) { return {larger(a.begin, b.begin), smaller(a.end, b.end)}; }

Queries gather(const AttentionArgs& args, int64_t kv_head, int64_t first_query, int64_t count) {
  const int64_t head_dim = args.pages.head_dim, group = args.n_heads / args.pages.n_kv_heads;
  const int64_t size = kQueryTile * padded(head_dim);
  Queries out;
  out.count = count;
  out.stride = padded(head_dim);
  out.q = args.scratch;
  out.out = out.q + size;
  out.total = out.out + size;
  out.scores = out.total + size;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = (first_query + i) / group, head = kv_head * group + (first_query + i) % group;
    const float* q = args.q + row * args.ld_q + head * head_dim;
    for_each_16({0, head_dim}, [&](int64_t d, int64_t count) {
      store(out.q + i * out.stride + d, load_up_to(q + d, count));
    });
    out.seen[i] = seen_keys(args, row);
    if (args.bias)
      out.bias[i] = args.bias + head * args.bias_stride + args.bias_origin -
                    (args.bias_relative ? args.position + row : 0);
    out.total_sum[i] = 0;
  }
  return out;
}

// Keys that at least one query sees, within `keys`.
TUILI_INLINE Range seen_by_any(const Queries& queries, Range keys) {
  Range any = {keys.end, keys.begin};
  for (int64_t i = 0; i < queries.count; ++i) {
    const Range seen = overlap(queries.seen[i], keys);
    if (seen.begin >= seen.end) continue;
    any = {smaller(any.begin, seen.begin), larger(any.end, seen.end)};
  }
  return any;
}

// The first element of a page of the kv head, and the key's offset in the page.
TUILI_INLINE int64_t page_of(const AttentionArgs& args, int64_t kv_head, int64_t key) {
  const KvPages& p = args.pages;
  return args.blocks[key / p.block_size] * p.block_stride + kv_head * p.head_dim * p.block_size;
}

// The scale of a key, or of its value; those of the keys after it in the page follow.
TUILI_INLINE float* scale_of(const AttentionArgs& args, float* scales, int64_t kv_head, int64_t key) {
  const KvPages& p = args.pages;
  return scales + args.blocks[key / p.block_size] * p.scale_stride + kv_head * p.block_size +
         key % p.block_size;
}

// scores[q][t] = scores[q][t] · scale of key t, for the keys that a query sees; zero for those beside them in
// their pieces of 16, whose scale may be NaN. For scores of codes, and for the probabilities of coded values.
void apply_scales(const AttentionArgs& args, float* scales, int64_t kv_head, Queries& queries, int64_t tile) {
  for (int64_t i = 0; i < queries.count; ++i) {
    const Range seen = overlap(queries.seen[i], {tile, tile + kKeyTile});
    if (seen.begin >= seen.end) continue;
    float* const scores = queries.scores + i * kKeyTile - tile;
    const int64_t begin = seen.begin / 16 * 16, end = (seen.end + 15) / 16 * 16;
    for (int64_t key = begin; key < end; key += 16)
      store(scores + key, load(scores + key) * load(scale_of(args, scales, kv_head, key)));
    for (int64_t key = begin; key < seen.begin; ++key) scores[key] = 0;
    for (int64_t key = seen.end; key < end; ++key) scores[key] = 0;
  }
}

// What is read next: the pages of the next tile of keys, or of the next head. Few queries would leave the
// memory idle at each page, because it is far from the one before it. They are asked for a few lines at a
// time while this tile is computed with: all at once they would fill the queue of misses and hold up the
// loads behind them.
struct Ahead {
  struct Rows {
    const char* at;
    int64_t count, bytes, stride;
  };
  Rows pages[2 * (kKeyTile / 16 + 1)];
  int64_t n_pages = 0, page = 0, row = 0, byte = 0;

  // Multiplications of a chain until the next look: all `n` where nothing is ahead.
  TUILI_INLINE int64_t stretch(int64_t n) const { return n_pages > 0 ? smaller(n, 8) : n; }

  // As much as was read meanwhile, into the second cache: the first one is full of this tile.
  TUILI_INLINE void fetch(int64_t bytes) {
    // Out of the way of chains that have nothing ahead: those of many queries keep their registers.
    if (__builtin_expect(page >= n_pages, true)) return;
    for (int64_t lines = (bytes + 63) / 64; lines > 0 && page < n_pages;) {
      const Rows& rows = pages[page];
      const char* const at = rows.at + row * rows.stride + byte;
      const int64_t n = smaller(lines, (rows.bytes - byte + 63) / 64);
      for (int64_t i = 0; i < n; ++i) __builtin_prefetch(at + 64 * i, 0, 2);
      lines -= n;
      byte += 64 * n;
      if (byte < rows.bytes) continue;
      byte = 0;
      if (++row == rows.count) ++page, row = 0;
    }
  }
};

// After this head's keys of the tile before; nothing for many queries, which are bound by computing.
template <class T>
TUILI_INLINE Ahead ahead_of(const AttentionArgs& args, int64_t kv_head, const Queries& queries,
                            int64_t tile) {
  const int64_t block_size = args.pages.block_size, head_dim = args.pages.head_dim;
  const int64_t size = sizeof(T);
  Ahead out;
  if (queries.count > kFewQueries) return out;
  Range keys = seen_by_any(queries, {tile, tile + kKeyTile});
  if (keys.begin >= keys.end) {
    if (++kv_head == args.pages.n_kv_heads) return out;
    tile = seen_by_any(queries, {0, args.n_keys}).begin / kKeyTile * kKeyTile;
    keys = seen_by_any(queries, {tile, tile + kKeyTile});
  }
  const auto each_page = [&](const auto& add) {
    for (int64_t key = keys.begin / 16 * 16; key < keys.end; key = (key / block_size + 1) * block_size)
      out.pages[out.n_pages++] = add(page_of(args, kv_head, key), key % block_size,
                                     smaller(block_size - key % block_size, keys.end - key));
  };
  each_page([&](int64_t page, int64_t first, int64_t n) {
    const char* const at = static_cast<const char*>(args.pages.k) + (page + first) * size;
    if (n == block_size) return Ahead::Rows{at, 1, head_dim * n * size, 0};
    return Ahead::Rows{at, head_dim, n * size, block_size * size};
  });
  each_page([&](int64_t page, int64_t first, int64_t n) {
    return Ahead::Rows{static_cast<const char*>(args.pages.v) + (page + first * head_dim) * size, 1,
                       n * head_dim * size, 0};
  });
  return out;
}

// scores of kRows queries with kPieces times 16 keys.
template <int kRows, int kPieces, class T>
TUILI_INLINE void score_pieces(const AttentionArgs& args, int64_t kv_head, const Queries& queries,
                               int64_t first, int64_t key, float* scores, Ahead& ahead) {
  const int64_t block_size = args.pages.block_size;
  const T* k[kPieces];
  for (int p = 0; p < kPieces; ++p)
    k[p] = static_cast<const T*>(args.pages.k) + page_of(args, kv_head, key + 16 * p) +
           (key + 16 * p) % block_size;
  Floats acc[kRows][kPieces];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) acc[r][p] = zero();
  for (int64_t d = 0, n = 0; d < args.pages.head_dim; d += n) {
    n = ahead.stretch(args.pages.head_dim - d);
    chains<0>(acc, queries.q + first * queries.stride + d, queries.stride, k, block_size, n);
    for (int p = 0; p < kPieces; ++p) k[p] += n * block_size;
    ahead.fetch(n * kPieces * 16 * int64_t{sizeof(T)});
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) store(scores + (first + r) * kKeyTile + 16 * p, acc[r][p]);
}

// scores[q][t] = q · k[t] for the 16-key pieces of the tile that hold keys of `any`.
template <class T>
void tile_scores(const AttentionArgs& args, int64_t kv_head, const Queries& queries, int64_t tile, Range any,
                 Ahead& ahead) {
  for_each_tile<kFloatRows>(queries.count, [&]<int kRows>(int64_t first) {
    constexpr int kPieces = panels_for(kRows);
    int64_t key = any.begin / 16 * 16;
    const auto take = [&]<int kTaken>() {
      for (; key + 16 * (kTaken - 1) < any.end; key += 16 * kTaken)
        score_pieces<kRows, kTaken, T>(args, kv_head, queries, first, key, queries.scores + (key - tile),
                                       ahead);
    };
    take.template operator()<kPieces>();
    if constexpr (kPieces > 2) take.template operator()<2>();  // chains of one piece wait for their sums
    if constexpr (kPieces > 1) take.template operator()<1>();
  });
}

// Whether the 16 keys from `first` on hold one that is seen.
TUILI_INLINE bool is_seen(Range seen, int64_t first) { return seen.begin < first + 16 && seen.end > first; }

// Scales the scores of the queries, hides unseen keys beside seen ones, and finds the largest scores up to
// this tile.
void tile_maxima(const AttentionArgs& args, Queries& queries, int64_t tile) {
  const Floats hidden = splat(-__builtin_inff());
  for (int64_t i = 0; i < queries.count; ++i) {
    float* scores = queries.scores + i * kKeyTile - tile;
    queries.new_max[i] = queries.max[i];
    const Range seen = overlap(queries.seen[i], {tile, tile + kKeyTile});
    if (seen.begin >= seen.end) continue;
    Floats score[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const int64_t key = tile + 16 * p;
      score[p] = hidden;
      if (!is_seen(seen, key)) continue;
      score[p] = load(scores + key) * splat(args.scale);
      if (args.softcap > 0) score[p] = capped(score[p], args.softcap);
      if (args.bias) score[p] = score[p] + load(queries.bias[i] + key);
      if (seen.begin > key) score[p] = select(first(seen.begin - key), hidden, score[p]);
      if (seen.end < key + 16) score[p] = select(first(seen.end - key), score[p], hidden);
      store(scores + key, score[p]);
    }
    const float best = max_of(max(max(score[0], score[1]), max(score[2], score[3])));
    if (!(queries.max[i] > best)) queries.new_max[i] = best;
  }
}

// Turns the scores into probabilities and updates max and sum of the queries; factors[q] is what `out` is
// multiplied with.
void tile_softmax(Queries& queries, int64_t tile, float (&factors)[kMaxima]) {
  store(factors, exp(load(queries.max) - load(queries.new_max)));
  for (int64_t i = 0; i < queries.count; ++i) {
    float* scores = queries.scores + i * kKeyTile;
    const Range seen = overlap(queries.seen[i], {tile, tile + kKeyTile});
    if (seen.begin >= seen.end) {
      for (int64_t t = 0; t < kKeyTile; t += 16) store(scores + t, zero());
      factors[i] = 1;
      continue;
    }
    const Floats shift = splat(queries.new_max[i]);
    Floats p[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      p[t] = is_seen(seen, tile + 16 * t) ? exp(load(scores + 16 * t) - shift) : zero();
      store(scores + 16 * t, p[t]);
    }
    const float total = sum((p[0] + p[2]) + (p[1] + p[3]));  // from 0: zero + p is p, because p is never -0
    queries.max[i] = queries.new_max[i];
    queries.sum[i] = fma_scalar(queries.sum[i], factors[i], total);
  }
}

// out[q] = fma(p[q][t], v[t], out[q] · factor[q]) over the keys of `any`, for kRows queries and kPieces times
// 16 of the head's dimensions, from d on; the last piece of all may be narrower.
template <int kRows, int kPieces, class T>
TUILI_INLINE void weigh_pieces(const AttentionArgs& args, int64_t kv_head, const Queries& queries,
                               int64_t first, int64_t tile, Range any, const float* factors, int64_t d,
                               Ahead& ahead) {
  const int64_t block_size = args.pages.block_size, head_dim = args.pages.head_dim;
  const int64_t width = smaller(16, head_dim - d);
  float* out = queries.out + first * queries.stride + d;
  Floats acc[kRows][kPieces];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p)
      acc[r][p] = load(out + r * queries.stride + 16 * p) * splat(factors[first + r]);
  for (int64_t key = any.begin; key < any.end;) {
    const int64_t offset = key % block_size, n = smaller(block_size - offset, any.end - key);
    const T* v[kPieces];
    for (int p = 0; p < kPieces; ++p)
      v[p] =
          static_cast<const T*>(args.pages.v) + page_of(args, kv_head, key) + offset * head_dim + d + 16 * p;
    const float* probabilities = queries.scores + first * kKeyTile + (key - tile);
    if (width == 16) {
      for (int64_t t = 0, few = 0; t < n; t += few) {
        few = ahead.stretch(n - t);
        chains<0>(acc, probabilities + t, kKeyTile, v, head_dim, few);
        for (int p = 0; p < kPieces; ++p) v[p] += few * head_dim;
        ahead.fetch(few * kPieces * 16 * int64_t{sizeof(T)});
      }
    } else {
      for (int64_t t = 0; t < n; ++t) {
        const Floats value = load_first(v[0] + t * head_dim, width);
        for (int r = 0; r < kRows; ++r)
          acc[r][0] = fma(splat(probabilities[r * kKeyTile + t]), value, acc[r][0]);
      }
    }
    key += n;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p) store(out + r * queries.stride + 16 * p, acc[r][p]);
}

// The same for all queries and dimensions.
template <class T>
void weigh_values(const AttentionArgs& args, int64_t kv_head, const Queries& queries, int64_t tile, Range any,
                  const float* factors, Ahead& ahead) {
  const int64_t head_dim = args.pages.head_dim;
  for_each_tile<kFloatRows>(queries.count, [&]<int kRows>(int64_t first) {
    constexpr int kPieces = panels_for(kRows);
    int64_t d = 0;
    for (; d + 16 * kPieces <= head_dim; d += 16 * kPieces)
      weigh_pieces<kRows, kPieces, T>(args, kv_head, queries, first, tile, any, factors, d, ahead);
    for (; d < head_dim; d += 16)
      weigh_pieces<kRows, 1, T>(args, kv_head, queries, first, tile, any, factors, d, ahead);
  });
}

// One split of 512 keys, from a fresh (max, sum, out).
template <class T>
void split_of(const AttentionArgs& args, int64_t kv_head, int64_t split, Queries& queries) {
  for (int64_t i = queries.count; i < kMaxima; ++i) queries.max[i] = queries.new_max[i] = 0;
  for (int64_t i = 0; i < queries.count; ++i) {
    queries.max[i] = -__builtin_inff();
    queries.sum[i] = 0;
    for (int64_t d = 0; d < queries.stride; d += 16) store(queries.out + i * queries.stride + d, zero());
  }
  for (int64_t tile = split * kKeySplit; tile < (split + 1) * kKeySplit; tile += kKeyTile) {
    const Range any = seen_by_any(queries, {tile, tile + kKeyTile});
    if (any.begin >= any.end) continue;
    Ahead ahead = ahead_of<T>(args, kv_head, queries, tile + kKeyTile);
    tile_scores<T>(args, kv_head, queries, tile, any, ahead);
    if constexpr (kCoded<T>) apply_scales(args, args.pages.k_scale, kv_head, queries, tile);
    tile_maxima(args, queries, tile);
    float factors[kMaxima];
    tile_softmax(queries, tile, factors);
    if constexpr (kCoded<T>) apply_scales(args, args.pages.v_scale, kv_head, queries, tile);
    weigh_values<T>(args, kv_head, queries, tile, any, factors, ahead);
  }
}

void split_of_type(const AttentionArgs& args, int64_t kv_head, int64_t split, Queries& queries) {
  switch (args.pages.type) {
    case DType::f32: return split_of<float>(args, kv_head, split, queries);
    case DType::f16: return split_of<Half>(args, kv_head, split, queries);
    case DType::bf16: return split_of<Bfloat>(args, kv_head, split, queries);
    case DType::i8: return split_of<Code>(args, kv_head, split, queries);
    default: return;  // ops/ checks
  }
}

// (total_max, total_sum, total) absorbs (max, sum, out); `out` and `total` are padded to 16.
void merge(float& total_max, float& total_sum, float* total, float max_in, float sum_in, const float* out,
           int64_t size) {
  if (sum_in == 0) return;  // no seen key
  if (total_sum == 0) {
    total_max = max_in;
    total_sum = sum_in;
    for (int64_t d = 0; d < size; d += 16) store(total + d, load(out + d));
    return;
  }
  const float new_max = total_max > max_in ? total_max : max_in;
  const float a = exp_scalar(total_max - new_max), b = exp_scalar(max_in - new_max);
  total_max = new_max;
  total_sum = fma_scalar(total_sum, a, sum_in * b);
  for (int64_t d = 0; d < size; d += 16) {
    store(total + d, fma(load(total + d), splat(a), load(out + d) * splat(b)));
  }
}

// (max, sum) absorb a sink; returns the factor of `out`.
float absorb_sink(float sink, float max, float& sum) {
  const float new_max = max > sink ? max : sink;
  const float factor = exp_scalar(max - new_max);
  sum = fma_scalar(sum, factor, exp_scalar(sink - new_max));
  return factor;
}

// out · (1 / sum) + 0, after the head's sink if there is one; zeros if no key was seen.
void write_result(const AttentionArgs& args, int64_t row, int64_t head, const float* total, float total_max,
                  float total_sum) {
  const int64_t head_dim = args.pages.head_dim;
  float* out = args.out + row * args.ld_out + head * head_dim;
  const bool empty = total_sum == 0;
  const bool sunk = args.sinks && !empty;
  const Floats factor = splat(sunk ? absorb_sink(args.sinks[head], total_max, total_sum) : 1);
  const Floats inverse = splat(empty ? 0 : 1 / total_sum);
  for_each_16({0, head_dim}, [=](int64_t d, int64_t count) {
    Floats value = empty ? zero() : load(total + d);
    if (sunk) value = value * factor;
    store_up_to(out + d, value * inverse + zero(), count);
  });
}

void attention(const AttentionArgs& args, int64_t kv_head, Range rows) {
  const int64_t group = args.n_heads / args.pages.n_kv_heads;
  const int64_t end = rows.end * group;
  for (int64_t first_query = rows.begin * group; first_query < end; first_query += kQueryTile) {
    Queries queries = gather(args, kv_head, first_query, smaller(kQueryTile, end - first_query));
    const Range any = seen_by_any(queries, {0, args.n_keys});
    for (int64_t split = any.begin / kKeySplit; split * kKeySplit < any.end; ++split) {
      split_of_type(args, kv_head, split, queries);
      for (int64_t i = 0; i < queries.count; ++i) {
        merge(queries.total_max[i], queries.total_sum[i], queries.total + i * queries.stride, queries.max[i],
              queries.sum[i], queries.out + i * queries.stride, queries.stride);
      }
    }
    for (int64_t i = 0; i < queries.count; ++i) {
      const int64_t query = first_query + i;
      write_result(args, query / group, kv_head * group + query % group, queries.total + i * queries.stride,
                   queries.total_max[i], queries.total_sum[i]);
    }
  }
}

void attention_split(const AttentionArgs& args, int64_t kv_head, int64_t row, int64_t split, float* partial) {
  const int64_t head_dim = args.pages.head_dim, group = args.n_heads / args.pages.n_kv_heads;
  for (int64_t first_head = 0; first_head < group; first_head += kQueryTile) {
    Queries queries =
        gather(args, kv_head, row * group + first_head, smaller(kQueryTile, group - first_head));
    split_of_type(args, kv_head, split, queries);
    for (int64_t i = 0; i < queries.count; ++i) {
      float* to = partial + (first_head + i) * attention_partial_size(head_dim);
      for (int64_t d = 0; d < head_dim; ++d) to[d] = queries.out[i * queries.stride + d];
      to[head_dim] = queries.max[i];
      to[head_dim + 1] = queries.sum[i];
    }
  }
}

void attention_merge(const AttentionArgs& args, int64_t kv_head, int64_t row, int64_t n_splits,
                     const float* partials) {
  const int64_t head_dim = args.pages.head_dim, group = args.n_heads / args.pages.n_kv_heads;
  float* total = args.scratch;  // padded(head_dim), as `out` below
  float* out = total + padded(head_dim);
  for (int64_t h = 0; h < group; ++h) {
    float total_max = 0, total_sum = 0;
    for (int64_t split = 0; split < n_splits; ++split) {
      const float* from = partials + (split * group + h) * attention_partial_size(head_dim);
      for_each_16({0, head_dim},
                  [=](int64_t d, int64_t count) { store(out + d, load_up_to(from + d, count)); });
      merge(total_max, total_sum, total, from[head_dim], from[head_dim + 1], out, padded(head_dim));
    }
    write_result(args, row, kv_head * group + h, total, total_max, total_sum);
  }
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
