// The instructions that CUDA C++ has no name for. The only file with inline PTX; each beside what it means,
// written for the emulator. Names and semantics: PTX ISA 8.0, for sm_80 and later.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace tuili::cuda::ptx {

#if defined(__CUDACC__)
// The address that PTX wants for a pointer into shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

// Starts to copy 16 bytes into shared memory, past L1 and the registers; both ends are 16-byte aligned. Only
// the first `source_bytes` are read, the rest is zero; with 0 nothing is read, wherever `global` points.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int source_bytes) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(source_bytes)
               : "memory");
#else
  emulation::copy_async(shared, global, 16, source_bytes);
#endif
}

// All of them where `wanted` is not 0, else zeros: one predicate, where a number of bytes is made first.
__device__ __forceinline__ void cp_async_16_if(void* shared, const void* global, uint32_t wanted) {
#if defined(__CUDACC__)
  asm volatile(
      "{\n"
      ".reg .pred ignored;\n"
      "setp.eq.u32 ignored, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, ignored;\n"
      "}" ::"r"(shared_address(shared)),
      "l"(global), "r"(wanted)
      : "memory");
#else
  emulation::copy_async(shared, global, 16, wanted != 0 ? 16 : 0);
#endif
}

// The same for 4 or 8 bytes, which go through L1.
template <int kBytes>
__device__ __forceinline__ void cp_async_few(void* shared, const void* global, int source_bytes) {
  static_assert(kBytes == 4 || kBytes == 8);
#if defined(__CUDACC__)
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
               "n"(kBytes), "r"(source_bytes)
               : "memory");
#else
  emulation::copy_async(shared, global, kBytes, source_bytes);
#endif
}

// Closes this thread's group of copies started since the last commit; the group may be empty.
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulation::commit_copies();
#endif
}

// Waits until at most the latest kPending of this thread's groups are still on their way. Other threads see
// the bytes after the next __syncthreads, those of the warp after the next __syncwarp.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  emulation::wait_copies(kPending);
#endif
}

// Lets the kernel behind this one in its stream start, once all blocks have come here or ended; it waits by
// itself. A device before Hopper does neither.
__device__ __forceinline__ void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernels before this one have ended and their results are there. Before it a kernel reads
// nothing but weights, and writes nothing.
__device__ __forceinline__ void wait_for_kernels_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Four 8 × 8 matrices of 16-bit elements from shared memory. Lane 8 i + r passes the 16-byte aligned address
// of row r of matrix i; lane l receives elements (l / 4, 2 (l % 4)) and the one after it of matrix i in d[i].
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], const void* shared_row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  struct Lane {
    const void* row;
    uint32_t d[4];
  };
  Lane lane{emulation::checked_shared(shared_row, 16, 16), {}};
  emulation::warp_op(emulation::kFullWarp, lane, [](const emulation::Lanes<Lane>& lanes) {
    for (int i = 0; i < 4; ++i) {
      for (int l = 0; l < 32; ++l) {
        const auto* row = static_cast<const uint32_t*>(lanes[8 * i + l / 4]->row);
        lanes[l]->d[i] = row[l % 4];
      }
    }
  });
  for (int i = 0; i < 4; ++i) d[i] = lane.d[i];
#endif
}

// One of them: lanes 0 … 7 pass the rows.
__device__ __forceinline__ void ldmatrix_x1(uint32_t& d, const void* shared_row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(d)
               : "r"(shared_address(shared_row))
               : "memory");
#else
  struct Lane {
    const void* row;
    uint32_t d;
  };
  Lane lane{threadIdx.x % 32 < 8 ? emulation::checked_shared(shared_row, 16, 16) : nullptr, 0};
  emulation::warp_op(emulation::kFullWarp, lane, [](const emulation::Lanes<Lane>& lanes) {
    for (int l = 0; l < 32; ++l) lanes[l]->d = static_cast<const uint32_t*>(lanes[l / 4]->row)[l % 4];
  });
  d = lane.d;
#endif
}

// Four with each matrix transposed: lane l receives elements (2 (l % 4), l / 4) and the one below it.
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&d)[4], const void* shared_row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  struct Lane {
    const void* row;
    uint32_t d[4];
  };
  Lane lane{emulation::checked_shared(shared_row, 16, 16), {}};
  emulation::warp_op(emulation::kFullWarp, lane, [](const emulation::Lanes<Lane>& lanes) {
    for (int i = 0; i < 4; ++i) {
      for (int l = 0; l < 32; ++l) {
        const auto* upper = static_cast<const uint16_t*>(lanes[8 * i + 2 * (l % 4)]->row);
        const auto* lower = static_cast<const uint16_t*>(lanes[8 * i + 2 * (l % 4) + 1]->row);
        lanes[l]->d[i] = upper[l / 4] | static_cast<uint32_t>(lower[l / 4]) << 16;
      }
    }
  });
  for (int i = 0; i < 4; ++i) d[i] = lane.d[i];
#endif
}

