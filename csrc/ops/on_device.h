// What ops of ops.h launch on device tensors. Tensors are f32; results of norms and activations may be bf16,
// for a GEMM. What the CPU's ops check, too, is checked before.
#pragma once

#include "kernels/cuda/kernels.h"
#include "ops/ops.h"

namespace tuili::ops::on_device {

inline constexpr int64_t kFewRows = 64;  // of a kernel that leaves most of the device to others

// With an addend: x += addend first; y may be x. With `rounded`: y is there, too, for a GEMM.
void rms_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
              float eps, const TensorView* addend = nullptr, cuda::bf16* rounded = nullptr);
void rms_norm_heads(const Context& context, const TensorView& x, const TensorView& gain, float eps);
void layer_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
                const TensorView& bias, float eps, const TensorView* addend = nullptr,
                cuda::bf16* rounded = nullptr);
void rope(const Context& context, const TensorView& x, const TensorView& cos, const TensorView& sin,
          int64_t n_heads, bool interleaved);
void activate(const Context& context, const TensorView& y, const TensorView& gate, const TensorView& up,
              Activation kind);

void gather_taps(const Context& context, const TensorView& y, const TensorView& x,
                 const DeviceSequences& texts, int64_t n_taps);
void layer_norm_strided(const Context& context, const TensorView& x, const TensorView& gain,
                        const TensorView& bias, float eps);
void embed(const Context& context, const TensorView& y, const PackedMatrix& w, const int32_t* ids,
           float factor);
void gemm(const Context& context, Activations& x, std::span<const LinearMap> maps);

void route(const Context& context, const Routing& routing, const TensorView& scores, const Routes& routes);
void scatter_rows(const Context& context, const TensorView& y, Activations& x, const int32_t* places,
                  int64_t n_each);

// x as a GEMM reads it: itself, or rounded into its room by the first who asks.
const cuda::bf16* rounded(const Context& context, Activations& x);

// That room, where it is planned that the op that makes x fills it, as it then must; or null.
cuda::bf16* planned_room(Activations& x);

// ---- of a device alone: lists and pages lie in its memory

// k and v f32 [n_tokens, n_kv_heads · head_dim] at slots[t] = block id · block_size + offset.
void kv_write(const Context& context, const KvPages& pages, const TensorView& k, const TensorView& v,
              const int32_t* slots);

// rope of q and k and kv_write, in one launch.
void rope_kv_write(const Context& context, const RopeKv& x, const KvPages& pages, const int32_t* slots);

// Floats of `partials` with which splits are shared out; one split's worth is needed beyond 512 keys.
int64_t partial_floats(int64_t n_tokens, int64_t n_heads, int64_t head_dim, int64_t max_keys);

// out f32 or bf16, q f32 [n_tokens, n_heads · head_dim].
void attention(const Context& context, const AttentionSpec& spec, const TensorView& out, const TensorView& q,
               const KvPages& pages, const DeviceSequences& sequences, std::span<float> partials);

// The same with the scores from distances, which it makes first.
void distance_attention(const Context& context, const AttentionSpec& spec, const TensorView& out,
                        const TensorView& q, const TensorView& k, const KvPages& pages,
                        const DeviceSequences& sequences, const DeviceSequences& texts,
                        const Distances& distances, std::span<float> partials);

}  // namespace tuili::ops::on_device
