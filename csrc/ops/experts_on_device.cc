// Ops of moe.cc on device tensors, which check what differs from the CPU's.
#include "ops/checks.h"
#include "ops/on_device.h"

namespace tuili::ops::on_device {

void route(const Context& context, const Routing& routing, const TensorView& scores, const Routes& routes) {
  expect_dense("route", "scores", scores, DeviceKind::cuda);
  const int64_t n_experts = scores.size(1), n_used = routing.n_used;
  const cuda::RouteArgs args{.experts = routes.experts,
                             .weights = routes.weights,
                             .logits = scores.f32(),
                             .selection_bias = routing.selection_bias,
                             .n_tokens = scores.rows(),
                             .n_experts = n_experts,
                             .n_used = n_used,
                             .n_groups = routing.n_groups,
                             .n_groups_used = routing.n_groups_used,
                             .group_top = routing.group_top,
                             .scores = routing.scores,
                             .near = routing.near,
                             .normalize = routing.normalize,
                             .scale = routing.scale};
  device::check(cuda::route(context.stream, args), "route");
  device::check(cuda::sort_by_expert(context.stream, routes.places, routes.first, routes.experts,
                                     scores.rows() * n_used, n_experts),
                "sort_by_expert");
}

void scatter_rows(const Context& context, const TensorView& y, Activations& x, const int32_t* places,
                  int64_t n_each) {
  expect_dense("scatter_rows", "y", y, DeviceKind::cuda, DType::bf16);
  const int64_t n = x.x.rows(), d = x.x.size(1);
  TUILI_EXPECT(y.size(1) == d && y.rows() == n * n_each, "scatter_rows: y is ", y, ", x is ", x.x);
  device::check(cuda::scatter_rows(context.stream, static_cast<cuda::bf16*>(y.data), rounded(context, x),
                                   places, n, n_each, d),
                "scatter_rows");
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

}  // namespace tuili::ops::on_device
