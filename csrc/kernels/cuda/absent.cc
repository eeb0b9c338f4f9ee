// A build without CUDA: each launcher throws.
#include "base/check.h"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

[[noreturn]] int absent(const char* op) {
  throw Error(ErrorKind::invalid_parameter,
              join(op, ": tuili was built without CUDA; use device \"cpu\", or build with -DTUILI_CUDA=ON"));
}

}  // namespace

int rms_norm(Stream, float*, const float*, const float*, int64_t, int64_t, float) {
  return absent("rms_norm");
}
int rms_norm(Stream, bf16*, const bf16*, const float*, int64_t, int64_t, float) { return absent("rms_norm"); }
int gemm(Stream, float*, const bf16*, const bf16*, int64_t, int64_t, int64_t) { return absent("gemm"); }
int gemm(Stream, bf16*, const bf16*, const bf16*, int64_t, int64_t, int64_t) { return absent("gemm"); }

}  // namespace tuili::cuda
