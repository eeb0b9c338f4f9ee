// THE CUDA CONTRACT: launchers. Names and shapes as in kernels/cpu/kernels.h, pointers to device memory.
//
// A launcher enqueues on the stream and returns at once: 0, or the cudaError_t of the launch, which
// device::check turns into an exception. It allocates nothing and keeps nothing. This header needs no CUDA
// header; a build without CUDA links absent.cc, whose launchers throw.
//
// A row's bits depend on its own values and on k or d_model, never on the other rows, their number, or the
// stream.
#pragma once

#include <cstdint>

struct CUstream_st;    // cudaStream_t points to it
struct __nv_bfloat16;  // CUDA's own type, so that kernels and callers mean the same

namespace tuili::cuda {

using Stream = CUstream_st*;
using bf16 = __nv_bfloat16;

// y[t, :] = x[t, :] · (1 / sqrt(mean(x[t, :]²) + eps)) · gain
//   x, y  f32 or bf16 [n_tokens, d_model], dense rows; y may be x      gain  f32 [d_model]
// Everything is computed in f32. Thread i of 256 sums, in ascending order, the squares of its groups of 8
// consecutive elements (groups i, i + 256, …); then butterflies over 16, 8, 4, 2, 1 lanes; then the 8 warps
// in order. Any d_model and any alignment of the element give the same bits; 16-byte rows are faster. Source:
// Zhang & Sennrich 2019, eq. 4.
int rms_norm(Stream stream, float* y, const float* x, const float* gain, int64_t n_tokens, int64_t d_model,
             float eps);
int rms_norm(Stream stream, bf16* y, const bf16* x, const float* gain, int64_t n_tokens, int64_t d_model,
             float eps);

// y[i, j] = Σ_k x[i, k] · w[j, k]
//   y  f32 or bf16 [m, n]      x  bf16 [m, k]      w  bf16 [n, k], all dense; y overlaps neither x nor w
// Tensor cores, accumulating in f32 over ascending k in steps of 16, zero past the end; bf16 results are
// rounded once, to nearest even. A step adds its products after aligning them to the largest and cuts what
// lies below (as published by MMA-Sim), so |error| ≤ 1.4 · (k + 16) · 2^-24 · Σ |x · w| before the last
// rounding. Any k and any alignment of the element give the same bits; 16-byte rows are faster. Sizes are
// below 2^31.
int gemm(Stream stream, float* y, const bf16* x, const bf16* w, int64_t m, int64_t n, int64_t k);
int gemm(Stream stream, bf16* y, const bf16* x, const bf16* w, int64_t m, int64_t n, int64_t k);

}  // namespace tuili::cuda
