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
                             .scoring = routing.scoring,
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

}  // namespace tuili::ops::on_device