// Two floats rounded to nearest even, `low` in the low half.
template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
  uint32_t pair;
  if constexpr (std::is_same_v<T, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(low).bits | static_cast<uint32_t>(__float2half_rn(high).bits) << 16;
  } else {
    return __float2bfloat16_rn(low).bits | static_cast<uint32_t>(__float2bfloat16_rn(high).bits) << 16;
  }
#endif
}

// The value of fp16's bits.
__device__ __forceinline__ float half_to_float(uint16_t bits) {
#if defined(__CUDACC__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
#else
  return __half2float(__half{bits});
#endif
}

// (x & mask) | bits in one instruction: of two constants the compiler makes two.
__device__ __forceinline__ uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
#else
  return (x & mask) | bits;
#endif
}

// Stays in its register: the compiler would rather compute a value again where it is used, in every trip of a
// loop, and keep bits that are tested one by one as predicates, of which it makes a word again.
template <typename T>
__device__ __forceinline__ void keep(T& value) {
  static_assert(sizeof(T) == 4);
#if defined(__CUDACC__)
  asm volatile("" : "+r"(value));
#else
  (void)value;
#endif
}

// 8 bytes of global memory, loaded here: the compiler moves plain loads to where they are used.
__device__ __forceinline__ uint2 load_here(const void* global) {
  uint2 two;
#if defined(__CUDACC__)
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(two.x), "=r"(two.y) : "l"(global));
#else
  two = *static_cast<const uint2*>(global);
#endif
  return two;
}

// y0 += factor · x0 and y1 += factor · x1, each rounded once; from sm_100 on one instruction.
__device__ __forceinline__ void fma_both(float& y0, float& y1, float factor, float x0, float x1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  asm("{\n"
      ".reg .b64 y, factors, x;\n"
      "mov.b64 y, {%0, %1};\n"
      "mov.b64 factors, {%2, %2};\n"
      "mov.b64 x, {%3, %4};\n"
      "fma.rn.f32x2 y, factors, x, y;\n"
      "mov.b64 {%0, %1}, y;\n"
      "}"
      : "+f"(y0), "+f"(y1)
      : "f"(factor), "f"(x0), "f"(x1));
#else
  y0 = __fmaf_rn(factor, x0, y0);
  y1 = __fmaf_rn(factor, x1, y1);
#endif
}

// a · b + c of pairs of bf16, each rounded once.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
#else
  const auto low = [](uint32_t x) { return __uint_as_float(x << 16); };
  const auto high = [](uint32_t x) { return __uint_as_float(x & 0xffff0000u); };
  return pack<__nv_bfloat16>(__fmaf_rn(low(a), low(b), low(c)), __fmaf_rn(high(a), high(b), high(c)));
#endif
}

// A signed byte of a word, exactly: 2^23 + 128 + byte is an f32.
template <int kByte>
__device__ __forceinline__ float signed_byte(uint32_t bytes) {
  const uint32_t biased = __byte_perm(bytes ^ 0x80808080u, 0x4b000000u, 0x7540 + kByte);
  return __fsub_rn(__uint_as_float(biased), 0x1p23f + 128);
}

// 2^x with a relative error of at most 2^-22; exact at 0, 0 at -infinity and where the result is subnormal.
__device__ __forceinline__ float exp2_approximate(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::exp2(x);
  if (y < 0x1p-126f) return 0.0f;
  return __uint_as_float(__float_as_uint(y) & ~1u);  // the last bit is nobody's
#endif
}

// d += a · b on the tensor cores: a [16 m, 16 k], b [16 k, 8 n] of T (bf16 or f16), d [16 m, 8 n] of f32.
// Lane l, with g = l / 4 and t = l % 4, holds (low half first)
//   a  (g, 2t..2t+1), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)      b  (2t..2t+1, g), (2t + 8.., g)
//   d  (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  struct Lane {
    float d[4];
    uint32_t a[4], b[2];
  };
  constexpr auto kType = std::is_same_v<T, __half> ? emulation::HalfType::f16 : emulation::HalfType::bf16;
  Lane lane{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emulation::warp_op(emulation::kFullWarp, lane, [](const emulation::Lanes<Lane>& lanes) {
    uint16_t rows[16][16], columns[8][16];  // a by rows, b by columns: k is contiguous in both
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4;
      for (int i = 0; i < 8; ++i) {  // element i of the lane's four registers of a, two of b
        const int k = 2 * t + i % 2 + (i / 4) * 8;
        const int shift = 16 * (i % 2);
        rows[g + (i / 2 % 2) * 8][k] = static_cast<uint16_t>(lanes[l]->a[i / 2] >> shift);
        if (i / 2 % 2 == 0) columns[g][k] = static_cast<uint16_t>(lanes[l]->b[i / 4] >> shift);
      }
    }
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        const uint16_t* row = rows[l / 4 + (i / 2) * 8];
        const uint16_t* column = columns[2 * (l % 4) + i % 2];
        lanes[l]->d[i] = emulation::tensor_core_dot<kType>(lanes[l]->d[i], row, column, 16);
      }
    }
  });
  for (int i = 0; i < 4; ++i) d[i] = lane.d[i];
#endif
}

}  // namespace tuili::cuda::ptx
