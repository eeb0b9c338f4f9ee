// A model's weights in device memory.
#pragma once

#include "model/weights.h"

namespace tuili {

// A copy whose weights are where the device reads them. Quantized matrices become records; those of floats
// become bf16, which rounds f32 and f16; a quantized token embedding gets a table of bf16 beside its records.
// Throws model_unsupported naming what the device has no kernel for, out_of_memory.
Model upload(const Model& model, int num_threads);

}  // namespace tuili
