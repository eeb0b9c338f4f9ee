// The one symbol of an instruction set's object file: its table. Included last by isa_*.cc, after the
// vocabulary.
#include "kernels/cpu/kernels.h"

// clang-format off: each needs those before it
#include "kernels/cpu/math.inl"
#include "kernels/cpu/quant.inl"
#include "kernels/cpu/gemm.inl"
#include "kernels/cpu/gemm_quant.inl"
#include "kernels/cpu/elementwise.inl"
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/kv_write.inl"
// clang-format on

#define TUILI_QUOTED(x) #x
#define TUILI_NAME(x) TUILI_QUOTED(x)

namespace tuili::cpu::TUILI_ISA {

extern const Kernels kTable;
const Kernels kTable = {
    .isa = TUILI_NAME(TUILI_ISA),
    .gemm_float = gemm_float,
    .gemm_int8 = gemm_int8,
    .quantize_rows = quantize_rows,
    .embed = embed,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rope = rope,
    .kv_write = kv_write,
    .attention = attention,
    .attention_split = attention_split,
    .attention_merge = attention_merge,
    .activate = activate,
    .xielu = xielu,
    .add = add,
    .softcap = softcap,
    .softmax_stats = softmax_stats,
    .exp_shifted = exp_shifted,
    .mean_rows = mean_rows,
    .l2_normalize = l2_normalize,
};

}  // namespace tuili::cpu::TUILI_ISA
