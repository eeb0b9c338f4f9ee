#include "ops/ops.h"

#include <algorithm>

#include "base/check.h"
#include "ops/on_device.h"

namespace tuili::ops {

Beside::Beside(const Context& context, int64_t n_rows) : main_(context), beside_(context) {
  if (context.sides == nullptr || n_rows > on_device::kFewRows) return;
  context.sides->open(context.stream, 1);
  beside_.stream = context.sides->stream(0);
}

void Beside::join() {
  if (beside_.stream != main_.stream) main_.sides->close(main_.stream, 1);
}

const cpu::Kernels& find_kernels(const char* isa) {
  if (isa == nullptr) return cpu::kernels();
  const cpu::Kernels* kernels = cpu::find_kernels(isa);
  TUILI_CHECK(kernels != nullptr, "isa \"", isa, "\" does not run here");
  return *kernels;
}

int64_t scratch_floats_for(int64_t head_dim) {
  const int64_t floats = std::max(cpu::kGemmScratch, cpu::attention_scratch(head_dim));
  return (floats + 15) / 16 * 16;
}

}  // namespace tuili::ops
