// Routing: which experts a token goes through, and the rows that go in and come out.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

// The n best of values[0..count) get their flag; the first of equal ones, and those that are not numbers
// last.
void mark_best(const float* values, int64_t count, int64_t n, bool (&marked)[kMaxExperts]) {
  std::fill_n(marked, count, false);
  for (int64_t chosen = 0; chosen < n; ++chosen) {
    int64_t best = -1;
    for (int64_t i = 0; i < count; ++i) {
      if (marked[i] || (best >= 0 && !(values[i] > values[best]) &&
                        (values[best] == values[best] || values[i] != values[i])))
        continue;
      best = i;
    }
    marked[best] = true;
  }
}

// Sum of the n best of values[0..count).
float best_sum(const float* values, int64_t count, int64_t n) {
  bool marked[kMaxExperts];
  mark_best(values, count, n, marked);
  float sum = 0;
  for (int64_t i = 0; i < count; ++i)
    if (marked[i]) sum += values[i];
  return sum;
}

// Of each expert that is used its share among those near it, of the others 0, in place.
void score_near_best(const Context& context, const Routing& routing, float* x, int64_t n) {
  float shares[kMaxExperts] = {}, powers[kMaxExperts];
  bool taken[kMaxExperts] = {};
  for (int64_t used = 0; used < routing.n_used; ++used) {
    int64_t best = -1;
    for (int64_t e = 0; e < n; ++e)
      if (!taken[e] && (best < 0 || x[e] > x[best])) best = e;
    context.kernels->exp_shifted(powers, x, x[best], {0, n});
    float sum = 0;
    for (int64_t e = 0; e < n; ++e)
      if (!taken[e] && !((x[best] - x[e]) / std::max(std::abs(x[e]), x[best]) > routing.near))
        sum += powers[e];
    shares[best] = 1 / sum;
    taken[best] = true;
  }
  std::copy_n(shares, n, x);
}

void score_sigmoid(const Context& context, float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = -std::max(x[i], -80.0f);  // NaN stays
  context.kernels->exp_shifted(x, x, 0, {0, n});
  for (int64_t i = 0; i < n; ++i) x[i] = 1 / (1 + x[i]);
}

void score_softmax(const Context& context, float* x, int64_t n) {
  float max, sum;
  context.kernels->softmax_stats(x, n, &max, &sum);
  context.kernels->exp_shifted(x, x, max, {0, n});
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

// Scores of the logits, in place.
void score(const Context& context, const Routing& routing, float* x, int64_t n) {
  switch (routing.scoring) {
    case Scoring::softmax: return score_softmax(context, x, n);
    case Scoring::sigmoid: return score_sigmoid(context, x, n);
    case Scoring::near_best: return score_near_best(context, routing, x, n);
  }
}

// Which experts may be used: those of the best groups.
void mark_groups(const Routing& routing, const float* choice, int64_t n_experts,
                 bool (&allowed)[kMaxExperts]) {
  const int64_t size = n_experts / routing.n_groups;
  float groups[kMaxExperts];
  for (int64_t g = 0; g < routing.n_groups; ++g)
    groups[g] = best_sum(choice + g * size, size, routing.group_top);
  bool used[kMaxExperts];
  mark_best(groups, routing.n_groups, routing.n_groups_used, used);
  for (int64_t e = 0; e < n_experts; ++e) allowed[e] = used[e / size];
}

// One token: its n_used experts in ascending order and their weights.
void route_row(const Context& context, const Routing& routing, float* scores, int64_t n_experts,
               int32_t* experts, float* weights) {
  score(context, routing, scores, n_experts);
  float choice[kMaxExperts];
  for (int64_t e = 0; e < n_experts; ++e)
    choice[e] = scores[e] + (routing.selection_bias ? routing.selection_bias[e] : 0);
  bool marked[kMaxExperts];
  if (routing.n_groups_used < routing.n_groups) {
    mark_groups(routing, choice, n_experts, marked);
    for (int64_t e = 0; e < n_experts; ++e)
      if (!marked[e]) choice[e] = -std::numeric_limits<float>::infinity();
  }
  mark_best(choice, n_experts, routing.n_used, marked);
  int64_t n = 0;
  float sum = 0;
  for (int64_t e = 0; e < n_experts; ++e) {
    if (!marked[e]) continue;
    experts[n] = static_cast<int32_t>(e);
    weights[n++] = scores[e];
    sum += scores[e];
  }
  for (int64_t i = 0; i < n; ++i)
    weights[i] = (routing.normalize ? weights[i] / sum : weights[i]) * routing.scale;
}

// Where pair i stands among n pairs sorted by expert, otherwise in order; and each expert's first place.
void sort_by_expert(const int32_t* experts, int64_t n, int64_t n_experts, int32_t* places, int32_t* first) {
  std::fill_n(first, n_experts + 1, 0);
  for (int64_t i = 0; i < n; ++i) ++first[experts[i] + 1];
  for (int64_t e = 0; e < n_experts; ++e) first[e + 1] += first[e];
  for (int64_t i = 0; i < n; ++i) places[i] = first[experts[i]]++;
  for (int64_t e = n_experts; e > 0; --e) first[e] = first[e - 1];
  first[0] = 0;
}

}  // namespace

