// The ops of ops.h on device tensors: the same checks, one launch each. Tensors are f32; results of norms and
// activations may be bf16, for a GEMM.
#pragma once

#include "ops/ops.h"

namespace tuili::ops::on_device {

void rms_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
              float eps);
void rms_norm_heads(const Context& context, const TensorView& x, const TensorView& gain, float eps);
void layer_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
                const TensorView& bias, float eps);
void rope(const Context& context, const TensorView& x, const TensorView& cos, const TensorView& sin,
          int64_t n_heads, bool interleaved);
void activate(const Context& context, const TensorView& y, const TensorView& gate, const TensorView& up,
              Activation kind);
void add(const Context& context, const TensorView& y, const TensorView& x, const TensorView& z);
void scale(const Context& context, const TensorView& y, float factor);
void softcap(const Context& context, const TensorView& y, float cap);
void mean_rows(const Context& context, const TensorView& y, const TensorView& x);
void l2_normalize(const Context& context, const TensorView& y, const TensorView& x);
void gemm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& w);

}  // namespace tuili::ops::on_device
