#include "ops/ops.h"

#include <algorithm>

#include "base/check.h"
#include "base/rounding.h"
#include "ops/on_device.h"

namespace tuili::ops {

Beside::Beside(const Context& context, int64_t n_rows)
    : fork_(context.sides, context.stream, context.sides && n_rows <= on_device::kFewRows ? 1 : 0),
      beside_(context) {
  beside_.stream = fork_.stream(0);
}

const cpu::Kernels& find_kernels(const char* isa) {
  if (isa == nullptr) return cpu::kernels();
  const cpu::Kernels* kernels = cpu::find_kernels(isa);
  TUILI_CHECK(kernels != nullptr, "isa \"", isa, "\" does not run here");
  return *kernels;
}

int64_t scratch_floats_for(int64_t head_dim) {
  const int64_t floats = std::max(cpu::kGemmScratch, cpu::attention_scratch(head_dim));
  return round_up(floats, 16);
}

}  // namespace tuili::ops