void route(const Context& context, const Routing& routing, const TensorView& scores, const Routes& routes) {
  if (scores.device == DeviceKind::cuda) return on_device::route(context, routing, scores, routes);
  expect_dense("route", "scores", scores);
  const int64_t n = scores.size(1), n_used = routing.n_used;
  TUILI_EXPECT(n <= kMaxExperts && n_used >= 1 && n_used <= n && n % routing.n_groups == 0, "route: ", n_used,
               " of scores ", scores);
  const int threads = context.threads_for(scores.count(), 1024);
  context.pool->parallel_for(scores.rows(), threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      route_row(context, routing, scores.f32_row(t), n, routes.experts + t * n_used,
                routes.weights + t * n_used);
  });
  sort_by_expert(routes.experts, scores.rows() * n_used, n, routes.places, routes.first);
}

void scatter_rows(const Context& context, const TensorView& y, Activations& x, const int32_t* places,
                  int64_t n_each) {
  if (y.device == DeviceKind::cuda) return on_device::scatter_rows(context, y, x, places, n_each);
  expect_dense("scatter_rows", "y", y);
  expect_dense("scatter_rows", "x", x.x);
  const int64_t d = x.x.size(1);
  TUILI_EXPECT(y.size(1) == d && y.rows() == x.x.rows() * n_each, "scatter_rows: y is ", y, ", x is ", x.x);
  const int threads = context.threads_for(y.count(), 4096);
  context.pool->parallel_for(x.x.rows(), threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * n_each; i < end * n_each; ++i)
      std::copy_n(x.x.f32_row(i / n_each), d, y.f32_row(places[i]));
  });
}

void weighted_sum_rows(const Context& context, const TensorView& y, const TensorView& x,
                       const int32_t* places, const float* weights, int64_t n_each) {
  expect_dense("weighted_sum_rows", "y", y, y.device);
  expect_dense("weighted_sum_rows", "x", x, y.device);
  const int64_t d = x.size(1);
  TUILI_EXPECT(y.size(1) == d && x.rows() == y.rows() * n_each, "weighted_sum_rows: y is ", y, ", x is ", x);
  if (y.device == DeviceKind::cuda)
    return device::check(
        cuda::weighted_sum_rows(context.stream, y.f32(), x.f32(), places, weights, y.rows(), n_each, d),
        "weighted_sum_rows");
  const int threads = context.threads_for(x.count(), 4096);
  context.pool->parallel_for(y.rows(), threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* const to = y.f32_row(t);
      std::fill_n(to, d, 0.0f);
      for (int64_t i = t * n_each; i < (t + 1) * n_each; ++i) {
        const float* const from = x.f32_row(places[i]);
        for (int64_t j = 0; j < d; ++j) to[j] += weights[i] * from[j];
      }
    }
  });
}

void add_gated(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gate) {
  expect_dense("add_gated", "y", y, y.device);
  expect_dense("add_gated", "x", x, y.device);
  expect_dense("add_gated", "gate", gate, y.device);
  TUILI_EXPECT(same_shape(y, x) && gate.count() == x.rows(), "add_gated: y is ", y, ", x is ", x,
               ", gate is ", gate);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::add_gated(context.stream, y.f32(), x.f32(), gate.f32(), x.rows(), x.size(1)),
                         "add_gated");
  score_sigmoid(context, gate.f32(), gate.count());
  const int threads = context.threads_for(x.count(), 4096);
  context.pool->parallel_for(y.rows(), threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t j = 0; j < x.size(1); ++j) y.f32_row(t)[j] += gate.f32()[t] * x.f32_row(t)[j];
  });
}

void gemm_experts(const Context& context, const TensorView& y, const TensorView& x, const ExpertMaps& maps,
                  const int32_t* first) {
  expect_dense("gemm_experts", "y", y, DeviceKind::cuda);
  expect_dense("gemm_experts", "x", x, DeviceKind::cuda, DType::bf16);
  TUILI_EXPECT(x.size(1) == maps.k && y.size(1) == maps.n && y.rows() == x.rows() && maps.list != nullptr,
               "gemm_experts: x is ", x, ", maps are [", maps.n, ", ", maps.k, "], y is ", y);
  const cuda::ExpertGemmArgs args{.y = y.f32(),
                                  .x = static_cast<const cuda::bf16*>(x.data),
                                  .maps = maps.list,
                                  .first = first,
                                  .format = maps.format,
                                  .n = maps.n,
                                  .k = maps.k,
                                  .n_experts = maps.n_experts,
                                  .n_rows = x.rows()};
  device::check(cuda::gemm_experts(context.stream, args), "gemm_experts");
}

}  // namespace tuili::ops
