// The CPU's rows and elements for any machine: what the device's f32 results equal bit for bit.
#define TUILI_ISA generic
// clang-format off: each needs those before it
#include "kernels/cpu/simd_generic.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/math.inl"
#include "kernels/cpu/elementwise.inl"
// clang-format on
#include "device_testing.h"

namespace tuili::testing {

const cpu::Kernels& cpu_kernels() {
  static const cpu::Kernels kernels = [] {
    namespace generic = cpu::generic;
    cpu::Kernels table{};
    table.rms_norm = generic::rms_norm;
    table.layer_norm = generic::layer_norm;
    table.rope = generic::rope;
    table.activate = generic::activate;
    table.xielu = generic::xielu;
    table.add = generic::add;
    table.softcap = generic::softcap;
    table.softmax_stats = generic::softmax_stats;
    table.exp_shifted = generic::exp_shifted;
    table.mean_rows = generic::mean_rows;
    table.l2_normalize = generic::l2_normalize;
    return table;
  }();
  return kernels;
}

}  // namespace tuili::testing
