// Integer dot products of the vocabulary (see simd_generic.h) where a product of 4 k is summed in int32 at
// once, as everywhere but on AVX2: sums are exact for any number of quads, and are what `dot` adds to.
#pragma once

namespace tuili::cpu::TUILI_ISA {
namespace {

using Partial = Ints;
using SubScales = Ints;
struct Words {
  static constexpr bool kAreUsed = false;
};

// How many quads of codes below 2^bits (8: signed) may be added to a Partial before it is widened.
constexpr int run_length(int) { return 8; }

TUILI_INLINE Partial no_sum() { return splat_int(0); }
TUILI_INLINE Partial sum_from(Ints start) { return start; }
TUILI_INLINE Ints completed(Ints run, Ints) { return run; }
TUILI_INLINE Ints widen(Partial sum) { return sum; }
TUILI_INLINE Ints accumulate(Ints total, Ints run) { return total + run; }
TUILI_INLINE SubScales sub_scales(Ints s) { return s; }

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
