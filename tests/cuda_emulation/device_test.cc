// Mistakes of callers, faults of kernels, and the memory of the emulated device.
#include "base/side_streams.h"
#include "device_testing.h"
#include "kernels/cuda/launch.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

// The ops' CPU side is not set up: what runs here runs on the device.
ops::Context on_device() { return {}; }

TUILI_TEST(ops_refuse_what_their_kernels_cannot_read) {
  OnDevice<bf16> x(normals<bf16>(64, 1)), w(normals<bf16>(64, 2));
  OnDevice<float> y(normals<float>(64, 3));
  const TensorView a = x.view({8, 8}), b = w.view({8, 8}), out = y.view({8, 8});
  TensorView on_host = a, f16 = out;
  on_host.device = DeviceKind::cpu;
  f16.dtype = DType::f16;
  const auto gemm_error = [&](TensorView to, TensorView left, TensorView right) {
    return error_of([&] { multiply_dense(to, left, right); });
  };
  require_error("w is bf16 [8, 7]", gemm_error(out, a, w.view({8, 7})));
  require_error("x must be f32 on cpu", gemm_error(out, on_host, b));
  require_error("no room to round", gemm_error(out, out, b));
  require_error("y must be f32 on cuda", gemm_error(f16, a, b));
  const auto norm_error = [&](TensorView to, TensorView from, TensorView gain) {
    return error_of([&] { ops::rms_norm(on_device(), to, from, gain, 1e-5f); });
  };
  require_error("gain must be f32 [8]", norm_error(out, out, y.view({7})));
  require_error("x must be f32", norm_error(out, a, y.view({8})));
  require_error("y must be f32", norm_error(f16, out, y.view({8})));
  require_error("x is f32 [8, 8] on cuda, y is bf16 [4, 16]", norm_error(x.view({4, 16}), out, y.view({8})));
  TensorView strided = y.view({4, 8});
  strided.row_stride = 16;
  require_error("y must be dense; f32 [4, 8] on cuda has rows 16 apart",
                norm_error(strided, y.view({4, 8}), y.view({8})));
  const auto add_error = [&](TensorView to, TensorView left, TensorView right) {
    return error_of([&] { ops::add(on_device(), to, left, right); });
  };
  require_error("add: x must be f32", add_error(out, a, out));
  require_error("add: z must be f32", add_error(out, out, a));
  const auto activate_error = [&](TensorView to, TensorView gate) {
    return error_of([&] { ops::activate(on_device(), to, gate, TensorView(), ops::Activation::silu); });
  };
  require_error("gate must be f32", activate_error(out, a));
  require_error("gate is f32 [4, 8] on cuda, y is f32 [8, 8]", activate_error(out, y.view({4, 8})));
  TensorView q = out, table = y.view({8, 4});
  q.device = table.device = DeviceKind::cpu;
  const ops::RopeKv queries_on_host{q, out, out, table, table, 1, false};
  const KvPages pages{x.get(), w.get(), DType::bf16, 16, 1, 8, 64};
  const auto kv_error = [&] { ops::on_device::rope_kv_write(on_device(), queries_on_host, pages, nullptr); };
  require_error("q must be f32 on cuda", error_of(kv_error));
}

TUILI_TEST(a_fault_on_the_device_is_an_error_of_the_op) {
  const auto fault = [] { __syncwarp(0); };
  TUILI_LAUNCH(fault, 1, 32, 0, nullptr);
  const int status = cudaGetLastError();
  require_error("gemm: the CUDA emulator reports 719", error_of([&] { device::check(status, "gemm"); }));
  require_error("is not in its own mask", error_of([&] { device::check(status, "gemm"); }));
}

TUILI_TEST(a_product_larger_than_a_launch_is_refused) {
  const auto refused = [](int64_t m, int64_t n, int64_t k) {
    PackedMatrix w{};
    w.format = Format::q8_0, w.n = n, w.k = k;
    const cuda::GemmArgs dense{nullptr, nullptr, nullptr, nullptr, m, n, k};
    const cuda::QuantizedGemmArgs quantized{nullptr, nullptr, w, nullptr, m};
    for (const int status : {cuda::gemm(nullptr, dense), cuda::gemm(nullptr, quantized)})
      require_error("gemm: the CUDA emulator reports 1: invalid argument",
                    error_of([&] { device::check(status, "gemm"); }));
  };
  refused(1, 1, INT64_MAX);
  refused(1, INT64_MAX, 64);
  refused(INT64_MAX, 1, 64);
  refused(1, 1 << 30, 64);  // more tiles of columns than a grid has
}

