// A model's weights in device memory.
#pragma once

#include "model/weights.h"

namespace tuili {

// A copy whose weights are where the ordinal-th device reads them. Quantized matrices become records; those
// of floats become bf16, which rounds f32 and f16; a quantized token embedding gets a table of bf16 beside
// its records. Throws invalid_parameter if there is no such device, model_unsupported naming what it has no
// kernel for, out_of_memory.
Model upload(const Model& model, int ordinal, int num_threads);

}  // namespace tuili