TUILI_TEST(a_later_launch_does_not_hide_a_fault) {
  const auto fault = [] { __syncwarp(0); };
  const auto nothing = [] {};
  TUILI_LAUNCH(fault, 1, 32, 0, nullptr);
  TUILI_LAUNCH(nothing, 1, 32, 0, nullptr);
  require(cudaGetLastError() == cudaErrorLaunchFailure, "the fault is gone");
  TUILI_LAUNCH(nothing, 1, 32, 0, nullptr);
  require(cudaGetLastError() == cudaSuccess, "a fault was reported twice");
}

// ---- the device

TUILI_TEST(work_beside_a_stream_is_waited_for_even_after_an_error) {
  const OwnStream main(DeviceKind::cuda), beside(DeviceKind::cuda);
  const OwnEvent opened;
  const SideStreams sides;
  const auto launch = [](device::Stream stream) { TUILI_LAUNCH([] {}, 1, 32, 0, stream); };
  try {
    const Fork fork(&sides, main.get(), 2);
    launch(fork.stream(1));
    throw Error(ErrorKind::internal, "a launch failed");
  } catch (const Error&) {
  }
  device::synchronize(main.get());
  device::mark(opened.get(), main.get());
  device::wait_for(opened.get(), beside.get());
  launch(beside.get());
  require_error("not waited for", error_of([&] { device::synchronize(main.get()); }));
}

TUILI_TEST(device_memory_begins_as_nan_and_knows_its_pointers) {
  require(device::count() == 2 && std::string(device::build_kind()) == "emulated", "not the emulated device");
  auto* memory = static_cast<float*>(device::allocate(16));
  float host[4] = {};
  device::copy_to_host(host, memory, 16, nullptr);
  require(std::isnan(host[0]) && std::isnan(host[3]), "new memory is not NaN");
  const char* kOutside = "not all inside one device allocation";
  require_error(kOutside, error_of([&] { device::copy_to_device(host, host, 16, nullptr); }));
  require_error(kOutside, error_of([&] { device::copy_to_host(host, memory + 1, 16, nullptr); }));
  require_error("must be positive", error_of([] { device::allocate(0); }));
  require_error("do not fit", error_of([] { device::allocate(INT64_MAX / 2); }));
  device::free(memory);
  require_error(kOutside, error_of([&] { device::copy_to_host(host, memory, 16, nullptr); }));
}

TUILI_TEST(what_is_recorded_runs_when_it_is_enqueued_and_reads_what_lies_there_then) {
  const std::vector<float> first{1, 2, 3, 4}, second{5, 6, 7, 8};
  OnDevice<float> x(first), sum(std::vector<float>(4, 0.0f));
  require(device::begin_recording(nullptr), "nothing is recorded");
  ops::add(on_device(), sum.view({1, 4}), sum.view({1, 4}), x.view({1, 4}));
  require_error("records", error_of([] { device::synchronize(nullptr); }));
  const device::Graph graph = device::end_recording(nullptr);
  require(sum.read() == std::vector<float>(4, 0.0f), "what is recorded has run");
  device::enqueue(graph, nullptr);
  device::copy_to_device(x.get(), second.data(), 16, nullptr);
  device::enqueue(graph, nullptr);
  require(sum.read() == std::vector<float>{6, 8, 10, 12}, "enqueued twice it gave ", sum.read()[0], " …");
  device::destroy_graph(graph);
  require(device::begin_recording(nullptr), "nothing is recorded");
  const auto fault = [] { __syncwarp(0); };
  TUILI_LAUNCH(fault, 1, 32, 0, nullptr);
  device::discard_recording(nullptr);
  require(cudaGetLastError() == cudaSuccess, "what was discarded has run");
  TUILI_LAUNCH(fault, 1, 32, 0, nullptr);
  require(cudaGetLastError() == cudaErrorLaunchFailure, "it still records");
}

}  // namespace
